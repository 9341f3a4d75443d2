"""Commands that resume a run are complete and contain no secrets."""

import shlex
import sys
from argparse import Namespace

import pytest
from lib.invocation import again, command, configfiles, tell_local_jobs


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is told to jobs be forgotten."""
    for name in ("SPEC_DECODE_TUNE_PROFILES", "SPEC_DECODE_TUNE_CONFIGFILES"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize(
    ("given", "goes_on", "other", "files"),
    [
        ("", "--config a=1", "--config a=1", []),
        (
            "--profile gb300 --config ack_train=r 'search={arms: 3}' --jobs 2",
            "--profile gb300 --config ack_train=r 'search={arms: 3}' a=1",
            None,
            ["c.yaml"],
        ),
        ("--profile gb300 --configfile c.yaml", "--profile gb300 --configfile c.yaml --config a=1", "--profile gb300 --config a=1", []),
        ("--configfile c.yaml all --storage-s3-experiment-secret-key=x", "--configfile c.yaml all --config a=1", "--config a=1", []),
    ],
)
def test_a_command_repeats_profile_and_configuration(
    given: str, goes_on: str, other: str | None, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["snakemake", *shlex.split(given)])
    tell_local_jobs(Namespace(configfile=["c.yaml"] if "c.yaml" in given or files else None))
    assert again(["a=1"]) == f".venv/bin/snakemake {goes_on}"
    assert command(["a=1"]) == f".venv/bin/snakemake {other or '--profile gb300 --config a=1'}"
    assert configfiles() == files
