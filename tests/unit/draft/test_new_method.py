"""A head method is one file and its space. A new file in the folder trains a rung and is exported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from lib.features.samples import FeatureSet
from lib.methods import FIRST_OPTIONS
from lib.records.measurement import ProxyRecord, read_record

ROOT = Path(__file__).parents[3]
METHOD = '''
"""EAGLE3 with cross-entropy, each position with half the weight of the one before."""

from typing import Literal

from pydantic import Field

from lib.methods.eagle3 import Eagle3


class Halving(Eagle3):
    """A head of the test."""

    method: Literal["halving"] = Field(description="EAGLE3, each position with half the weight of the one before")
    loss_fn: Literal["ce"] = Field("ce", description="its one loss")
    ttt_step_loss_decay: float = Field(0.5, description="its one weight")

    title = "Halving"
'''
TRAIN = """
import sys
from pathlib import Path
from lib.config import Point, Recipe, Streaming, load_space
from lib.arm import Arm, Layout
from lib.draft.export import export_head
from lib.draft.rung import Places, run_rung

space, target, train, heldout, out = map(Path, sys.argv[1:])
recipe = {"target": "t", "features": "f", "draft": load_space(space).draft.model_dump(mode="json")}
recipe |= {"training": Recipe().model_dump(mode="json"), "rungs": [8]}
arm = Arm(Point(global_batch=4, lr=2e-3, warmup=0.0, accum=2), 0, Layout(1, 2, 2), recipe)
run_rung(arm, 0, Places(target, [train], [heldout], None, out / "rung0.acc", out / "rung0.state", out / "log"), Streaming())
export_head(out / "rung0.state", target, out / "head")
"""


def test_a_method_is_one_file_and_its_space(target: Path, features: FeatureSet, heldout: FeatureSet, tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    shutil.copytree(ROOT / "scripts", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "lib/methods/halving.py").write_text(METHOD)
    draft = {"method": "halving", "aux_layers": [1, 2, 3]}
    space = yaml.safe_load((ROOT / "config/spaces/eagle3-draft.yaml").read_text()) | {"draft": draft}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    arguments = [str(path) for path in (tmp_path / "space.yaml", target, features.path, heldout.path, tmp_path)]
    subprocess.run([sys.executable, "-c", TRAIN, *arguments], check=True, env=os.environ | {"PYTHONPATH": str(scripts)})
    record = read_record(tmp_path / "rung0.acc", ProxyRecord)
    assert (record.status, record.samples) == ("ok", 8)
    own = {"loss_fn": "ce", "ttt_step_loss_decay": 0.5}
    assert record.configuration["recipe"]["draft"] == draft | own | FIRST_OPTIONS | {"layers": 1, "draft_vocab_size": None}
    assert json.loads((tmp_path / "head/config.json").read_text())["speculators_model_type"] == "eagle3"
