"""Out-of-memory errors, which are a result of an arm on any of its ranks, and never a crash."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception reports too little memory of device or machine."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def said(error: BaseException) -> str:
    """Return the first line of an exception's message, or its name without one."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Raise MemoryError on all ranks when one runs out of memory, so that none waits for it.

    The body must not contain collective operations. A single rank raises its own exception.
    """
    several = dist.is_initialized() and dist.get_world_size() > 1
    short = torch.zeros(1, device=device)  # allocated while there is memory
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not several or not out_of_memory(error):
            raise
        short += 1
    if several:
        dist.all_reduce(short)
        if short:
            raise MemoryError(f"{int(short)} of {dist.get_world_size()} ranks are out of memory")
