"""Files planted in the bucket: only data of the run is fetched, and nothing else is written or run."""

import io
import json
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from snakemake_storage_plugin_s3_experiment import LISTING, WHOLE, StorageProvider

from tests.cluster.controller import Controller
from tests.cluster.emulator import Emulator
from tests.cluster.front import Request
from tests.cluster.test_storage import connect
from tests.s3 import S3Server

OUTSIDE = Path(tempfile.gettempdir()) / "planted-by-a-test.json"
PREFIX = "s3://bucket/team/run1/."
HONEST = {
    "results/a/head/config.json",
    f"results/a/head/{WHOLE}",
    "results/a/rung0.acc",
    "results/a/rung0.state/head/model.safetensors",
    "results/ledger.parquet",
    "results/logs/train_rung/gb32-lr3e-4-wu0.05-s0-1f3a9c.rung0.log",
    "results/report/verdict.html",
    "results/search/s1=2,x@y/rung0.json",
    "results/verdict.json",
    "resources/features-1f3a9c/train/data-00000-of-00001.arrow",
}
RECORDS = {path for path in HONEST if path.startswith("results/") and "/head/" not in path and ".state/" not in path}
CODE = ["Snakefile", "rules/common.smk", "scripts/x.py", "sitecustomize.py", "config/config.yaml", ".snakemake/iocache/latest.pkl"]
OWN = ["results/bucket.txt", "results/spec-decode-tune.lock", str(LISTING)]
ASTRAY = {
    "up": "../planted.json",
    "up from results": "results/../planted.json",
    "up and out": "results/../../planted.json",
    "here": "results/./planted.json",
    "ends up": "results/..",
    "absolute": str(OUTSIDE),
    "two absolute": "//planted.json",
    "empty part": "results//planted.json",
    "line end": "results/a\nplanted.json",
    "last line end": "results/planted.json\n",
    "null": "results/a\0planted.json",
    "terminal": "results/\x1b[2Jplanted.json",
    "backwards": "results/a\u202enosj.planted.json",
    "backslash": "results\\..\\planted.json",
    "hidden": "results/.planted.json",
    "in hidden": "results/.git/planted.json",
    "long": f"results/{'a' * 255}.json",
    "other case": "results/Bucket.txt",
    "other root": "Results/planted.json",
    "beside": "results.json",
}
UNTAKEN = ["results/x.py", "results/a/x.sh", "results/a/model.pkl", "results/plan", "results/json"]
"""Nothing takes these from a listing, though a rule may write them: they are not worth a warning."""
IN_THE_WAY = ["results/verdict.json/planted.json", "results/linked/planted.json", "results/folder.json", "results/link.json"]


class _Bucket(ThreadingHTTPServer):
    """An S3 server that lists whatever keys it is given, as no file system could hold them; each object reads `planted`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.keys: list[str] = []
        self.daemon_threads = True


class _Answer(BaseHTTPRequestHandler):
    server: _Bucket

    def do_GET(self) -> None:
        """List, or return an object."""
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        self._send(self._list(query["prefix"][0], int(query.get("continuation-token", "0")[0])) if "prefix" in query else b"planted")

    def do_HEAD(self) -> None:
        """Return that an object is there if it is."""
        there = unquote(self.path.removeprefix("/bucket/")) in self.server.keys
        self._send(b"planted", 200 if there or self.path == "/bucket" else 404)

    def _list(self, prefix: str, first: int) -> bytes:
        keys = sorted(key for key in self.server.keys if key.startswith(prefix))
        page, last = keys[first : first + 1000], first + 1000
        when = "<LastModified>2030-01-01T00:00:00Z</LastModified><Size>7</Size>"
        listed = "".join(f"<Contents><Key>{quote(key)}</Key>{when}</Contents>" for key in page)
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>" if last < len(keys) else ""
        return f"<ListBucketResult><EncodingType>url</EncodingType>{more}{listed}</ListBucketResult>".encode()

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"planted"')
        self.send_header("Last-Modified", formatdate(1893456000, usegmt=True))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone, where the controller runs, with links and folders of its user's in the way of some keys."""
    clone = tmp_path / "clone"
    for path in (*CODE, *OWN):
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        (clone / path).write_text("ours")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/linked.json").write_text("ours")
    (clone / "results/linked").symlink_to(tmp_path / "elsewhere")
    (clone / "results/link.json").symlink_to(tmp_path / "elsewhere/linked.json")
    (clone / "results/folder.json").mkdir()
    monkeypatch.chdir(clone)
    OUTSIDE.unlink(missing_ok=True)
    return clone


@pytest.fixture
def planted() -> Iterator[_Bucket]:
    """Return a bucket that lists whatever it is told to."""
    with _Bucket() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def provider(planted: _Bucket, clone: Path) -> StorageProvider:  # noqa: ARG001 - where it is made is where it writes
    """Return the storage of the run in that bucket."""
    return connect(f"http://127.0.0.1:{planted.server_address[1]}")


def tree(root: Path) -> dict[str, str]:
    """Return all files but the listing, those behind links where they are."""
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file() and path.name != LISTING.name}


def keys(*paths: str) -> list[str]:
    return [f"team/run1/{path}" for path in paths]


def test_of_all_that_is_listed_only_records_of_the_run_are_written(
    planted: _Bucket, provider: StorageProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = [*CODE, *OWN[:1], *OWN[2:], *ASTRAY.values()]
    planted.keys = keys(*refused, *OWN, *UNTAKEN, *IN_THE_WAY, *HONEST, "", "results/", "results//")
    before = tree(tmp_path)
    for _ in range(2):
        provider.pull(PREFIX)
    assert tree(tmp_path) == before | {f"clone/{path}": "planted" for path in RECORDS}
    assert set(json.loads(LISTING.read_text())["known"]) == set(provider.known) == {*HONEST, *UNTAKEN, *IN_THE_WAY, OWN[1]}
    assert not OUTSIDE.exists()
    told = [line for line in caplog.messages if "no data of a run" in line]
    assert len(told) == 1 and told[0].endswith(f" and {len(refused) - 3} more") and told[0].isprintable()
    assert len(caplog.messages) == 2 and "in the way here: 'results/folder.json', 'results/link.json', " in caplog.text


@pytest.mark.parametrize("path", ASTRAY.values(), ids=ASTRAY)
def test_a_path_that_a_planted_decision_could_name_is_not_there(
    path: str, planted: _Bucket, provider: StorageProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    planted.keys = keys(path, f"{path}/{WHOLE}")
    before = tree(tmp_path)
    asked = provider.object(f"s3://bucket/team/run1/./{path}")
    assert not asked.exists()
    with pytest.raises(FileNotFoundError):
        asked.retrieve_object()
    assert tree(tmp_path) == before and not OUTSIDE.exists()
    assert len(caplog.messages) == 1 and ascii(path) in caplog.messages[0]


def test_of_a_directory_only_data_is_fetched(
    planted: _Bucket, provider: StorageProvider, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refused = ["../../../Snakefile", "../planted.json", str(OUTSIDE), "a//b.json", "config.py", "model.bin", "a\nb.json"]
    honest = ["config.json", "model.safetensors", "vocabulary/merges.txt", WHOLE]
    planted.keys = keys(*(f"results/a/head/{name}" for name in refused + honest), "results/a/head/config.json/planted.json")
    before = tree(tmp_path)
    provider.object("s3://bucket/team/run1/./results/a/head").retrieve_object()
    assert tree(tmp_path) == before | {f"clone/results/a/head/{name}": "planted" for name in honest}
    assert len(caplog.messages) == 1 and caplog.messages[0].endswith(f" and {len(refused) + 1 - 3} more")


def test_no_directory_passes_for_the_sources(planted: _Bucket, provider: StorageProvider, tmp_path: Path) -> None:
    archive = f"snakemake-workflow-sources.{'0' * 64}.tar.xz"
    planted.keys = keys(f"{archive}/{WHOLE}", f"{archive}/../json.py")
    before = tree(tmp_path)
    with pytest.raises(FileNotFoundError):
        provider.object(f"s3://bucket/team/run1/./{archive}").retrieve_object()
    assert tree(tmp_path) == before


def test_nothing_is_written_through_a_results_folder_that_is_a_link(planted: _Bucket, provider: StorageProvider, tmp_path: Path) -> None:
    Path("results").rename(tmp_path / "other")
    Path("results").symlink_to(tmp_path / "other")
    planted.keys = keys(*HONEST)
    before = tree(tmp_path)
    provider.pull(PREFIX)
    with pytest.raises(FileNotFoundError):
        provider.object("s3://bucket/team/run1/./results/a/head").retrieve_object()
    assert tree(tmp_path) == before


def test_many_keys_cost_one_line(planted: _Bucket, provider: StorageProvider, caplog: pytest.LogCaptureFixture) -> None:
    planted.keys = keys(*(f"junk/{number}.json" for number in range(10_000)), "results/verdict.json")
    provider.pull(PREFIX)
    assert Path("results/verdict.json").exists() and not Path("junk").exists()
    assert len(caplog.messages) == 1 and len(caplog.messages[0]) < 200 and "and 9997 more" in caplog.messages[0]


@pytest.mark.emulated("the objects of a real bucket are not this test's")
def test_a_real_server_is_believed_as_little(s3_server: S3Server, clone: Path) -> None:
    provider = connect(s3_server.endpoint)
    for path in (*CODE, *OWN, "results/a\nplanted.json", "results/a/rung0.acc"):
        s3_server.store.write(f"team/run1/{path}", b"planted")
    before = tree(clone)
    provider.pull(PREFIX)
    assert tree(clone) == before | {"results/a/rung0.acc": "planted"}


def test_a_job_runs_only_the_sources_that_its_controller_has_sent(cluster: Emulator, controller: Controller) -> None:
    """The archive in the bucket is exchanged after it was sent and before the job reads it; its name stays."""

    def exchange(request: Request) -> None:
        if request.verb == "create" and request.kind == "jobs":
            (archive,) = (path for path in controller.store.read() if "workflow-sources" in path)
            controller.store.write(archive, content.getvalue())
            exchanged.append(archive)

    marker = controller.work / "planted"
    content, exchanged = io.BytesIO(), list[str]()
    with tarfile.open(fileobj=content, mode="w:xz") as archive:
        for name in ("Snakefile", "json.py", "sitecustomize.py"):
            code = f"open({str(marker)!r}, 'w').close()\n".encode()
            told = tarfile.TarInfo(name)
            told.size = len(code)
            archive.addfile(told, io.BytesIO(code))
    cluster.faults.append(exchange)
    assert controller.run("results/a/rung0.acc", "--config", "arms=a") == 1
    assert exchanged and not marker.exists()
    (log,) = (controller.work / ".snakemake/auxiliary/kubernetes-logs").iterdir()
    assert "does not match expected checksum" in " ".join(log.read_text().split())
