"""Names follow content: what goes into the features is in their name, and nothing else."""

import json
import platform
from pathlib import Path

import pytest
from lib.errors import UserError
from lib.experiment import load_experiment

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


def test_a_workload_of_subsets_is_known_by_what_its_files_hold_and_not_by_where_they_lie(tmp_path: Path) -> None:
    def asked(folder: str, **workload: object) -> dict:
        return load_experiment({"serving": {"workload": {"path": str(tmp_path / folder), **workload}}}).asked

    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for name in ("qa", "math"):
            (tmp_path / folder / f"{name}.jsonl").write_text(json.dumps({"prompt": name}) + "\n")
    experiment = load_experiment({"serving": {"workload": {"path": str(tmp_path / "here")}}})
    assert experiment.subsets == {name: str(tmp_path / f"here/{name}.jsonl") for name in ("math", "qa")}
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
            {"features": {"prompt_tokens": 400, "response_tokens": 113}, "serving": {"max_model_len": 512}},
            "features.prompt_tokens + features.response_tokens = 513 is more than the target's 512 positions; lower it",
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
