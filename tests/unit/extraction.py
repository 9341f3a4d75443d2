"""Features of a small target for unit tests, extracted by transformers in place of an engine."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.draft.heads import learnt_output
from lib.features.extract import Agreement, Answering, Extraction, extract_features
from lib.features.extractor import Extractor
from lib.features.prompts import Prompt
from lib.methods import read_draft
from lib.target.load import check_target, load_tokenizer, target_fingerprint

from tests.stub_engine.engine import Reference, load_target

GREEDY: Mapping[str, Any] = {"temperature": 0, "seed": 0}


def prompts_of(target: Path, texts: Sequence[str]) -> list[Prompt]:
    """Return prompts as they are written for a target."""
    tokenizer = load_tokenizer(target)
    return [Prompt(text, tuple(tokenizer.encode(text))) for text in texts]


def extract(
    target: Path,
    prompts: Mapping[str, Sequence[Prompt]],
    out: Path,
    *,
    most: int,
    aux_layers: Sequence[int],
    stop: tuple[int, ...] = (),
    sampling: Mapping[str, Any] = GREEDY,
    extractor: Callable[[Extractor], Any] = lambda reference: reference,
    **options: Any,
) -> dict[str, Path]:
    """Extract `prompts` into folders of `out` by split, and return these. `extractor` may wrap the reference."""
    facts = check_target(target)
    output = learnt_output(read_draft({"method": "dflash", "aux_layers": tuple(aux_layers)}), target)
    folders = {split: out / split for split in prompts}
    extract_features(
        Extraction(
            extractor=extractor(Reference(load_target(target), [*aux_layers, facts.num_layers])),
            answering=Answering(most, stop, sampling),
            agreement=Agreement(output, target),
            work=out / "work",
            **{"store": None, "dtype": None} | options,
        ),
        prompts,
        folders,
        concurrency=1,
        target=target_fingerprint(target),
        aux_layers=list(aux_layers),
        hidden_size=facts.hidden_size,
    )
    return folders
