"""Code of a model directory never runs in our calls unless it is trusted."""

import builtins
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from lib.draft.heads import build_head
from lib.features.samples import FeatureSet
from lib.methods import Draft
from lib.serving.vllm.driver import load_driver
from lib.target.load import TRUST, find_code, load_tokenizer
from lib.target.output import require_weights
from transformers import dynamic_module_utils

EVIL = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
Path({marker!r}).touch()

class EvilConfig(LlamaConfig):
    model_type = "evil"

class EvilForCausalLM(LlamaForCausalLM):
    config_class = EvilConfig

class EvilTokenizer(PreTrainedTokenizerFast):
    pass

def generate(*_, **__):
    pass
"""
CODE = {"AutoConfig": "evil.EvilConfig", "AutoModelForCausalLM": "evil.EvilForCausalLM"}


@pytest.fixture
def planted(target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a target of an architecture that only its own code knows; the code leaves a marker. Whoever is asked says yes."""
    folder = Path(shutil.copytree(target, tmp_path / "planted"))
    (folder / "evil.py").write_text(EVIL.format(marker=str(tmp_path / "ran")))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text(EVIL.format(marker=str(tmp_path / "ran")))
    change(folder / "config.json", auto_map=CODE, model_type="evil", architectures=["EvilForCausalLM"])
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": [None, "evil.EvilTokenizer"]}, tokenizer_class="EvilTokenizer")
    monkeypatch.setattr(builtins, "input", lambda *_: "yes")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return folder


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


def test_no_call_runs_it(planted: Path, draft: Draft, features: FeatureSet) -> None:
    for call in (load_tokenizer, require_weights, lambda folder: build_head(draft, folder, features, seed=0)):
        with pytest.raises(ValueError, match="trust_remote_code"):
            call(planted)
    assert not (planted.parent / "ran").exists()
    driver, parser = load_driver()
    with pytest.raises(Exception, match="trust_remote_code"):
        driver.get_tokenizer(str(planted), trust_remote_code=parser.parse_args([]).trust_remote_code)
    assert not (planted.parent / "ran").exists()


def test_a_target_that_transformers_knows_is_loaded_without_its_code(planted: Path, draft: Draft, features: FeatureSet) -> None:
    change(planted / "config.json", model_type="llama", architectures=["LlamaForCausalLM"])
    change(planted / "tokenizer_config.json", auto_map={}, tokenizer_class="PreTrainedTokenizerFast")
    require_weights(planted)
    build_head(draft, planted, features, seed=0)
    assert not (planted.parent / "ran").exists()


def test_where_it_is_trusted_every_call_takes_it(
    planted: Path, draft: Draft, features: FeatureSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRUST, "1")
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("a library asks"))
    assert type(load_tokenizer(planted)).__name__ == "EvilTokenizer"
    require_weights(planted)
    assert (planted.parent / "ran").exists()
    build_head(draft, planted, features, seed=0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", {"auto_map": CODE}),
        ("config.json", {"text_config": {"auto_map": CODE}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}),
        ("preprocessor_config.json", {"auto_map": {"AutoProcessor": "evil.EvilProcessor"}}),
    ],
)
def test_the_file_that_names_it_is_found(tmp_path: Path, name: str, content: dict[str, Any]) -> None:
    assert find_code(tmp_path) is None
    (tmp_path / name).write_text(json.dumps(content).replace("auto_map", r"auto\u005fmap"))
    assert find_code(tmp_path) == name
