"""Both ways of docs/bring-your-own.md with a small Qwen3. Files have the sizes of the test, commands are unchanged."""

import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lib.experiment import load_experiment
from lib.features.samples import MANIFEST, FeatureSet
from lib.target.corpus import stdlib_documents
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from tests.workflow.clones import ROOT, Clone, clone, jobs, merged

pytestmark = [pytest.mark.slow, pytest.mark.long]

GUIDE = (ROOT / "docs/bring-your-own.md").read_text()
POINT = {"global_batch": 4, "lr": 3e-3, "warmup": 0.0}
SMALL = {
    "my-space.yaml": {
        **{"draft": {"aux_layers": [1, 2, 3]}, "parameters": {name: [value] for name, value in POINT.items()}},
        **{"rungs": {"samples": [12]}, "standing": POINT},
    },
    "my-prompts.yaml": {
        "strategy": "grid",
        "features": {"train_prompts": 12, "heldout_prompts": 4, "serving_prompts": 4, "prompt_tokens": 40, "response_tokens": 23},
        "serving": {
            "dtype": "float32",
            "max_model_len": 64,
            "kv_cache_gib": 0.02,
            "top_k": 1,
            "repeats": 1,
            "workload": {"output_tokens": 16},
        },
    },
    "my-dataset.yaml": {
        "strategy": "grid",
        "features": {"train_prompts": 8, "heldout_prompts": 3},
        "serving": {
            **{"dtype": "float32", "max_model_len": 64, "kv_cache_gib": 0.02, "top_k": 1, "repeats": 1},
            "workload": {"path": "my-workload.jsonl", "output_tokens": 16},
        },
    },
}
"""What of the guide's files is smaller here."""


def write_model(folder: Path) -> None:
    """Write a random Qwen3 with a tokenizer of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(list(stdlib_documents().values())[:8], trainer)
    template = "{% for turn in messages %}{{ turn.role[0] }}:{{ turn.content }}{{ eos_token }}{% endfor %}a:"
    special = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **special).save_pretrained(folder)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = Qwen3Config(**shape, head_dim=32, vocab_size=320, max_position_embeddings=64, initializer_range=0.08, eos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)


def write_prompts(path: Path, lines: slice) -> None:
    """Write lines of the standard library as prompts of at most 35 tokens with the model's template."""
    starts = sorted({line.strip()[:30] for text in list(stdlib_documents().values())[:8] for line in text.splitlines() if len(line) > 60})
    path.write_text("".join(json.dumps({"prompt": start, "source": "stdlib"}) + "\n" for start in starts[lines]))


def commands(configuration: str) -> list[list[str]]:
    """Return the guide's commands that use a configuration, dry run first, without the program."""
    found = [shlex.split(line) for line in re.findall(r"^    (\S.*)$", GUIDE, re.MULTILINE)]
    assert {program for program, *_ in found} == {".venv/bin/snakemake", ".venv/bin/python"}
    dry, wet = [words for program, *words in found if program == ".venv/bin/snakemake" and configuration in words]
    assert dry == [*wet, "--dry-run"]
    return [dry, wet]


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone with the guide's files, model and prompts."""
    one = clone(tmp_path_factory.mktemp("mine"), small=False)
    files = re.findall(r"```yaml\n# (\S+)\n(.*?)```", GUIDE, re.DOTALL)
    assert [name for name, _ in files] == list(SMALL)
    for name, text in files:
        (one.root / name).write_text(yaml.safe_dump(merged(yaml.safe_load(text), SMALL[name])))
    write_model(one.root / "models/my-model")
    write_prompts(one.root / "my-prompts.jsonl", slice(40))
    write_prompts(one.root / "my-workload.jsonl", slice(40, 44))
    return one


@pytest.fixture(scope="module")
def searched(mine: Clone) -> Clone:
    """The clone after the guide's search with prompts, up to the decision that names the finalists; the other one goes on into vLLM."""
    dry, wet = commands("my-prompts.yaml")
    plan = jobs(mine.snakemake(*dry).stdout)
    assert {"extract_features", "decide_cohort", "choose_champion", "give_verdict", "hand_over_champion"} <= plan.keys()
    with contextlib.chdir(mine.root):
        search = load_experiment(yaml.safe_load(Path("my-prompts.yaml").read_text())).search
    mine.snakemake(f"results/search/{search.finalists_folder}/rung{search.top_rung}.json", *wet)
    return mine


@pytest.fixture(scope="module")
def dataset(searched: Clone) -> Path:
    """A data set as speculators extracts them: bfloat16, no manifest, a column more; of what the search with prompts has extracted."""
    (train,) = searched.root.glob("resources/features/*/1of1/train")
    folder = searched.root / "my-dataset"
    shutil.copytree(train, folder)
    (folder / MANIFEST).unlink()
    for file in (folder / "hidden_states").iterdir():
        stored = load_file(file)
        save_file({"hidden_states": stored["hidden_states"].bfloat16(), "token_ids": stored["token_ids"]}, file)
    return folder


def test_a_model_and_prompts_become_a_search(searched: Clone) -> None:
    (trained,) = searched.records("*/rung0.acc").values()
    (decision,) = searched.records("search/finalists-*/rung0.json").values()
    assert (trained["status"], decision["arms"]) == ("ok", [trained["arm"]])
    assert trained["context"]["workload"]["train_samples"] == 12


def test_described_where_it_is_the_search_is_known_where_it_is_not(searched: Clone, dataset: Path) -> None:
    """The guide's command; then model and data set are out of reach, and every name is the same."""
    ((_, *words, _, saved),) = [shlex.split(line) for line in re.findall(r"^    (\.venv/bin/python .*)$", GUIDE, re.MULTILINE)]
    printed = subprocess.run([sys.executable, *words], cwd=searched.root, check=True, capture_output=True, text=True).stdout
    (searched.root / saved).write_text(printed)
    values = yaml.safe_load((searched.root / "my-dataset.yaml").read_text())
    with contextlib.chdir(searched.root):
        here = load_experiment(values)
        for folder in (dataset, searched.root / "models"):
            folder.rename(folder.with_suffix(".away"))
        try:
            away = load_experiment(values | {"manifest": saved})
        finally:
            for folder in (dataset, searched.root / "models"):
                folder.with_suffix(".away").rename(folder)
    assert (away.search.id, away.features, away.model) == (here.search.id, here.features, "my-model")


def test_a_model_and_a_speculators_dataset_become_a_search(searched: Clone, dataset: Path) -> None:
    dry, wet = commands("my-dataset.yaml")
    plan = jobs(searched.snakemake(*dry).stdout)
    assert {"adopt_dataset", "decide_cohort", "train_rung"} <= plan.keys() and not {"extract_features", "write_prompts"} & plan.keys()
    searched.snakemake("results/champion.json", *wet)
    champion = searched.records("champion.json")["champion.json"]
    identity = champion["context"]["identity"]
    assert (identity["model"], identity["hf_path"]) == ("my-model", "models/my-model")
    assert champion["context"]["workload"]["dataset"] == "my-workload.jsonl" and champion["acceptance_length"] >= 1
    features = champion["configuration"]["recipe"]["features"]
    train, heldout = (FeatureSet(searched.root / f"resources/features/{features}/{split}") for split in ("train", "heldout"))
    assert (len(train), len(heldout)) == (8, 3)
    sequences = [tuple(part.sample(index)["input_ids"].tolist()) for part in (train, heldout) for index in range(len(part))]
    assert len(set(sequences)) == 11
    originals = {tuple(stored["token_ids"].tolist()): stored for stored in map(load_file, (dataset / "hidden_states").iterdir())}
    assert torch.equal(train.sample(0)["hidden_states"], originals[sequences[0]]["hidden_states"][:, :-1].flatten(1))
