"""Check a data set that speculators extracted elsewhere against the target, and use its rows as training and held-out data.

It is a folder for speculators' trainer with an Arrow data set with `input_ids`, `loss_mask` and `seq_len`, and for row i a
`hidden_states/hs_<i>.safetensors` with `token_ids` [T] and `hidden_states` [T, aux layers + 1, H]. The last is the last layer's output
before the final norm. The space file names the aux layers, because the data set does not.

Hidden states are not copied. A sample is read from the data set's own file by its row number. Adopting rows and starting jobs thus read
no hidden states, and damage is found when the sample is read.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.errors import UserError
from lib.files import read_json, whole_directory
from lib.safetensors_header import read_header
from lib.target.load import TargetFacts

if TYPE_CHECKING:
    from torch import Tensor

KEY = "features.dataset"
COLUMNS = ("input_ids", "loss_mask", "seq_len")
_LOOKED_AT = 64  # number of hidden-state files in the partial hash
_END_BYTES = 64 * 2**10
_REPRODUCED = 16  # number of rows whose tokens are compared with those that heads would learn
LEAST_REPRODUCED = 0.2
"""Smallest share of answer tokens that the target predicts. Answers that others wrote agree with about half of its choices."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a data set from its file lists and its first sample. `layers`: outputs per token including the last layer."""

    rows: int
    layers: int
    hidden_size: int
    fingerprint: str


def read_dataset(path: Path) -> DatasetFacts:
    """Return the facts of the data set in the folder `path`.

    Raises UserError with the folder, the fault and the cure when it is incomplete.
    """
    rows, columns = _rows(path)
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UserError(f"{KEY}={path} has no column {missing[0]!r}, only {', '.join(columns)}; prepare it with speculators")
    if not rows:
        raise UserError(f"{KEY}={path} holds no rows; prepare it with speculators")
    there = _states(path)
    absent = [index for index in range(rows) if _name(index) not in there]
    if absent:
        raise UserError(
            f"{KEY}={path} lacks hidden_states/{_name(absent[0])} and {len(absent) - 1} more of {rows}; let speculators generate the rest"
        )
    first = path / "hidden_states" / _name(0)
    shape = _shape(first)
    if len(shape) != 3:
        raise UserError(
            f"{KEY}: {first} holds hidden_states of shape {shape}, not tokens x layers x size; let speculators generate it again"
        )
    return DatasetFacts(rows, shape[1], shape[2], dataset_fingerprint(path))


def check_dataset(path: str, dataset: DatasetFacts, target: TargetFacts, aux_layers: Sequence[int], wanted: int) -> None:
    """Refuse a data set with fewer than `wanted` rows, or with another shape than the target and `aux_layers`.

    Raises UserError, one line with the folder `path`, the fault and the cure.
    """
    if dataset.rows < wanted:
        raise UserError(
            f"{KEY}={path} holds {dataset.rows} rows, but features.train_prompts + heldout_prompts = {wanted}; add rows or lower these"
        )
    if dataset.layers != len(aux_layers) + 1:
        layers = f"{list(aux_layers)} and the last one, {len(aux_layers) + 1}"
        raise UserError(
            f"{KEY}={path} holds {dataset.layers} layers per token, but draft.aux_layers asks for {layers}; name those it was made with"
        )
    if dataset.hidden_size != target.hidden_size:
        raise UserError(
            f"{KEY}={path} is of hidden size {dataset.hidden_size}, target.path of {target.hidden_size}; name the target it was made with"
        )


def dataset_fingerprint(path: Path) -> str:
    """Return a partial hash of 12 hex digits, from names and sizes of all files and the ends of the Arrow files and of 64 others.

    The ends are the first and the last 64 KiB. The 64 files are evenly spaced by name. The hash is cheap, but misses edits outside these
    bytes that keep all sizes. Adopted rows also record the ends of each of their files.
    """
    states = _states(path)
    names = sorted(states)
    digest = hashlib.sha256("".join(f"{name} {states[name]}\n" for name in names).encode())
    looked_at = names if len(names) <= _LOOKED_AT else [names[(len(names) - 1) * place // (_LOOKED_AT - 1)] for place in range(_LOOKED_AT)]
    for file in (*(path / name for name in _arrow_files(path)), *(path / "hidden_states" / name for name in looked_at)):
        digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        digest.update(_ends(file))
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Sample:
    """A row's hidden-state file when the row was adopted: its number, its size, the SHA-256 of its ends."""

    row: int
    bytes: int
    ends: str


def adopt_dataset(
    path: Path,
    target: Path,
    out: Mapping[str, Path],
    counts: Mapping[str, int],
    aux_layers: list[int],
    seed: int,
    ahead: int,
    output: "Callable[[Tensor], Tensor]",
) -> None:
    """Adopt distinct rows of a data set into the folders `out` by split, as `FeatureSet` reads them.

    A split has its rows and the paths of their hidden states. Rows are assigned by a hash of `seed` and their tokens, held-out rows first,
    so more training rows do not change the others. Only headers, tokens and ends of the hidden states are read.

    Args:
        path: the folder of the data set, at the path seen by every machine that trains.
        target: the folder of the target.
        out: folder by split, `heldout` and `train`.
        counts: rows by split.
        aux_layers: the target's layers whose outputs the data set holds.
        seed: seed of the split.
        ahead: number of answer tokens needed after the start of a draft.
        output: the logits [T, vocabulary] that heads learn from last hidden states [T, H].

    Raises:
        UserError: a row does not fit the target, its files differ, there are fewer distinct rows with an answer than `counts` asks for,
            no answer of a split is long enough, or the hidden states do not predict the answers.
    """
    from datasets import load_from_disk  # type: ignore[import-untyped]

    from lib.features.samples import seal_features
    from lib.target.load import check_target, target_fingerprint

    facts = check_target(target)
    data = load_from_disk(str(path)).select_columns(list(COLUMNS)).with_format(None)
    ranked = _ranked(data, seed)
    wanted = sum(counts.values())
    if len(ranked) < wanted:
        raise UserError(
            f"{KEY}={path} holds {len(ranked)} different rows with an answer, but features.train_prompts + heldout_prompts = {wanted}; "
            "add rows or lower these"
        )
    fingerprint = target_fingerprint(target)
    first = 0
    for split in ("heldout", "train"):
        rows = ranked[first : first + counts[split]]
        first += counts[split]
        short = sum(not _can_be_drafted(data[row]["loss_mask"], ahead) for row in rows)
        if short == len(rows):
            raise UserError(
                f"{KEY}={path}: no answer of its {split} rows holds the {ahead + 1} tokens that drafting {ahead} tokens ahead takes; "
                "prepare it with longer answers, or lower objective.draft_tokens and the positions of the head"
            )
        if short:
            logger.warning("%s: %d of %d answers are too short to draft %d tokens ahead", split, short, len(rows), ahead)
        samples = [_check_sample(path, row, data[row], facts, len(aux_layers) + 1) for row in rows]
        if split == "heldout":
            share = _reproduced(path, [(sample, data[sample.row]) for sample in samples[:_REPRODUCED]], len(aux_layers) + 1, output)
            if share < LEAST_REPRODUCED:
                raise UserError(
                    f"{KEY}={path}: its hidden states predict {share:.0%} of the tokens of its answers; it was made with another target or "
                    "layers, prepare it with target.path"
                )
            logger.info("hidden states predict %.0f %% of the tokens of answers", 100 * share)
        with whole_directory(out[split]) as folder:
            data.select(rows).save_to_disk(folder)
            seal_features(folder, target=fingerprint, aux_layers=aux_layers, hidden_size=facts.hidden_size, dataset=(path, samples))
        logger.info("%s: %d rows of %d", split, len(rows), len(data))


def read_sample(path: Path, sample: Sample, tokens: Sequence[int], layers: int, hidden_size: int, *, fresh: bool) -> "Tensor":
    """Return the hidden states [T, layers, hidden_size] of a row of the data set in the folder `path`.

    At the first read (`fresh`), the file is compared with its record and its values are checked. Only damage between the ends of the file
    that keeps every value finite is missed.

    Raises:
        UserError: one line that names the file when it cannot be read, has other tokens, or has changed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = path / "hidden_states" / _name(sample.row)
    try:
        content = file.read_bytes()
        stored = load(content)
        states, found = stored["hidden_states"], stored["token_ids"].tolist()
    except (OSError, SafetensorError, KeyError) as error:
        raise _unreadable(file, error) from None
    if found != tokens:
        raise _of_other_tokens(file)
    expected = (len(tokens), layers, hidden_size)
    if tuple(states.shape) != expected:
        raise _of_other_values(file, states.shape, expected)
    if fresh:
        ends = content[:_END_BYTES] + content[max(_END_BYTES, len(content) - _END_BYTES) :]
        if (len(content), _sha256(ends)) != (sample.bytes, sample.ends):
            raise UserError(f"{KEY}: {file} has changed since its row was adopted; restore it, or delete resources/features")
        if not states.isfinite().all():
            raise _of_other_values(file, states.shape, expected)
    return states


def _reproduced(path: Path, rows: Sequence[tuple[Sample, Mapping[str, Any]]], layers: int, output: "Callable[[Tensor], Tensor]") -> float:
    """Return the share of answer tokens of rows that are the most likely ones by the hidden states before them."""
    import torch

    agree = counted = 0
    for sample, row in rows:
        size = _shape(path / "hidden_states" / _name(sample.row))[2]
        states = read_sample(path, sample, row["input_ids"], layers, size, fresh=True)
        with torch.inference_mode():
            chosen = output(states[:-1, -1].float()).argmax(-1)
        answered = torch.tensor(row["loss_mask"][1:]).bool()
        agree += int((chosen == torch.tensor(row["input_ids"][1:]))[answered].sum())
        counted += int(answered.sum())
    return agree / max(1, counted)


def _ranked(data: Any, seed: int) -> list[int]:
    """Return one row of each sequence with an answer, in the order of assignment."""
    rows: dict[str, int] = {}
    for row, sample in enumerate(data):
        if any(sample["loss_mask"]):
            rows.setdefault(hashlib.sha256(f"{seed} {sample['input_ids']}".encode()).hexdigest(), row)
    return [row for _, row in sorted(rows.items())]


def _can_be_drafted(loss_mask: Sequence[int], ahead: int) -> bool:
    """Return whether an answer token other than the first of its row is followed by `ahead` more, so that a draft can start there."""
    length = 0
    for counts in loss_mask[1:]:
        length = length + 1 if counts else 0
        if length > ahead:
            return True
    return False


def _check_sample(path: Path, number: int, row: Mapping[str, Any], facts: TargetFacts, layers: int) -> Sample:
    """Return the record of a row's file after checking its header and tokens against row and target."""
    from safetensors import SafetensorError, safe_open

    file = path / "hidden_states" / _name(number)
    try:
        with safe_open(file, framework="pt") as stored:
            shape, tokens = stored.get_slice("hidden_states").get_shape(), stored.get_tensor("token_ids").tolist()
        noted = Sample(number, file.stat().st_size, _sha256(_ends(file)))
    except (OSError, SafetensorError, KeyError) as error:
        raise _unreadable(file, error) from None
    expected = (len(tokens), layers, facts.hidden_size)
    if tokens != row["input_ids"] or not len(tokens) == len(row["loss_mask"]) == row["seq_len"]:
        raise _of_other_tokens(file)
    if tuple(shape) != expected:
        raise _of_other_values(file, shape, expected)
    if max(tokens) >= facts.vocab_size:
        raise UserError(
            f"{KEY}: {file} holds token {max(tokens)}, target.path has a vocabulary of {facts.vocab_size}; name the target it was made with"
        )
    if len(tokens) > facts.max_positions:
        raise UserError(f"{KEY}: {file} holds {len(tokens)} tokens, target.path takes {facts.max_positions}; prepare it with shorter rows")
    return noted


def _unreadable(file: Path, error: Exception) -> UserError:
    return UserError(
        f"{KEY}: {file} cannot be read ({error}); mount the data set where jobs run, or let speculators generate the file again"
    )


def _of_other_tokens(file: Path) -> UserError:
    return UserError(f"{KEY}: {file} has other tokens than its row; let speculators generate it again")


def _of_other_values(file: Path, shape: Sequence[int], expected: Sequence[int]) -> UserError:
    return UserError(f"{KEY}: {file} holds {list(shape)} values, not {list(expected)} finite ones; let speculators generate it again")


def _ends(file: Path) -> bytes:
    """Return the first and the last 64 KiB of a file, each byte once."""
    size = file.stat().st_size
    with file.open("rb") as handle:
        start = handle.read(_END_BYTES)
        handle.seek(max(_END_BYTES, size - _END_BYTES))
        return start + handle.read(_END_BYTES)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _rows(path: Path) -> tuple[int, list[str]]:
    """Return the number of rows and the names of the columns."""
    import pyarrow as pa  # few configurations need it here

    rows, columns = 0, []
    for name in _arrow_files(path):
        try:
            with pa.memory_map(str(path / name)) as source:
                reader = pa.ipc.open_stream(source)
                columns = reader.schema.names
                rows += sum(batch.num_rows for batch in reader)
        except (OSError, pa.ArrowInvalid) as error:
            raise UserError(f"{KEY}={path}: {name} cannot be read ({error}); copy it again") from None
    return rows, columns


def _arrow_files(path: Path) -> list[str]:
    """Return the names of the Arrow files, checked to be there."""
    cure = "give a folder written by speculators' data preparation"
    if not path.is_dir():
        raise UserError(f"{KEY}={path} is not a directory; {cure}")
    try:
        names = [str(file["filename"]) for file in read_json(path / "state.json", cure)["_data_files"]]
    except (UserError, KeyError, TypeError):
        raise UserError(f"{KEY}={path} has no state.json that lists Arrow files; {cure}") from None
    for name in names:
        if not (path / name).is_file():
            raise UserError(f"{KEY}={path} lacks {name}, which its state.json lists; copy it again")
    return names


def _states(path: Path) -> dict[str, int]:
    """Return the sizes of all files of hidden states by their names."""
    try:
        return {entry.name: entry.stat().st_size for entry in os.scandir(path / "hidden_states") if entry.name.endswith(".safetensors")}
    except OSError:
        raise UserError(f"{KEY}={path} has no folder hidden_states; let speculators generate the hidden states into it") from None


def _shape(file: Path) -> list[int]:
    """Return the shape of `hidden_states` from the header of a safetensors file."""
    try:
        return [int(size) for size in read_header(file)[0]["hidden_states"].shape]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{KEY}: {file} holds no hidden_states; let speculators generate it again") from None


def _name(row: int) -> str:
    return f"hs_{row}.safetensors"
