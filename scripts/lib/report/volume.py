"""What training data and training states take, as data and as lines of the plan."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lib.experiment import Experiment, feature_folders
from lib.files import read_json
from lib.records import layout
from lib.records.measurement import ProxyRecord
from lib.report.text import vocabulary_of
from lib.search.work import Work

_BYTES = {"float32": 4}
_TIMES = 3
"""A state holds each trained weight and its two moments, all in fp32."""


def describe_volume(experiment: Experiment, root: Path, work: Work, trained: ProxyRecord | None) -> dict[str, Any]:
    """Return the volume of the data of an experiment as plain data. Unknown values are None.

    Args:
        experiment: the experiment.
        root: the root of the working tree, whose features and untrained head are looked at.
        work: the upper bound of the search's work.
        trained: a record with the same data and head, if there is one.
    """
    config = experiment.config
    features, serving = config.features, config.serving
    samples = features.train_prompts + features.heldout_prompts
    tokens = None if features.dataset else samples * (features.prompt_tokens + features.response_tokens)
    layers, width = len(experiment.space.draft.aux_layers) + 1, _BYTES.get(features.states_dtype or serving.dtype, 2)
    size = experiment.hidden_size
    head = root / layout.untrained_head(experiment.preflight) / "model.safetensors"
    vocabulary = trained.context.workload.vocabulary if trained else None
    return {
        "samples": samples,
        "tokens": tokens,
        "layers": layers,
        "hidden_size": size,
        "bytes": tokens * layers * size * width if tokens and size else None,
        "engines": features.engines,
        "devices": serving.devices,
        "tokens_per_second": _measured_rate(experiment, root) or config.cost.extracted_tokens_per_second,
        "states": work.training_jobs,
        "state_bytes": head.stat().st_size * _TIMES if head.is_file() else None,
        "vocabulary": vocabulary.model_dump() if vocabulary else None,
    }


def volume_lines(volume: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the plan."""
    if volume["tokens"]:
        states = f"at most {_size(volume['bytes'])}" if volume["bytes"] else "an unknown volume, as the target is not described here"
        per_token = f"{volume['layers']} layers x {volume['hidden_size'] or '?'}"
        yield (f"Data: {volume['samples']:,} samples, at most {volume['tokens']:,} tokens; their hidden states ({per_token}) take {states}")
        rate = volume["tokens_per_second"]
        hours = f"about {volume['tokens'] / rate * volume['devices'] / 3600:.3g} device-hours at {rate:,.0f} tokens/s" if rate else None
        unknown = "device-hours are not known before a run; set cost.extracted_tokens_per_second to get an estimate"
        yield f"Answers and hidden states: {volume['engines']} engine(s) with {volume['devices']} device(s) each; {hours or unknown}"
    if volume["vocabulary"]:
        yield f"Draft: {vocabulary_of(**volume['vocabulary'])}"
    each = volume["state_bytes"]
    states = f"{_size(each)} each, {_size(each * volume['states'])} in all" if each else "their size is known after the preflight"
    yield f"Training states: at most {volume['states']:,}; {states}"


def _measured_rate(experiment: Experiment, root: Path) -> float | None:
    """Return the tokens per second of one engine in the extraction of these features, None before it."""
    with suppress(Exception):  # a view must not fail for a damaged folder, which the job that reads it reports
        extracted = read_json(root / feature_folders(experiment, "train")[0] / "manifest.json", "")["extracted"]
        rate: float | None = extracted["tokens_per_second"]
        return rate
    return None


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
