"""Names depend on content: the name of the features depends on their inputs and on nothing else."""

import json
import platform
import re
from pathlib import Path

import pytest
import yaml
from lib.errors import UserError
from lib.experiment import load_experiment
from lib.report.plan import format_plan, make_plan
from tokenizers import Tokenizer, models, pre_tokenizers

pytestmark = pytest.mark.usefixtures("at_the_root")


@pytest.fixture
def target(hollow_target: Path) -> str:
    """Return the folder of a target that is whole, if only to look at."""
    return str(hollow_target)


def features(target: str, prompts: Path | None = None) -> str:
    counts = {"train_prompts": 2, "heldout_prompts": 1, "serving_prompts": 1}
    return load_experiment({"target": {"path": target}, "features": {**counts, "prompts": prompts and str(prompts)}}).features


def test_prompts_of_the_standard_library_are_those_of_its_version(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = features(target)
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.99")
    assert features(target) != before


def test_prompts_of_a_file_are_what_it_says_under_any_python(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"prompt": text}) for text in "abcd"]
    one, other, shuffled = (tmp_path / f"{name}.jsonl" for name in ("one", "other", "shuffled"))
    one.write_text("\n".join(lines))
    other.write_text("\n".join([*lines, json.dumps({"prompt": "e"})]))
    shuffled.write_text("\n".join(lines[::-1]))
    before = features(target, one)
    assert features(target, other) != before
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.99")
    assert features(target, one) == features(target, shuffled) == before


def test_conversations_are_known_by_their_template_and_its_arguments(target: str, tmp_path: Path) -> None:
    own, one, other = (tmp_path / name for name in ("own.jsonl", "one.jinja", "other.jinja"))
    own.write_text("".join(json.dumps({"messages": [{"role": "user", "content": text}]}) + "\n" for text in "abcd"))
    one.write_text("{{ messages }}")
    other.write_text("{{ messages }}")

    def name(**changes: object) -> str:
        counts = {"train_prompts": 2, "heldout_prompts": 1, "serving_prompts": 1}
        return load_experiment({"target": {"path": target}, "features": {**counts, "prompts": str(own), **changes}}).features

    before = name(chat_template=str(one))
    assert name(chat_template=str(other), max_dropped=0.5) == before
    assert name(chat_template=str(one), template_arguments={"enable_thinking": False}) != before
    other.write_text("{{ messages }}.")
    assert name(chat_template=str(other)) != before
    with pytest.raises(UserError, match="the target's tokenizer has no chat template"):
        name()
    Path(target, "chat_template.jinja").write_text("{{ messages }}")
    own_template = name()
    Path(target, "chat_template.jinja").write_text("{{ messages }}.")
    assert name() != own_template


def test_a_workload_of_subsets_is_known_by_what_its_files_hold_and_not_by_where_they_lie(tmp_path: Path) -> None:
    def asked(folder: str, **workload: object) -> dict:
        return load_experiment({"serving": {"workload": {"path": str(tmp_path / folder), **workload}}}).asked

    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for name in ("qa", "math"):
            (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps({"prompt": name}) + "\n")
    experiment = load_experiment({"serving": {"workload": {"path": str(tmp_path / "here")}}})
    (folder,) = {str(Path(path).parent) for path in experiment.subsets.values()}
    assert folder.startswith("resources/workload/")
    assert experiment.subsets == {name: f"{folder}/{name}.jsonl" for name in ("math", "qa")}
    assert asked("here") == asked("there") != load_experiment({}).asked
    before = asked("here")
    assert asked("here", top_p=0.95) != before
    (tmp_path / "here/qa.jsonl").write_text(json.dumps({"prompt": "other"}) + "\n")
    assert asked("here") != before


def test_a_ceiling_is_for_one_request_in_flight_on_a_dense_target() -> None:
    with pytest.raises(UserError, match=r"concurrency = 16 decoding is not bound by memory bandwidth alone; set it to 1"):
        load_experiment({"serving": {"sol_ceiling": "GB300"}})
    assert load_experiment({"serving": {"sol_ceiling": "GB300", "workload": {"concurrency": 1}}})


def test_a_bad_prompt_file_of_the_workload_is_named_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "qa.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r'serving\.workload\.path=.*qa\.jsonl line 1 is not \{"prompt": "some text"\}'):
        load_experiment({"serving": {"workload": {"path": str(tmp_path)}}})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"serving": {"max_model_len": 600}}, "serving.max_model_len = 600 is more than the target's 512 positions; lower it"),
        (
            {"features": {"prompt_tokens": 400, "response_tokens": 112}, "serving": {"max_model_len": 512}},
            "features.prompt_tokens + features.response_tokens + 1 = 513 is more than the target's 512 positions; lower it",
        ),
    ],
)
def test_what_is_too_long_for_the_target_is_named(target: str, change: dict, line: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_experiment({"target": {"path": target}} | change)
    assert str(refusal.value) == line


@pytest.mark.parametrize("section", [{"streaming": {"url": "s3:/bucket"}}, {"publish": {"lake": "s3:/bucket"}}])
def test_a_url_that_names_no_bucket_is_refused_by_its_key(section: dict) -> None:
    [(name, options)] = section.items()
    with pytest.raises(UserError, match=rf"^{name}\.{next(iter(options))} = 's3:/bucket' is neither a local path nor"):
        load_experiment(section)
    assert load_experiment({name: {key: "s3://bucket/folder" for key in options}})


def with_tokenizer(target: str, *added: str) -> str:
    """Give a target the tokenizer of 512 tokens, a letter each, and tokens beyond its embedding."""
    letters = {chr(0x4E00 + number): number for number in range(1, 512)}
    tokenizer = Tokenizer(models.WordLevel({**letters, "?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(added))
    tokenizer.save(f"{target}/tokenizer.json")
    return target


def prompts(path: Path, *texts: str) -> str:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return str(path)


def test_a_prompt_of_the_workload_that_is_too_long_for_the_engine_is_refused_by_the_plan(target: str, tmp_path: Path) -> None:
    serving = {"max_model_len": 100, "workload": {"path": prompts(tmp_path / "w.jsonl", "a", "b " * 40), "output_tokens": 61}}
    with pytest.raises(UserError, match=r"^serving\.max_model_len = 100 is too short for a prompt of 40 tokens in the subset w and"):
        load_experiment({"target": {"path": with_tokenizer(target)}, "serving": serving})
    serving["max_model_len"] = 101
    assert load_experiment({"target": {"path": target}, "serving": serving})


@pytest.mark.parametrize("key", ["features", "workload"])
def test_a_token_beyond_the_embedding_is_refused_where_a_prompt_holds_it(target: str, tmp_path: Path, key: str) -> None:
    def load(*texts: str) -> object:
        own = prompts(tmp_path / "own.jsonl", *texts)
        counts = {"train_prompts": 1, "heldout_prompts": 1, "serving_prompts": 1}
        section = {"features": {**counts, "prompts": own}} if key == "features" else {"serving": {"workload": {"path": own}}}
        return load_experiment({"target": {"path": target}, **section})

    with_tokenizer(target, "<pad>")
    assert load("a", "b", "c")
    with pytest.raises(UserError, match=r"^target\.path=\S+: tokenizer\.json has token 512 \('<pad>'\), but the target's .* holds 512;"):
        load("a", "b", "c <pad>")
    Tokenizer(models.WordLevel({"a": 0, "b": 512}, unk_token="a")).save(f"{target}/tokenizer.json")
    with pytest.raises(UserError, match=r"has token 512 \('b'\)"):
        load("a", "b", "c")
    Path(target, "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"^target\.path=\S+: tokenizer\.json cannot be read"):
        load("a", "b", "c")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"serving": {"tensor_parallel": 64}}, "serving.tensor_parallel = 64 does not divide the target's 2 attention heads; lower it"),
        ({"serving": {"kv_cache_gib": 1e-9}}, "serving.kv_cache_gib = 1e-09: input should be greater than or equal to 0.001; correct it"),
        ({"serving": {"start_timeout_s": 1}}, "serving.start_timeout_s = 1: input should be greater than or equal to 10; correct it"),
        ({"serving": {"environment": {"A": 1}}}, "serving.environment.A = 1: input should be a valid string; correct it"),
    ],
)
def test_what_the_engine_would_refuse_is_refused_by_the_plan(change: dict, line: str) -> None:
    with pytest.raises(UserError) as refusal:
        load_experiment(change)
    assert str(refusal.value).removeprefix("configuration: ") == line


def test_variables_of_the_engine_are_filed_with_the_numbers_and_none_changes_no_name() -> None:
    asked = load_experiment({"serving": {"environment": {"VLLM_USE_DEEP_GEMM": "0"}}}).asked
    assert asked["environment"] == {"VLLM_USE_DEEP_GEMM": "0"}
    assert (
        load_experiment({"serving": {"environment": {}}}).asked
        == load_experiment({}).asked
        == {key: value for key, value in asked.items() if key != "environment"}
    )


def test_an_eagle3_head_that_vllm_does_not_serve_is_refused_by_its_key(tmp_path: Path) -> None:
    space = yaml.safe_load(Path("config/spaces/eagle3-draft.yaml").read_text())
    space["draft"]["aux_layers"] = [1, 2]
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    with pytest.raises(
        UserError, match=r"space\.yaml: draft\.aux_layers = \[1, 2\] are 2, and vLLM serves EAGLE3 heads that read 3; name 3$"
    ):
        load_experiment({"space": str(tmp_path / "space.yaml")})


def test_a_mask_token_beyond_the_vocabulary_is_refused_by_its_key(tmp_path: Path) -> None:
    space = yaml.safe_load(Path("config/spaces/dflash-draft.yaml").read_text())
    space["draft"]["mask_token_id"] = 1024
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    with pytest.raises(UserError, match=r"space\.yaml: draft\.mask_token_id = 1024 is beyond the target's vocabulary of 1024; lower it"):
        load_experiment({"space": str(tmp_path / "space.yaml")})


def test_a_preflight_is_done_once_for_a_target_a_head_and_a_serving_configuration() -> None:
    one = load_experiment({})
    assert load_experiment({"serving": {"repeats": 3}, "seed": 1, "training": {"beta1": 0.8}}).preflight == one.preflight
    others = [{"serving": {"max_num_seqs": 32}}, {"target": {"tiny": {"seed": 1}}}, {"space": "config/spaces/dflash-draft.yaml"}]
    assert len({one.preflight, *(load_experiment(other).preflight for other in others)}) == 4
    line = next(line for line in format_plan(make_plan(one, Path("nowhere"))).splitlines() if line.startswith("Preflight: "))
    assert "before any training" in line and f"results/preflight/{one.preflight}/preflight.json" in line


@pytest.mark.parametrize("word", ["--model=x", "--max_num_seqs", "--no-enforce-eager", "--speculative-config.method=x", "--port", "-tp"])
def test_an_engine_argument_that_has_a_key_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=rf"^serving\.extra_args = '{re.escape(word)}' is not taken: .*; use the key of serving for it$"):
        load_experiment({"serving": {"extra_args": ["--block-size", "32", word]}})


def test_engine_settings_change_the_measurement_and_not_the_training() -> None:
    one = load_experiment({})
    for change in ({"extra_args": ["--block-size", "32"]}, {"prefix_caching": True}, {"data_parallel": 2}, {"kv_cache_dtype": "bfloat16"}):
        other = load_experiment({"serving": change})
        assert other.asked != one.asked and other.search.recipe == one.search.recipe
