"""Answers and hidden states of a target from a vLLM server that `lib.serving.vllm.engine.extracting` has started."""

import fcntl
import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lib.serving.engine import EngineError
from lib.serving.vllm.driver import MODEL

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT_S = 3600.0
"""Seconds that one request may take. It waits its turn in the server."""


class Server(Protocol):
    """A vLLM server."""

    def await_health(self, timeout_s: float) -> None:
        """Wait until it answers."""

    def ask(self, path: str, body: Any = None, timeout_s: float = 60) -> str:
        """POST `body` to `path` and return the answer's text."""

    def context(self) -> dict[str, Any]:
        """Return what the server reports about itself."""

    def failure(self, what: str) -> EngineError:
        """Return an error with the event and its reason."""


class Extractor:
    """The server of an extraction. Several threads may ask it at once."""

    def __init__(self, server: Server, layers: int, folder: Path) -> None:
        self._server, self._layers, self._folder = server, layers, folder
        self.wait_until_ready = server.await_health
        self.context = server.context

    def answer(self, prompt: Sequence[int], most: int, stop: Sequence[int], sampling: Mapping[str, Any]) -> list[int]:
        """Return the target's answer. It ends with a token of `stop` or has `most` tokens."""
        asked = {"max_tokens": most, "stop_token_ids": list(stop), "ignore_eos": True, **sampling}
        answered: list[int] = self._complete(prompt, asked)["token_ids"]
        return answered

    def states(self, tokens: Sequence[int]) -> "Tensor":
        """Return the target's hidden states [T, layers, H] at the tokens. Raises EngineError when the engine does not yield them."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load
        from spec_decode_tune_vllm.connector import PATH

        file = self._folder / f"{secrets.token_hex(8)}.safetensors"
        lock = file.with_name(f"{file.name}.lock")
        try:
            self._complete(tokens, {"max_tokens": 1, "temperature": 0, "kv_transfer_params": {PATH: str(file)}})
            with lock.open() as handle:
                fcntl.flock(handle, fcntl.LOCK_SH)  # the server holds it until the file is written
            found = load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise self._server.failure(f"vLLM did not write hidden states to {self._folder} ({error}); is the disk full?") from None
        finally:
            file.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)
        states = found["hidden_states"]
        extracted, expected = list(states.shape[:2]), [len(tokens), self._layers]
        if extracted != expected:
            raise self._server.failure(
                f"vLLM extracted {extracted} tokens and layers, not {expected}; it does not emit all layers of this target"
            )
        if found["token_ids"].tolist() != list(tokens) or not torch.isfinite(states).all():
            raise self._server.failure("vLLM extracted hidden states that are infinite or belong to other tokens")
        return states

    def next_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return the target's most likely token after each of the tokens except the last."""
        asked = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 1, "return_tokens_as_token_ids": True}
        places = self._complete(tokens, asked)["prompt_logprobs"][1:]
        return [next(int(token) for token, found in place.items() if found["rank"] == 1) for place in places]

    def _complete(self, prompt: Sequence[int], asked: Mapping[str, Any]) -> Any:
        body = {"model": MODEL, "prompt": list(prompt), "return_token_ids": True, **asked}
        return json.loads(self._server.ask("/v1/completions", body, TIMEOUT_S))["choices"][0]
