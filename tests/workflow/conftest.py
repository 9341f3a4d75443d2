"""One finished small run that every test may look at."""

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.workflow.clones import Clone, clone

SECRET = "hush-hush-4711"
PLANTED = (
    *(f"{name}={SECRET}" for name in ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY")),
    *(f"{name}=http://me:{SECRET}@127.0.0.1:9" for name in ("http_proxy", "HTTPS_PROXY", "AWS_ENDPOINT_URL_S3")),
)
"""What the environment of the finished run holds. None of it is for a local run."""


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
            kubeconfig = shared / "kubeconfig"
            kubeconfig.write_text(json.dumps({"users": [{"name": "me", "user": {"token": SECRET}}]}))
            done.write_text(one.snakemake(prefix=("env", *PLANTED, f"KUBECONFIG={kubeconfig}")).stdout)
    return one


@pytest.fixture
def said(finished: Clone) -> str:
    """What the finished run said, both streams."""
    return finished.root.with_suffix(".done").read_text()
