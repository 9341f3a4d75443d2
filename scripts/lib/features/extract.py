"""Have an engine answer prompts, and write answers and hidden states into folders for `FeatureSet`.

A finished sample is a file of its own in the folder for work in progress, so an interrupted extraction loses only the samples in flight.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lib.errors import UserError
from lib.features.extractor import Extractor
from lib.features.prompts import Prompt
from lib.features.samples import seal_features, states_name
from lib.files import remove, whole_directory, whole_file
from lib.storage import Storage, not_vital, or_refused

LEAST_AGREEMENT = 0.99
"""Smallest share of positions at which norm and projection of the last hidden state must give the target's next token."""

FEW = 256
"""Positions after which that share is judged first."""

CHECKED = 8
"""Samples whose next tokens the engine is asked for, when answers are not greedy and so do not tell them."""

COMPARED = "compared"
"""Metadata of a sample's file, how many of its compared positions agreed."""

EVERY_S = 10.0
"""Seconds between lines on the progress."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answering:
    """How prompts are answered.

    `most`: largest number of tokens. `stop`: tokens that end an answer. `sampling`: temperature, top_p, top_k and seed as the engine takes
    them, without those that are unset.
    """

    most: int
    stop: tuple[int, ...]
    sampling: Mapping[str, Any]

    @property
    def greedy(self) -> bool:
        """Whether an answer's tokens are the most likely ones."""
        return bool(self.sampling["temperature"] == 0)


@dataclass
class Agreement:
    """Compares the tokens that heads learn with the target's own next tokens.

    `output`: the logits [T, vocabulary] that training computes from last hidden states [T, H].
    """

    output: Callable[[Tensor], Tensor]
    target: Path
    positions: int = 0
    agree: int = 0
    _lock: Lock = field(default_factory=Lock)

    @torch.inference_mode()
    def compare(self, states: Tensor, tokens: Sequence[int]) -> int:
        """Return the number of last hidden states [T, H] whose output is the next token of `tokens` [T], up to the states' rounding."""
        if not tokens:
            return 0
        logits = self.output(states.float())
        highest, chosen = logits.max(-1).values, logits.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        return int((highest - chosen <= 2 * torch.finfo(states.dtype).eps * logits.abs().max(-1).values).sum())

    def add(self, agree: int, positions: int) -> None:
        """Count `agree` of `positions` compared positions. Raise as `judge` does when there are enough."""
        with self._lock:
            self.positions += positions
            self.agree += agree
        if self.positions >= FEW:
            self.judge()

    def judge(self) -> None:
        """Raise UserError unless nearly all tokens agree."""
        if self.agree < LEAST_AGREEMENT * self.positions:
            raise UserError(
                f"target.path={self.target}: heads would learn {self.positions - self.agree} of {self.positions} tokens other than the "
                "target answers, because its logits are not a projection of its normed last hidden state; choose another target"
            )


@dataclass
class Extraction:
    """Samples of one part of the data, in progress.

    Args:
        extractor: the engine.
        answering: how prompts are answered.
        agreement: the check of what heads learn.
        work: the folder for samples that are done.
        store: copies of these samples in case the machine dies, or None.
        dtype: the dtype in which states are stored, None for the engine's.
    """

    extractor: Extractor
    answering: Answering
    agreement: Agreement
    work: Path
    store: Storage | None
    dtype: torch.dtype | None

    def run(self, prompts: Mapping[str, Sequence[Prompt]], concurrency: int) -> float | None:
        """Extract all samples, by split, that are not done, with `concurrency` requests in flight.

        Return the tokens per second, None if all are done.
        """
        places = [(split, index, prompt) for split, ones in prompts.items() for index, prompt in enumerate(ones)]
        with or_refused("streaming.url: the samples there cannot be listed", "try again, or change it"):
            stored = set(self.store.names(self.work.name)) if self.store else set()
        first = places[:CHECKED]
        left = [place for place in places if not self._is_done(*place, stored)]
        if len(left) < len(places):
            logger.info("%d of %d samples are done", len(places) - len(left), len(places))
        started = last = time.monotonic()
        tokens = 0
        pool = ThreadPoolExecutor(concurrency)
        try:
            jobs = [pool.submit(self._extract, *place, checked=place in first) for place in left]
            for done, job in enumerate(as_completed(jobs), start=1):
                tokens += job.result()
                now = time.monotonic()
                if now - last >= EVERY_S or done == len(left):
                    last, pace = now, (now - started) / done
                    per_s = tokens / (now - started)
                    logger.info("%d of %d samples, %.0f tokens/s, %.0f s left", done, len(left), per_s, pace * (len(left) - done))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # requests in flight end with the engine
        self.agreement.judge()
        return tokens / (time.monotonic() - started) if left else None

    def sample(self, split: str, index: int, prompt: Prompt) -> tuple[list[int], list[int]]:
        """Return tokens and loss mask of a sample that is done."""
        tokens, _, _ = _read(self.file(split, index))
        spans = prompt.answers or ((len(prompt.token_ids), len(tokens)),)
        return tokens, [int(any(first <= place < end for first, end in spans)) for place in range(len(tokens))]

    def _extract(self, split: str, index: int, prompt: Prompt, *, checked: bool) -> int:
        """Extract a sample and return its number of tokens."""
        tokens = list(prompt.token_ids)
        if not prompt.answers:
            tokens += self.extractor.answer(tokens, self.answering.most, self.answering.stop, self.answering.sampling)
        states = self.extractor.states(tokens)
        compared: Sequence[int] = []
        if self.answering.greedy and not prompt.answers:
            compared = tokens[len(prompt.token_ids) :]
        elif checked:
            compared = self.extractor.next_tokens(tokens)
        agree = self.agreement.compare(states[-len(compared) - 1 : -1, -1], compared)
        self.agreement.add(agree, len(compared))
        file = self.file(split, index)
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file) as fresh:
            tensors = {"hidden_states": states.to(self.dtype or states.dtype).contiguous(), "token_ids": torch.tensor(tokens)}
            save_file(tensors, fresh, {COMPARED: f"{agree} of {len(compared)}"})  # a second entry would be written in random order
        if self.store:
            with not_vital("copy a sample to streaming.url"), file.open("rb") as content:
                self.store.put(content, self._name(split, index))
        return len(tokens)

    def _is_done(self, split: str, index: int, prompt: Prompt, stored: set[str]) -> bool:
        file, name = self.file(split, index), self._name(split, index)
        if self._is_sound(file, prompt):
            return True
        if not (self.store and name in stored):
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        with or_refused("streaming.url: the samples there cannot be read", "try again, or change it"), whole_file(file) as fresh:
            self.store.get(name, fresh)
        return self._is_sound(file, prompt)

    def _is_sound(self, file: Path, prompt: Prompt) -> bool:
        """Return whether a file holds a sample of a prompt, and count what was compared of it. Remove a file that does not."""
        with contextlib.suppress(OSError, SafetensorError, LookupError, TypeError, ValueError):
            tokens, agree, positions = _read(file)
            if tokens[: len(prompt.token_ids)] == list(prompt.token_ids):
                self.agreement.add(agree, positions)
                return True
        remove(file)
        return False

    def file(self, split: str, index: int) -> Path:
        """Return the file of a sample that is done."""
        return self.work / split / f"{index}.safetensors"

    def _name(self, split: str, index: int) -> str:
        return f"{self.work.name}/{split}/{index}.safetensors"


def extract_features(
    extraction: Extraction,
    prompts: Mapping[str, Sequence[Prompt]],
    out: Mapping[str, Path],
    *,
    concurrency: int,
    target: str,
    aux_layers: list[int],
    hidden_size: int,
) -> None:
    """Extract the prompts of every split into the folder of the split, and remove the work in progress.

    Args:
        extraction: the engine and its options.
        prompts: prompts by split.
        out: folder by split.
        concurrency: requests in flight.
        target: fingerprint of the target.
        aux_layers: k is the output of the target's first k layers, 0 the embeddings. The engine adds the last layer's output before the
            final norm.
        hidden_size: size of a layer's output.

    Raises:
        UserError: the engine failed, or the target's answers are not what heads would learn.
    """
    tokens_per_second = extraction.run(prompts, concurrency)
    agreement = extraction.agreement
    extracted = {
        "engine": {key: value for key, value in extraction.extractor.context().items() if key != "draft"},
        "answers": {"most": extraction.answering.most, "stop": list(extraction.answering.stop), **extraction.answering.sampling},
        "agreement": {"agree": agreement.agree, "positions": agreement.positions},
        "tokens_per_second": tokens_per_second,
    }
    for split, ones in prompts.items():
        with whole_directory(out[split]) as folder:
            _write_split(folder, extraction, split, ones)
            seal_features(folder, target=target, aux_layers=aux_layers, hidden_size=hidden_size, extracted=extracted)
    if extraction.store:
        with not_vital("remove finished samples from streaming.url"):
            extraction.store.remove(extraction.store.names(extraction.work.name))
    shutil.rmtree(extraction.work)


def _read(file: Path) -> tuple[list[int], int, int]:
    """Return the tokens of a sample that is done, and of how many compared positions how many agreed: tokens, agree, positions.

    Raises an error of one of several types for a file that is no such sample.
    """
    with safe_open(file, framework="pt") as stored:
        agree, _, positions = (stored.metadata() or {})[COMPARED].partition(" of ")
        tokens: list[int] = stored.get_tensor("token_ids").tolist()
        if stored.get_slice("hidden_states").get_shape()[:1] != [len(tokens)]:
            raise ValueError(file)
        return tokens, int(agree), int(positions)


def part_of(prompts: Sequence[Prompt], part: int, parts: int) -> Sequence[Prompt]:
    """Return part 1, 2, ... of prompts divided into contiguous `parts`."""
    return prompts[len(prompts) * (part - 1) // parts : len(prompts) * part // parts]


def _write_split(folder: Path, extraction: Extraction, split: str, prompts: Sequence[Prompt]) -> None:
    """Write the rows of a split in speculators' format, with links to the hidden states."""
    from datasets import Dataset, disable_progress_bars  # type: ignore[import-untyped]

    disable_progress_bars()
    (folder / "hidden_states").mkdir()
    rows = [extraction.sample(split, index, prompt) for index, prompt in enumerate(prompts)]
    columns = {"input_ids": [tokens for tokens, _ in rows], "loss_mask": [mask for _, mask in rows]}
    dataset = Dataset.from_dict(columns | {"seq_len": [len(tokens) for tokens, _ in rows]})
    dataset.with_format("torch").save_to_disk(folder)
    for index in range(len(prompts)):
        place = folder / states_name(index)
        try:
            os.link(extraction.file(split, index), place)
        except OSError:  # a file system without hard links
            shutil.copyfile(extraction.file(split, index), place)
