"""Offline training data of a draft head in speculators' on-disk format: the target's answers and hidden states.

A folder holds an Arrow dataset (`input_ids`, `loss_mask`, `seq_len`), one `hidden_states/hs_<i>.safetensors` per row with `hidden_states`
[T, aux layers + 1, H] and `token_ids` [T], and `manifest.json`, which is written last. A folder without manifest is incomplete. For a data
set extracted elsewhere the folder has no hidden states, and the manifest has their paths (`lib.features.dataset`).
"""

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NotRequired

import pyarrow as pa
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load
from typing_extensions import TypedDict

from lib.errors import UserError
from lib.features.dataset import KEY, Sample, read_sample
from lib.files import digest, write_json

MANIFEST = "manifest.json"


class CorruptFeatures(UserError):  # noqa: N818 - the state of the folder, as its message says
    """A feature folder does not match its manifest."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"features: {file} {what}; delete the folder, and it is rebuilt")


class _File(TypedDict):
    bytes: int
    sha256: str


class _Dataset(TypedDict):
    path: str
    samples: list[Sample]


class _Manifest(TypedDict):
    """The manifest that `seal_features` writes."""

    target: str
    aux_layers: list[int]
    hidden_size: int
    files: dict[str, _File]
    dataset: NotRequired[_Dataset]
    extracted: NotRequired[dict[str, Any]]


class FeatureSet:
    """The samples of one or several feature folders in their order, as `Folder` has them.

    `path` is the first folder. `aux_layers`, `hidden_size` and `target` are those of all folders. `sha256` is of all samples. `lengths` has
    the tokens of each sample.
    """

    def __init__(self, *paths: Path) -> None:
        self._folders = [Folder(path) for path in paths]
        first = self._folders[0]
        self.path, self.aux_layers, self.hidden_size, self.target = first.path, first.aux_layers, first.hidden_size, first.target
        self.sha256 = first.sha256 if len(paths) == 1 else digest([folder.sha256 for folder in self._folders], 64)
        self._places = [(folder, index) for folder in self._folders for index in range(len(folder.lengths))]
        self.lengths = [length for folder in self._folders for length in folder.lengths]

    def __len__(self) -> int:
        return len(self.lengths)

    def sample(self, index: int) -> dict[str, torch.Tensor]:
        """Return sample `index` as `Folder.sample` does."""
        folder, place = self._places[index]
        return folder.sample(place)

    def answer(self, index: int) -> list[int]:
        """Return the tokens of sample `index` that the loss mask covers. No hidden states are read for them."""
        folder, place = self._places[index]
        return folder.answer(place)


class Folder:
    """The samples of one sealed feature folder, read lazily and checked against the manifest's digests when first read.

    Opening raises CorruptFeatures unless every file of the folder has its full size, and UserError if its data set is not on this machine.
    The attributes come from the manifest: `aux_layers`, `hidden_size`, `target` (the target's fingerprint), `sha256` (of names, sizes and
    digests of the files, including the data set's, independent of paths), and `lengths`, the tokens of each sample.
    """

    def __init__(self, path: Path) -> None:
        try:
            manifest = TypeAdapter(_Manifest).validate_json((path / MANIFEST).read_bytes())
        except (OSError, ValidationError):
            raise CorruptFeatures(path / MANIFEST, "is missing or not whole") from None
        self.path = path
        self.aux_layers = manifest["aux_layers"]
        self.hidden_size = manifest["hidden_size"]
        self.target = manifest["target"]
        self._files = manifest["files"]
        self.sha256 = digest(self._files, 64)
        for name, facts in self._files.items():
            if not (path / name).is_file():
                raise CorruptFeatures(path / name, "is missing")
            if (size := (path / name).stat().st_size) != facts["bytes"]:
                raise CorruptFeatures(path / name, f"has {size} bytes instead of {facts['bytes']}")
        self._verified: set[str] = set()
        self._dataset: Path | None = None
        if referred := manifest.get("dataset"):
            self._dataset, self._samples = Path(referred["path"]), referred["samples"]
            self.sha256 = digest([self._files, [(sample.bytes, sample.ends) for sample in self._samples]], 64)
            if not (self._dataset / "hidden_states").is_dir():
                raise UserError(f"{KEY}={self._dataset} is not on this machine, but {path} uses its rows; mount it where jobs run")
        rows = pa.concat_tables(pa.ipc.open_stream(self._read(name)).read_all() for name in self._arrow_files())
        self.lengths: list[int] = rows["seq_len"].to_pylist()
        self._tokens: pa.ChunkedArray = rows["input_ids"]
        self._loss_mask: pa.ChunkedArray = rows["loss_mask"]

    def sample(self, index: int) -> dict[str, torch.Tensor]:
        """Return sample `index` as speculators' datasets do, before any shift or collation.

        `hidden_states` [T, aux layers * H], `verifier_last_hidden_states` [T, H] (before the final norm), `input_ids` [T], `loss_mask` [T],
        `position_ids` [T], `lengths` [1]. Raises CorruptFeatures when the file's digest differs from the manifest, and UserError naming
        a file of an adopted data set that is missing, has other tokens, or is damaged.
        """
        tokens, states = torch.tensor(self._tokens[index].as_py()), self._hidden_states(index)
        return {
            "hidden_states": states[:, :-1].flatten(1),
            "input_ids": tokens,
            "verifier_last_hidden_states": states[:, -1],
            "loss_mask": torch.tensor(self._loss_mask[index].as_py()),
            "lengths": torch.tensor([len(tokens)]),
            "position_ids": torch.arange(len(tokens)),
        }

    def answer(self, index: int) -> list[int]:
        """Return the tokens of sample `index` that the loss mask covers. No hidden states are read for them."""
        tokens, mask = self._tokens[index].as_py(), self._loss_mask[index].as_py()
        return [token for token, counts in zip(tokens, mask, strict=True) if counts]

    def _hidden_states(self, index: int) -> torch.Tensor:
        name = states_name(index)
        if self._dataset is None:
            return load(self._read(name))["hidden_states"]
        layers, fresh = len(self.aux_layers) + 1, name not in self._verified
        states = read_sample(self._dataset, self._samples[index], self._tokens[index].as_py(), layers, self.hidden_size, fresh=fresh)
        self._verified.add(name)
        return states

    def _arrow_files(self) -> list[str]:
        return [file["filename"] for file in json.loads(self._read("state.json"))["_data_files"]]

    def _read(self, name: str) -> bytes:
        if name not in self._files:
            raise CorruptFeatures(self.path / MANIFEST, f"does not list {name}")
        content = (self.path / name).read_bytes()
        if name not in self._verified:
            if hashlib.sha256(content).hexdigest() != self._files[name]["sha256"]:
                raise CorruptFeatures(self.path / name, "differs from the digest in the manifest")
            self._verified.add(name)
        return content


def seal_features(
    folder: Path,
    *,
    target: str,
    aux_layers: list[int],
    hidden_size: int,
    dataset: tuple[Path, list[Sample]] | None = None,
    extracted: dict[str, Any] | None = None,
) -> None:
    """Write the manifest of a complete folder in speculators' format, with every file's size and SHA-256 and the features' origin.

    `target` is the target's fingerprint, `aux_layers` and `hidden_size` describe `hidden_states`. `dataset` has the paths of hidden states
    that are not in the folder. `extracted` says how an engine extracted them.
    """
    more: dict[str, Any] = {"extracted": extracted} if extracted else {}
    if dataset:
        more["dataset"] = {"path": str(dataset[0].absolute()), "samples": [asdict(sample) for sample in dataset[1]]}
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    write_json(
        folder / MANIFEST,
        {
            "target": target,
            "aux_layers": aux_layers,
            "hidden_size": hidden_size,
            "versions": {package: version(package) for package in ("torch", "transformers", "datasets")},
            "files": {name: _file_facts(folder / name) for name in names},
            **more,
        },
    )


def states_name(index: int) -> str:
    """Return the file of a sample's hidden states within its folder."""
    return f"hidden_states/hs_{index}.safetensors"


def _file_facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}
