"""The description of target and data set, made from their files or read from `manifest`.

On a cluster target.path and features.dataset are on a volume that only jobs mount. `scripts/describe.py` runs there and writes what the
controller needs to name arms and to check the configuration.
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
from lib.target.load import TargetFacts, check_target, find_code, has_chat_template, target_fingerprint
from lib.target.weights import check_weights

CURE = "run python scripts/describe.py --configfile <yours> where they are mounted, and save what it prints there"


class DescribedTarget(Section):
    """The model at target.path."""

    path: str = Field(description="target.path as in the configuration")
    name: str = Field(min_length=1, description="name of the model in records")
    fingerprint: str = Field(min_length=1, description="partial hash of the target")
    code: str | None = Field(description="file that names code in the model directory to run; None without one")
    dense: bool = Field(description="whether a decoding step reads all its weights")
    chat_template: bool = Field(description="whether its tokenizer has a chat template")
    facts: TargetFacts


class DescribedDataset(Section):
    """The data set at features.dataset."""

    path: str = Field(description="features.dataset as in the configuration")
    facts: DatasetFacts


class Description(Section):
    """Target and data set of one configuration."""

    target: DescribedTarget
    dataset: DescribedDataset | None = Field(description="None for a configuration with prompts")


def describe(config: Config) -> Description:
    """Describe the target and the data set of a configuration. Raises UserError naming a key that is unset, missing or incomplete."""
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
            chat_template=has_chat_template(folder),
            facts=facts,
        ),
        dataset=DescribedDataset(path=dataset, facts=read_dataset(Path(dataset))) if dataset else None,
    )


def find_description(config: Config) -> Description:
    """Return the description in `manifest`, or without one of the files of target and data set.

    Raises UserError when the manifest is missing, damaged, or describes another target or data set than the configuration.
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
    """Return a line for each path that is on another machine and not described. Empty when all are known."""
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
    """Return path and fingerprint by key from `manifest`. Empty without a manifest."""
    if config.manifest is None or not Path(config.manifest).is_file():
        return {}
    described = find_description(config)
    told = {"target.path": (described.target.path, described.target.fingerprint)}
    if described.dataset:
        told[KEY] = described.dataset.path, described.dataset.facts.fingerprint
    return told


def require_described(told: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError for a mounted target or data set that does not match the manifest.

    Jobs that read them call this, because names and records depend on the manifest.

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
