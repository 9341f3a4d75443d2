"""Running out of memory, which is a result of an arm and never a crash, whichever of its ranks it meets."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory, the device's or the machine's, did not suffice."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def said(error: BaseException) -> str:
    """Return the first line of what an exception says, or else its name."""
    return next(iter(str(error).splitlines()), type(error).__name__)


@contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Let all ranks run out of memory when one of them does, so that none waits for its share.

    What is done within holds no collective operation of its own. Raises MemoryError on every rank; a rank alone raises what it met.
    """
    several = dist.is_initialized() and dist.get_world_size() > 1
    short = torch.zeros(1, device=device)  # taken while there is memory
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
