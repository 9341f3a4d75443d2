"""No process outlives the one that started it, not even when that one is killed with SIGKILL.

vLLM's engine core survives a `kill -9` of its API server. On Linux the kernel can be asked to pass the death on (prctl(2)).
"""

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit now if the parent is already gone.

    `parent` is the expected parent's process id; by default that of the `multiprocessing` parent, if there is one. The request
    survives exec but not fork, so every process of a tree has to make it. Does nothing where the kernel is not Linux.
    """
    if _LIBC is None:
        return
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    started_by = multiprocessing.parent_process()
    expected = parent if parent is not None else started_by.pid if started_by is not None else os.getppid()
    if os.getppid() != expected:
        os._exit(1)
