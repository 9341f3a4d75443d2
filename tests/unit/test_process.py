"""A job ends with its controller only. A PID is meaningless on another machine, after a reboot or in another container."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lib import spending
from lib.process import identity, pid_here
from lib.script import CONTROLLER
from snakemake_executor_plugin_kubernetes_experiment import lease, names

JOB = "import sys, time; sys.path.insert(0, 'scripts'); from lib.script import die_with_controller; die_with_controller(); time.sleep(2.5)"


def test_the_executor_and_the_workflow_name_a_process_and_an_acknowledgement_alike() -> None:
    assert identity() == lease.identity()
    assert (spending.RUN_ID, spending.ACKNOWLEDGED) == (names.RUN_ID_VARIABLE, names.ACKNOWLEDGED_VARIABLES)


@pytest.mark.parametrize("place", [0, 1])
def test_a_pid_of_another_machine_or_boot_is_none_of_this_one(place: int) -> None:
    parts = identity().split("/")
    assert pid_here(identity()) == os.getpid()
    parts[place] += "x"
    assert pid_here("/".join(parts)) is None
    assert pid_here("") is None and pid_here("123") is None


def run(controller: str) -> int:
    """Return the exit status of a job that takes longer than it needs to see that its controller is gone."""
    return subprocess.run([sys.executable, "-c", JOB], cwd=Path(__file__).parents[2], env=os.environ | {CONTROLLER: controller}).returncode


def test_a_job_dies_with_a_controller_of_its_machine_and_watches_no_other() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    host, space, _ = identity().split("/")
    assert run(f"{host}/{space}/{gone.pid}") == -9
    assert run(f"another/{space}/{gone.pid}") == 0
