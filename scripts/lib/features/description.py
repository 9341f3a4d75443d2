"""What a search has to know of target and data set, looked up where they lie or read from `manifest`, which says it where they do not.

On a cluster target.path and features.dataset lie on a volume that only jobs mount. `scripts/describe.py` writes down, there, what the
controller needs to name arms and to refuse what does not fit.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from lib.config import Config
from lib.errors import UserError
from lib.features.dataset import KEY, DatasetFacts, dataset_fingerprint, read_dataset
from lib.reading import read_json
from lib.section import Section
from lib.target.load import TargetFacts, check_target, find_code, target_fingerprint
from lib.target.weights import check_weights

CURE = "run python scripts/describe.py --configfile <yours> where they are mounted, and save what it prints there"


class DescribedTarget(Section):
    """The model at target.path."""

    path: str = Field(description="target.path, as the configuration says it")
    name: str = Field(min_length=1, description="name of the model in records")
    fingerprint: str = Field(min_length=1, description="tells targets apart")
    code: str | None = Field(description="file that names code of the model directory to run; None: no file does")
    dense: bool = Field(description="whether a decoding step reads all its weights")
    facts: TargetFacts


class DescribedDataset(Section):
    """The data set at features.dataset."""

    path: str = Field(description="features.dataset, as the configuration says it")
    facts: DatasetFacts


class Description(Section):
    """Target and data set of one configuration."""

    target: DescribedTarget
    dataset: DescribedDataset | None = Field(description="None for a configuration with prompts")


def describe(config: Config) -> Description:
    """Look at the target and the data set of a configuration. Raises UserError naming the key when one is missing, not whole or not set."""
    if config.target.path is None:
        raise UserError("target.path is empty, so there is nothing to describe; name a model")
    folder, dataset = Path(config.target.path), config.features.dataset
    facts = check_target(folder)
    return Description(
        target=DescribedTarget(
            path=config.target.path,
            name=folder.resolve().name,
            fingerprint=target_fingerprint(folder),
            code=find_code(folder),
            dense=check_weights(folder, facts),
            facts=facts,
        ),
        dataset=DescribedDataset(path=dataset, facts=read_dataset(Path(dataset))) if dataset else None,
    )


def find_description(config: Config) -> Description:
    """Return what `manifest` says, or without one what is found where target and data set lie.

    Raises UserError, one line, when the manifest is not there, not whole, or of another target or data set than the configuration names.
    """
    if config.manifest is None:
        return describe(config)
    path = Path(config.manifest)
    values = read_json(path, f"manifest = {config.manifest!r}", CURE)
    try:
        described = Description.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        said = f"{place}: {first['msg']}"
        raise UserError(f"manifest = {config.manifest!r} is not what scripts/describe.py prints ({said}); {CURE}") from None
    for key, asked, told in (
        ("target.path", config.target.path, described.target.path),
        (KEY, config.features.dataset, described.dataset and described.dataset.path),
    ):
        if asked and asked != told:
            raise UserError(f"manifest = {config.manifest!r} describes {key} = {told!r}, not {asked!r}; {CURE}")
    return described


def find_unknown(config: Config) -> tuple[str, ...]:
    """Return in a line each what a plan cannot know here, for it is on another machine and not described; empty when all is known."""
    end = "arm ids of this plan are provisional"
    if config.target.path is None:
        return ()
    if config.manifest is not None:
        written = Path(config.manifest).exists()
        return () if written else (f"manifest={config.manifest} is not written yet: {end}; {CURE}",)
    keys = {"target.path": config.target.path, KEY: config.features.dataset}
    absent = {key: path for key, path in keys.items() if path and not Path(path).exists()}
    return tuple(f"{key}={path} is not on this machine and not described: {end}" for key, path in absent.items())


def fingerprints(config: Config) -> dict[str, tuple[str, str]]:
    """Return by key the path and the fingerprint of what `manifest` describes; nothing without a manifest that is there."""
    if config.manifest is None or not Path(config.manifest).is_file():
        return {}
    described = find_description(config)
    told = {"target.path": (described.target.path, described.target.fingerprint)}
    if described.dataset:
        told[KEY] = described.dataset.path, described.dataset.facts.fingerprint
    return told


def require_described(told: Mapping[str, Sequence[str]]) -> None:
    """Refuse in one line a target or a data set that is mounted here but is not what the manifest describes.

    For the jobs that read them: names and records rest on what the manifest says.

    Args:
        told: path and fingerprint of the manifest, by key.
    """
    for key, (path, fingerprint) in told.items():
        if key == KEY:
            found = dataset_fingerprint(Path(path))
        else:
            check_target(Path(path))
            found = target_fingerprint(Path(path))
        if found != fingerprint:
            raise UserError(f"{key}={path} is {found}, but the manifest describes {fingerprint}; restore it, or {CURE}")
