"""Offline training data of a draft head, in speculators' on-disk format: the target's answers and its hidden states over them.

A folder holds an Arrow dataset (`input_ids`, `loss_mask`, `seq_len`), one `hidden_states/hs_<i>.safetensors` per row with `hidden_states`
[T, aux layers + 1, H] and `token_ids` [T], and `manifest.json`, written last: a folder without one is unfinished. Of a data set that was
extracted elsewhere it holds no hidden states: the manifest says where they lie (`lib.draft.dataset`).
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from safetensors.torch import load, save

from lib.draft.dataset import KEY, Sample, read_sample
from lib.errors import UserError
from lib.files import digest, read_json, whole_directory, write_json
from lib.prompts import read_prompts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)


class CorruptFeatures(UserError):  # noqa: N818 - the state of the folder, as its message says
    """A feature folder is not what its manifest says."""

    def __init__(self, file: Path, what: str) -> None:
        super().__init__(f"features: {file} {what}; delete the folder, it is rebuilt")


class FeatureSet:
    """The samples of one sealed feature folder, read lazily and checked against the manifest's digests when first read.

    Opening checks that every file of the folder is there in its full size and raises CorruptFeatures otherwise, and UserError when the data
    set it refers to is not on this machine. The attributes are the manifest's: `aux_layers`, `hidden_size`, `target` (the target's
    fingerprint), `sha256` (of names, sizes and digests of the files, those of the data set included: equal content, equal `sha256`,
    wherever it lies), and `lengths`, the tokens of each sample.
    """

    def __init__(self, path: Path) -> None:
        try:
            manifest = read_json(path / MANIFEST)
        except (FileNotFoundError, json.JSONDecodeError):
            raise CorruptFeatures(path / MANIFEST, "is missing or not JSON") from None
        self.path = path
        self.aux_layers: list[int] = manifest["aux_layers"]
        self.hidden_size: int = manifest["hidden_size"]
        self.target: str = manifest["target"]
        self._files: dict[str, dict[str, Any]] = manifest["files"]
        self.sha256 = digest(self._files, 64)
        for name, facts in self._files.items():
            if not (path / name).is_file():
                raise CorruptFeatures(path / name, "is missing")
            if (size := (path / name).stat().st_size) != facts["bytes"]:
                raise CorruptFeatures(path / name, f"has {size} bytes instead of {facts['bytes']}")
        self._verified: set[str] = set()
        self._dataset: Path | None = None
        if referred := manifest.get("dataset"):
            self._dataset, self._samples = Path(referred["path"]), [Sample(**sample) for sample in referred["samples"]]
            self.sha256 = digest([self._files, [(sample.bytes, sample.ends) for sample in self._samples]], 64)
            if not (self._dataset / "hidden_states").is_dir():
                raise UserError(f"{KEY}={self._dataset}, of which {path} has rows, is not on this machine; mount it where jobs run")
        rows = pa.concat_tables(pa.ipc.open_stream(self._read(name)).read_all() for name in self._arrow_files())
        self.lengths: list[int] = rows["seq_len"].to_pylist()
        self._tokens: pa.ChunkedArray = rows["input_ids"]
        self._loss_mask: pa.ChunkedArray = rows["loss_mask"]

    def __len__(self) -> int:
        return len(self.lengths)

    def sample(self, index: int) -> dict[str, torch.Tensor]:
        """Return sample `index` as speculators' datasets do, before any shift or collation.

        `hidden_states` [T, aux layers * H], `verifier_last_hidden_states` [T, H] (before the final norm), `input_ids` [T], `loss_mask` [T],
        `position_ids` [T], `lengths` [1]. Raises CorruptFeatures when the file's digest is not the manifest's, and UserError naming the
        file of a data set elsewhere that is gone, of other tokens or damaged.
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
        name = _states_name(index)
        if self._dataset is None:
            return load(self._read(name))["hidden_states"]
        layers, fresh = len(self.aux_layers) + 1, name not in self._verified
        states = read_sample(self._dataset, self._samples[index], self._tokens[index].as_py(), layers, self.hidden_size, fresh=fresh)
        self._verified.add(name)
        return states

    def _arrow_files(self) -> list[str]:
        return [file["filename"] for file in json.loads(self._read("state.json"))["_data_files"]]

    def _read(self, name: str) -> bytes:
        content = (self.path / name).read_bytes()
        if name not in self._verified:
            if hashlib.sha256(content).hexdigest() != self._files[name]["sha256"]:
                raise CorruptFeatures(self.path / name, "differs from the digest in the manifest")
            self._verified.add(name)
        return content


def extract_features(
    target_path: Path, prompts_jsonl: Path, out_dir: Path, *, response_tokens: int, aux_layers: list[int], batch: int, threads: int
) -> None:
    """Write to `out_dir` the target's greedy answers of `response_tokens` tokens and its hidden states over each prompt and answer.

    Aux layer k is the output of the target's first k layers (0: the embeddings); the entry after the aux layers is the last layer's output
    before the final norm. The loss mask covers the answers. Raises UserError for an aux layer that the target does not have, a prompt that
    does not fit the target's context, and a target that yields infinities.
    """
    from datasets import Dataset  # type: ignore[import-untyped]

    from lib.target.load import check_target, load_target, target_fingerprint
    from lib.target.responses import batches_of_one_length, greedy_responses

    torch.set_num_threads(threads)
    facts = check_target(target_path)
    if not aux_layers or not all(0 <= layer < facts.num_layers for layer in aux_layers):
        raise UserError(
            f"draft.aux_layers={aux_layers}: target.path={target_path} has layers 0 to {facts.num_layers - 1}; name some of them"
        )
    model, tokenizer = load_target(target_path)
    prompts = [tokenizer.encode(prompt) for prompt in read_prompts(prompts_jsonl)]
    longest = max(map(len, prompts)) + response_tokens
    if longest > facts.max_positions:
        raise UserError(
            f"features.response_tokens={response_tokens} makes {longest} tokens, the target holds {facts.max_positions}; lower it"
        )
    rows: list[list[int]] = [[] for _ in prompts]
    started, done = time.monotonic(), 0
    with whole_directory(out_dir) as folder:
        (folder / "hidden_states").mkdir()
        for indices in batches_of_one_length(prompts, batch):
            group = [prompts[index] for index in indices]
            responses = greedy_responses(model, group, response_tokens, batch)
            tokens = torch.tensor([prompt + response for prompt, response in zip(group, responses, strict=True)])
            states = hidden_states(model, tokens, aux_layers)
            if not states.isfinite().all():
                raise UserError(f"target.path={target_path} yields infinite hidden states; the target is broken, export it again")
            for index, row, row_states in zip(indices, tokens, states, strict=True):
                rows[index] = row.tolist()
                (folder / _states_name(index)).write_bytes(save({"hidden_states": row_states.contiguous(), "token_ids": row}))
            done += len(indices)
            seconds_left = (time.monotonic() - started) / done * (len(prompts) - done)
            logger.info("%d of %d samples, %.0f s left", done, len(prompts), seconds_left)
        dataset = Dataset.from_dict(
            {
                "input_ids": rows,
                "loss_mask": [[0] * (len(row) - response_tokens) + [1] * response_tokens for row in rows],
                "seq_len": [len(row) for row in rows],
            }
        )
        dataset.with_format("torch").save_to_disk(folder)
        seal_features(folder, target=target_fingerprint(target_path), aux_layers=aux_layers, hidden_size=facts.hidden_size)


def seal_features(
    folder: Path, *, target: str, aux_layers: list[int], hidden_size: int, dataset: tuple[Path, list[Sample]] | None = None
) -> None:
    """Write the manifest of a complete folder in speculators' format: every file's size and SHA-256, and what the features are of.

    `target` is the target's fingerprint, `aux_layers` and `hidden_size` describe `hidden_states`. `dataset` says where the hidden states of
    each row lie when they are not in the folder.
    """
    referred = {"dataset": {"path": str(dataset[0].absolute()), "samples": [asdict(sample) for sample in dataset[1]]}} if dataset else {}
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST)
    write_json(
        folder / MANIFEST,
        {
            "target": target,
            "aux_layers": aux_layers,
            "hidden_size": hidden_size,
            "versions": {package: version(package) for package in ("torch", "transformers", "datasets")},
            "files": {name: _file_facts(folder / name) for name in names},
            **referred,
        },
    )


@torch.inference_mode()
def hidden_states(model: "PreTrainedModel", tokens: torch.Tensor, aux_layers: Sequence[int]) -> torch.Tensor:
    """Run the decoder over `tokens` [B, T]; return [B, T, aux layers + 1, H] on the CPU, the last entry being the last layer's output.

    The layers are hooked because a model's own list of hidden states ends with the normalised ones.
    """
    decoder: Any = model.get_decoder()  # type: ignore[no-untyped-call]
    outputs: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            outputs[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    # The embeddings are layer 0, so layers[k - 1] yields the output of k layers.
    handles = [module.register_forward_hook(keep(k)) for k, module in enumerate([decoder.get_input_embeddings(), *decoder.layers])]
    try:
        decoder(input_ids=tokens.to(model.device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([outputs[layer] for layer in (*aux_layers, len(decoder.layers))], dim=2).cpu()


def _states_name(index: int) -> str:
    return f"hidden_states/hs_{index}.safetensors"


def _file_facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}
