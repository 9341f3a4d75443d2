"""An engine for tests that do not test serving. It reads the head, sends nothing, and computes counters by a rule.

A test copies it into a clone as the folder `stub` of lib/serving, and selects it by `serving.engine=stub`.
The further training has moved the head's weights, the more of its tokens are accepted. The same head gives the same counters. Answers and
hidden states are real, by transformers.
"""

import hashlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from lib.records.measurement import Acceptance, Run
from lib.serving.counters import SpeculationCounters
from lib.serving.engine import Answers, EngineSettings, Speculation
from lib.serving.exported import require_alike
from lib.serving.workload import Workload
from safetensors.torch import load_file


@dataclass
class Stub:
    """What has been counted for a head whose drafted tokens are accepted at `rate` each."""

    target: Path
    speculation: Speculation
    settings: EngineSettings
    rate: float = 0
    counted: SpeculationCounters = field(init=False)

    def __post_init__(self) -> None:
        self.counted = SpeculationCounters(0, 0, 0, (0,) * self.speculation.k)
        self._read()

    def _read(self) -> None:
        tensors = load_file(self.speculation.path / "model.safetensors")
        weights = [tensor for tensor in tensors.values() if tensor.is_floating_point()]
        size = sum(float(tensor.float().abs().sum()) for tensor in weights) / sum(tensor.numel() for tensor in weights)
        self.rate = size / (size + 0.05)

    def exchange(self, head: Path) -> None:
        """Read another head."""
        require_alike(self.speculation.path, head)
        self.speculation = replace(self.speculation, path=head)
        self._read()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return at once."""

    def context(self) -> dict[str, Any]:
        """Return the settings, and what else a record wants to know."""
        asked = self.settings
        return {
            "engine": "stub",
            "bench_backend": "stub",
            "vllm": "none",
            "commit": None,
            "repairs": [],
            "python": platform.python_version(),
            "torch": "none",
            "target": str(self.target),
            "draft": str(self.speculation.path),
            "method": self.speculation.method,
            "num_speculative_tokens": self.speculation.k,
            "device_type": "cpu",
            "device_name": platform.processor(),
            "dtype": asked.dtype,
            "quantization": None,
            "kv_cache_dtype": "auto",
            "kv_cache_memory_bytes": None,
            "draft_sample_method": None,
            "rejection_sample_method": None,
            "max_num_seqs": asked.max_num_seqs,
            "max_num_batched_tokens": asked.max_num_seqs,
            "max_model_len": asked.max_model_len,
            "gpu_memory_utilization": asked.gpu_memory_utilization or 0.0,
            "block_size": 1,
            "enforce_eager": asked.enforce_eager,
            "cudagraph_mode": None,
            "async_scheduling": False,
            "chunked_prefill": False,
            "prefix_caching": asked.prefix_caching,
            "seed": asked.seed,
            "workers": 1,
            **{f"{kind}_parallel": 1 for kind in ("tensor", "data", "pipeline", "decode_context")},
            "expert_parallel": False,
            "attention_backend": None,
        }

    def counters(self) -> SpeculationCounters:
        """Return what was counted since the start."""
        return self.counted

    def warm_up(self, workload: Workload) -> None:
        """Count nothing."""

    def send(self, workload: Workload, subset: str) -> Answers:
        """Count a subset. A prompt's first words move its own rate a little. It takes STUB_SECONDS of the engine's environment."""
        time.sleep(float(self.settings.environment.get("STUB_SECONDS", 0)))
        prompts = workload.prompts(subset)
        requests = [self._answer(prompt.prompt, workload.output_tokens) for prompt in prompts]
        total = sum(requests[1:], requests[0])
        self.counted += total
        tokens = len(prompts) * workload.output_tokens
        speed = dict.fromkeys(Run.model_fields.keys() - Acceptance.model_fields.keys(), 1.0)
        return Answers(
            requests=requests,
            counted=(total.drafts, total.draft_tokens, total.accepted),
            speed=speed | {"input_tokens": sum(len(prompt.token_ids) for prompt in prompts), "output_tokens": tokens},
            texts=[""] * len(prompts),
        )

    def _answer(self, prompt: str, tokens: int) -> SpeculationCounters:
        k = self.speculation.k
        rate = self.rate * (0.9 + 0.1 * hashlib.sha256(prompt.encode()).digest()[0] / 255)
        positions = [rate**position for position in range(1, k + 1)]
        drafts = max(1, round(100 * tokens / (1 + sum(positions))))
        accepted = tuple(round(drafts * share) for share in positions)
        return SpeculationCounters(drafts, drafts * k, sum(accepted), accepted)


def installed() -> dict[str, str]:
    """Return no version: nothing is installed."""
    return {}


def check(settings: EngineSettings) -> None:
    """Take everything."""


def require_installed() -> None:
    """Return: nothing is needed."""


@contextmanager
def running(target: Path, speculation: Speculation, settings: EngineSettings, log: Path) -> Iterator[Stub]:
    """Read the head's weights."""
    with log.open("a") as output:
        output.write(f"a stub serves {speculation.path}\n")
    yield Stub(target, speculation, settings)


@dataclass
class Reference:
    """Answers and hidden states by transformers, one sequence at a time. An independent computation of what an engine extracts."""

    model: Any
    layers: Sequence[int]
    lock: Any = field(default_factory=Lock)  # a hook sees every thread's use of the model

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return at once."""

    def context(self) -> dict[str, Any]:
        """Return the engine's name."""
        return {"engine": "stub"}

    def answer(self, prompt: Sequence[int], most: int, stop: Sequence[int], sampling: Mapping[str, Any]) -> list[int]:  # noqa: ARG002
        """Return the greedy answer, by the model's own `generate`."""
        asked = torch.tensor([prompt])
        options = {"max_new_tokens": most, "do_sample": False, "eos_token_id": list(stop) or None, "pad_token_id": 0}
        with self.lock:
            generated = self.model.generate(asked, attention_mask=torch.ones_like(asked), **options)
        tokens: list[int] = generated[0, len(prompt) :].tolist()
        return tokens

    @torch.inference_mode()
    def states(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return the layers' outputs, caught by hooks, because a model's own list of hidden states ends with the normalised ones."""
        with self.lock:
            return self._states(tokens)

    def _states(self, tokens: Sequence[int]) -> torch.Tensor:
        decoder = self.model.get_decoder()
        outputs: dict[int, torch.Tensor] = {}

        def keep(layer: int) -> Callable[..., None]:
            def hook(_module: Any, _inputs: Any, output: Any) -> None:
                outputs[layer] = output[0] if isinstance(output, tuple) else output

            return hook

        # The embeddings are layer 0, so layers[k - 1] yields the output of k layers.
        handles = [module.register_forward_hook(keep(k)) for k, module in enumerate([decoder.get_input_embeddings(), *decoder.layers])]
        try:
            decoder(input_ids=torch.tensor([tokens]), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([outputs[layer][0] for layer in self.layers], dim=1)

    @torch.inference_mode()
    def next_tokens(self, tokens: Sequence[int]) -> list[int]:
        """Return the choices of the whole model."""
        with self.lock:
            chosen: list[int] = self.model(torch.tensor([tokens])).logits[0, :-1].argmax(-1).tolist()
        return chosen


def load_target(path: Path) -> Any:
    """Return a target in fp32 on the CPU."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype="float32", local_files_only=True).eval().requires_grad_(False)


@contextmanager
def extracting(target: Path, layers: Sequence[int], settings: EngineSettings, log: Path) -> Iterator[Reference]:  # noqa: ARG001
    """Load the target."""
    log.write_text(f"a stub answers for {target}\n")
    yield Reference(load_target(target), layers)


def serve_command(python: str, target: Path, speculation: Speculation, settings: EngineSettings) -> list[str]:
    """Return words that serve nothing."""
    return ["false", python, str(target), str(speculation.path), settings.dtype]
