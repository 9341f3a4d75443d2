"""A data set that speculators extracted elsewhere: whether it fits the target, and how its rows become our training and held-out data.

It is a folder as speculators' trainer takes it: an Arrow data set with `input_ids`, `loss_mask` and `seq_len`, whatever else it has, and
for row i a `hidden_states/hs_<i>.safetensors` with `token_ids` [T] and `hidden_states` [T, aux layers + 1, H]. The last entry is the last
layer's output before the final norm. Which layers the aux layers are it does not say: the space file does.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.errors import UserError
from lib.files import read_json, sampled, whole_directory
from lib.target.load import TargetFacts

KEY = "features.dataset"
COLUMNS = ("input_ids", "loss_mask", "seq_len")
_LOOKED_AT = 64  # files of hidden states that stand for all in the fingerprint
logger = logging.getLogger(__name__)


def check_dataset(path: Path, facts: TargetFacts, aux_layers: Sequence[int], wanted: int) -> None:
    """Refuse a data set that is not whole, too small, or of another shape than the target, from its lists and its first sample alone.

    Args:
        path: the folder.
        facts: of the target.
        aux_layers: the target's layers whose outputs it should hold, besides the last one's.
        wanted: rows that are asked for.

    Raises:
        UserError: one line that names the folder, what is wrong, and the cure.
    """
    rows, columns = _rows(path)
    missing = [name for name in COLUMNS if name not in columns]
    if missing:
        raise UserError(f"{KEY}={path} has no column {missing[0]!r}, only {', '.join(columns)}; prepare it with speculators")
    if rows < wanted:
        raise UserError(f"{KEY}={path} holds {rows} rows, but features.train_prompts + heldout_prompts = {wanted}; add rows or lower these")
    there = _states(path)
    absent = [index for index in range(rows) if _name(index) not in there]
    if absent:
        raise UserError(
            f"{KEY}={path} lacks hidden_states/{_name(absent[0])} and {len(absent) - 1} more of {rows}; let speculators generate the rest"
        )
    shape = _shape(path / "hidden_states" / _name(0))
    if len(shape) != 3 or shape[1] != len(aux_layers) + 1:
        layers = f"{list(aux_layers)} and the last one, {len(aux_layers) + 1}"
        found = shape[1] if len(shape) == 3 else f"shape {shape}"
        raise UserError(f"{KEY}={path} holds {found} layers per token, but draft.aux_layers asks for {layers}; name those it was made with")
    if shape[2] != facts.hidden_size:
        raise UserError(f"{KEY}={path} is of hidden size {shape[2]}, target.path of {facts.hidden_size}; name the target it was made with")


def dataset_fingerprint(path: Path) -> str:
    """Return 12 hex digits that tell data sets apart: the Arrow files, the names of all hidden states, and the content of 64 of them.

    Asking in every job stays cheap; an edit that touches none of these is missed here, but not in what was adopted before.
    """
    names = sorted(_states(path))
    digest = hashlib.sha256("\n".join(names).encode())
    looked_at = names[:: max(1, len(names) // _LOOKED_AT)]
    for file in (*(path / name for name in _arrow_files(path)), *(path / "hidden_states" / name for name in looked_at)):
        digest.update(f"\n{file.relative_to(path)} {file.stat().st_size}\n".encode())
        digest.update(sampled(file))
    return digest.hexdigest()[:12]


def adopt_dataset(path: Path, target: Path, out: Mapping[str, Path], counts: Mapping[str, int], aux_layers: list[int], seed: int) -> None:
    """Take rows of a data set that share no sequence into the folders `out` by split, as `FeatureSet` reads them.

    Hidden states are linked where the file system can, and copied elsewhere. Rows are dealt by a hash of `seed` and their tokens, held-out
    rows first: asking for more training rows leaves the others as they are.

    Args:
        path: the folder of the data set.
        target: the folder of the target.
        out: folder by split, `heldout` and `train`.
        counts: rows by split.
        aux_layers: the target's layers whose outputs the data set holds.
        seed: of the split.

    Raises:
        UserError: a row does not fit the target, its files differ, or there are fewer distinct rows with an answer than `counts` asks for.
    """
    from datasets import load_from_disk  # type: ignore[import-untyped]

    from lib.draft.data import seal_features
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
    first = 0
    for split in ("heldout", "train"):
        rows = ranked[first : first + counts[split]]
        first += counts[split]
        with whole_directory(out[split]) as folder:
            (folder / "hidden_states").mkdir()
            for place, row in enumerate(rows):
                file = path / "hidden_states" / _name(row)
                _check_sample(file, data[row], facts, len(aux_layers) + 1)
                _link(file, folder / "hidden_states" / _name(place))
            data.select(rows).save_to_disk(folder)
            seal_features(folder, target=target_fingerprint(target), aux_layers=aux_layers, hidden_size=facts.hidden_size)
        logger.info("%s: %d rows of %d", split, len(rows), len(data))


def _ranked(data: Any, seed: int) -> list[int]:
    """Return one row of each sequence that has an answer, in the order in which they are dealt."""
    rows: dict[str, int] = {}
    for row, sample in enumerate(data):
        if any(sample["loss_mask"]):
            rows.setdefault(hashlib.sha256(f"{seed} {sample['input_ids']}".encode()).hexdigest(), row)
    return [row for _, row in sorted(rows.items())]


def _check_sample(file: Path, row: Mapping[str, Any], facts: TargetFacts, layers: int) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
        states, tokens = stored["hidden_states"], stored["token_ids"].tolist()
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(f"{KEY}: {file} cannot be read ({error}); let speculators generate it again") from None
    expected = (len(tokens), layers, facts.hidden_size)
    if tokens != row["input_ids"] or not len(tokens) == len(row["loss_mask"]) == row["seq_len"]:
        raise UserError(f"{KEY}: {file} is of other tokens than its row; let speculators generate it again")
    if tuple(states.shape) != expected or not states.isfinite().all():
        raise UserError(
            f"{KEY}: {file} holds {list(states.shape)} values, not {list(expected)} finite ones; let speculators generate it again"
        )
    if max(tokens) >= facts.vocab_size:
        raise UserError(
            f"{KEY}: {file} holds token {max(tokens)}, target.path has a vocabulary of {facts.vocab_size}; name the target it was made with"
        )
    if len(tokens) > facts.max_positions:
        raise UserError(f"{KEY}: {file} holds {len(tokens)} tokens, target.path takes {facts.max_positions}; prepare it with shorter rows")


def _link(source: Path, place: Path) -> None:
    try:
        os.link(source.resolve(), place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, place)


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
    cure = "give a folder that speculators' data preparation has written"
    if not path.is_dir():
        raise UserError(f"{KEY}={path} is not a directory; {cure}")
    try:
        names = [file["filename"] for file in read_json(path / "state.json")["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{KEY}={path} has no state.json that lists Arrow files; {cure}") from None
    for name in names:
        if not (path / name).is_file():
            raise UserError(f"{KEY}={path} lacks {name}, which its state.json lists; copy it again")
    return names


def _states(path: Path) -> set[str]:
    try:
        return {entry.name for entry in os.scandir(path / "hidden_states") if entry.name.endswith(".safetensors")}
    except OSError:
        raise UserError(f"{KEY}={path} has no folder hidden_states; let speculators generate the hidden states into it") from None


def _shape(file: Path) -> list[int]:
    """Return the shape of `hidden_states` from the header of a safetensors file."""
    try:
        with file.open("rb") as handle:
            header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        return [int(size) for size in header["hidden_states"]["shape"]]
    except (OSError, ValueError, KeyError, TypeError, MemoryError):
        raise UserError(f"{KEY}: {file} holds no hidden_states; let speculators generate it again") from None


def _name(row: int) -> str:
    return f"hs_{row}.safetensors"
