"""One finished small run that every test may look at."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.workflow.clones import Clone, clone


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Clone:
    """A clone in which the small run has finished, made once for all workers of the test run. Tests must not change it.

    Test runs of the same sources share it if SPEC_DECODE_TUNE_TEST_SHARED names a folder for it.
    """
    temporary = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    shared = Path(os.environ.get("SPEC_DECODE_TUNE_TEST_SHARED") or temporary)
    one, done = Clone(shared / "finished"), shared / "finished.done"
    with FileLock(shared / "finished.lock"):
        if not done.exists():
            clone(one.root)
            done.write_text(one.snakemake().stdout)
    return one


@pytest.fixture
def said(finished: Clone) -> str:
    """What the finished run said, both streams."""
    return finished.root.with_suffix(".done").read_text()
