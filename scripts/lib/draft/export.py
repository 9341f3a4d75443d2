"""A trained head as the folder that vLLM and speculators load."""

from pathlib import Path
from typing import Any

from lib.draft.heads import HeadSpec, assemble_head
from lib.draft.state import read_state
from lib.errors import UserError
from lib.files import whole_directory
from lib.target.load import target_fingerprint


def export_head(state_dir: Path, target: Path, out_dir: Path) -> None:
    """Write the head of the state in `state_dir` to `out_dir` in speculators' format, in fp32.

    The folder leaves out what the loader takes from the target, and d2t/t2d when the vocabulary is the target's own.
    Raises CorruptState for a damaged state and UserError when `target` is not the one the head was trained for.
    """
    state = read_state(state_dir)
    trained_for = state.identity["features"]["target"]
    if trained_for != (fingerprint := target_fingerprint(target)):
        raise UserError(f"target.path={target} is {fingerprint}, state {state_dir} was trained for {trained_for}; export with that target")
    stored = state.identity["spec"]
    spec = HeadSpec(**{**stored, "aux_layers": tuple(stored["aux_layers"])})
    vocabulary = None if spec.draft_vocab_size is None else (state.head["t2d"], state.head["d2t"])
    model: Any = assemble_head(spec, target, vocabulary, seed=0)
    model.load_state_dict(state.head, strict=False)
    with whole_directory(out_dir) as folder:
        model.save_pretrained(folder)
