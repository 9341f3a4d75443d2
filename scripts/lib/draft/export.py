"""Export of a trained head to the folder that vLLM and speculators load."""

import shutil
from pathlib import Path

from lib.errors import UserError
from lib.files import whole_directory
from lib.manifest import read_manifest
from lib.target.load import target_fingerprint


def export_head(state_dir: Path, target: Path, out_dir: Path) -> None:
    """Copy the head in `state_dir`, which is in speculators' format, to `out_dir`.

    Raises CorruptState for a damaged state and UserError when the head was trained for another target.
    """
    trained_for = read_manifest(state_dir)["identity"]["features"]["target"]
    if trained_for != (fingerprint := target_fingerprint(target)):
        raise UserError(
            f"target.path={target} is {fingerprint}, but the head in {state_dir} was trained for {trained_for}; export with that target"
        )
    with whole_directory(out_dir) as folder:
        shutil.copytree(state_dir / "head", folder, dirs_exist_ok=True)
