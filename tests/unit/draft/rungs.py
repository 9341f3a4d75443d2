"""Rungs for tests: an arm over the tiny target, and a separate process that can be killed."""

import multiprocessing
import os
import pickle
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch.distributed as dist
from lib.arm import Arm, Layout
from lib.config import Point, Recipe, Streaming
from lib.draft import rung as module
from lib.draft.rung import Places, run_rung
from lib.methods import Draft, read_draft
from lib.records.measurement import ProxyRecord, read_record
from torch.distributed.launcher.api import LaunchConfig

ALONE, TWO_RANKS = Layout(1, 2, 2), Layout(2, 2, 1)
SCRIPT = """
import pickle, sys, time
from functools import partial
from pathlib import Path
from lib.draft import rung as module
from lib.draft.rung import run_rung
from lib.script import running
train_rung = module.train_rung
module.train_rung = lambda *given: train_rung(*given[:-1], given[-1] and (lambda *step: (given[-1](*step), time.sleep(0.5))))
arm, rung, places, streaming, method = pickle.loads(Path(sys.argv[1]).read_bytes())
module.LaunchConfig = partial(module.LaunchConfig, start_method=method)
with running(places.log):
    run_rung(arm, rung, places, streaming)
"""


def make_head(method: str, **options: Any) -> Draft:
    """Return a head for the tiny target, DFlash with few anchors."""
    own = {"anchors": 6, "mask_token_id": 2} if method == "dflash" else {}
    return read_draft({"method": method, "aux_layers": (1, 2, 3), **own, **options})


def make_arm(
    layout: Layout,
    lr: float = 2e-3,
    method: str = "eagle3",
    rungs: tuple[int, ...] = (10, 24),
    *,
    draft: Draft | None = None,
    training: Recipe | None = None,
    warmup: float = 0.0,
    seed: int = 0,
) -> Arm:
    recipe = {
        "features": "f",
        "target": "t",
        "draft": (draft or make_head(method)).model_dump(mode="json"),
        "training": (training or Recipe()).model_dump(mode="json"),
        "rungs": list(rungs),
    }
    global_batch = layout.ranks * layout.micro_batch * layout.accumulation
    return Arm(Point(global_batch=global_batch, lr=lr, warmup=warmup, accum=layout.accumulation), seed, layout, recipe)


def run(arm: Arm, rung: int, places: Places, streaming: Streaming | None = None) -> ProxyRecord:
    """Run a rung in this process. Several ranks are forks of it, which need not import anything."""
    with patch.object(module, "LaunchConfig", partial(LaunchConfig, start_method="fork")):
        run_rung(arm, rung, places, streaming or Streaming())
    return read_record(places.acc_out, ProxyRecord)


def start(arm: Arm, rung: int, places: Places, streaming: Streaming, method: str = "fork") -> "subprocess.Popen[bytes]":
    """Run a rung in a process group of its own, a single rank at two steps a second at most, so that it can be met midway.

    What it says goes to a file beside its log, with the suffix .out. Users' ranks are started by the `method` spawn.
    """
    job = places.log.with_suffix(".job")
    job.parent.mkdir(parents=True, exist_ok=True)
    job.write_bytes(pickle.dumps((arm, rung, places, streaming, method)))
    paths = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3] / "scripts")}
    with places.log.with_suffix(".out").open("w") as out:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(job)], env=paths, start_new_session=True, stdout=out, stderr=out)


def wait_until(there: Callable[[], bool], process: "subprocess.Popen[bytes]", seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def in_no_memory(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs where no tensor finds room: what is free is taken first, and given back at the end."""

    def run(*arguments: Any, **options: Any) -> Any:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used, hard))
        taken = []
        try:
            for size in (2**20, 2**16, 2**12):
                with suppress(MemoryError):
                    while True:
                        taken.append(bytearray(size))
            return function(*arguments, **options)
        finally:
            taken.clear()
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return run


def on_ranks(ranks: int, task: Callable[..., None], *arguments: Any) -> None:
    """Run `task` in one process, or in several under the variables that torchrun sets. Forked: the imports are there already."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_as_rank, args=(rank, ranks, port, task, arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0


def _as_rank(rank: int, ranks: int, port: int, task: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    task(*arguments)
    if ranks > 1:
        dist.destroy_process_group()
