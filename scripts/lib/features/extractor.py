"""The interface of an engine that answers prompts and yields hidden states."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Extractor(Protocol):
    """An engine that is extracting. All methods raise a UserError when it fails, and may be called by several threads."""

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until requests are answered."""

    def context(self) -> dict[str, Any]:
        """Return what the engine reports about itself."""

    def answer(self, prompt: Sequence[int], most: int, stop: Sequence[int], sampling: Mapping[str, Any]) -> list[int]:
        """Return the target's answer. It ends with a token of `stop` or has `most` tokens."""

    def states(self, tokens: Sequence[int]) -> "Tensor":
        """Return the outputs [T, layers, H] of the layers at the tokens."""

    def next_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return the target's most likely token after each of the tokens except the last."""
