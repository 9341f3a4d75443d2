"""A finished small run that all tests share."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.warm.keeper import kept
from tests.workflow.clones import KEPT, Clone, clone

SECRET = "hush-hush-4711"
PLANTED = {
    **dict.fromkeys(("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "OPENAI_API_KEY", "VLLM_API_KEY"), SECRET),
    **dict.fromkeys(("http_proxy", "HTTPS_PROXY", "AWS_ENDPOINT_URL_S3"), f"http://me:{SECRET}@127.0.0.1:9"),
}
"""What the environment of the finished run holds. None of it is for a local run."""


@pytest.fixture(scope="session", autouse=True)
def keeper() -> Iterator[None]:
    """Make the runs of `Clone.snakemake` forks of a process that has the libraries imported."""
    with kept() as variables:
        KEPT.update(variables)
        yield
        KEPT.clear()


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
            done.write_text(one.snakemake(variables=PLANTED | {"KUBECONFIG": str(kubeconfig)}).stdout)
    return one


@pytest.fixture
def said(finished: Clone) -> str:
    """What the finished run said, both streams."""
    return finished.root.with_suffix(".done").read_text()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A finished small run with the stub engine, whose features and so arms have other names than those of vLLM."""
    one = clone(tmp_path_factory.mktemp("undisturbed") / "clone", stub=True)
    one.snakemake()
    return one
