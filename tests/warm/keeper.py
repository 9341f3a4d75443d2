"""A process that has imported the libraries of jobs and forks the jobs, which saves ten seconds of imports per job.

A forked job has its own arguments, environment, working directory and streams, and imports the modules of the repository itself. It ends
with the process that it stands for, and receives its signals.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "SPEC_DECODE_TUNE_TEST_KEEPER"


@contextmanager
def kept() -> Iterator[dict[str, str]]:
    """Start a keeper; yield the environment variables by which Python processes are handed to it. It ends with this process."""
    with tempfile.TemporaryDirectory(prefix="keeper-") as folder:
        path = str(Path(folder, "socket"))
        command, one = [sys.executable, __file__, path], {"OMP_NUM_THREADS": "1"}
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | one) as process:
            assert process.stdin and process.stdout and process.stdout.readline()
            yield {VARIABLE: path, "PYTHONPATH": str(Path(__file__).parent)}
            process.stdin.close()


def main(path: str) -> None:
    """Fork a job for each connection until stdin ends."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        load()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            if not os.fork():
                listening.close()
                keep(connection)
            connection.close()


def load() -> None:
    """Import libraries of jobs. A fork has none of the threads that they may have started; jemalloc's knows about forks."""
    import pandas
    import pydantic
    import scipy.stats
    import snakemake.cli
    import snakemake.script
    import speculators.train.cli
    import torch.distributed.launcher.api
    import transformers

    transformers.LlamaForCausalLM  # noqa: B018 - it is imported when it is named
    loaded = (pandas, pydantic, scipy, snakemake, speculators, torch)
    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")} - {"jemalloc_bg_thd"}
    assert len(threads) == 1 and loaded, threads


def keep(connection: socket.socket) -> None:
    """Run a job in a child, tell its pid and how it ended, and kill it when the other side is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    length = int.from_bytes(size, "big")
    words = connection.makefile("rb").read(length)
    if not words or len(words) < length:
        os._exit(0)  # the other side was killed while it spoke
    job = os.fork()
    if not job:
        connection.close()
        become(json.loads(words), streams)
    ended = os.pidfd_open(job)
    with suppress(BrokenPipeError):
        connection.sendall(f"{job}\n".encode())
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(job, signal.SIGKILL)
    _, status = os.waitpid(job, 0)
    with suppress(BrokenPipeError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(handed: dict, streams: list[int]) -> None:
    """Go on as the process whose words these are."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(handed["cwd"])
    os.environ.clear()
    os.environ.update(handed["environ"])
    status = 1
    try:
        if handed["words"][0] == "-m":
            _, module, *arguments = handed["words"]
            sys.argv, sys.path = [module, *arguments], [handed["cwd"], *handed["path"]]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            (script,) = sys.argv = handed["words"]
            sys.path = [str(Path(script).parent), *handed["path"]]
            runpy.run_path(script, run_name="__main__")
        status = 0
    except SystemExit as asked:
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        if isinstance(asked.code, str):
            print(asked.code, file=sys.stderr)
    except BaseException:  # as the interpreter does at its end
        sys.excepthook(*sys.exc_info())
    finally:
        finish(status)


def finish(status: int) -> None:
    """End as the interpreter does: threads, exit handlers, streams."""
    import atexit
    import threading

    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
