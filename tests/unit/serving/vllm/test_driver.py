"""The load driver sends the tokens of the prompts that the workflow has written, and says how long the answers were."""

from pathlib import Path
from types import SimpleNamespace

from lib.features.prompts import Prompt, write_lines
from lib.serving.vllm.driver import _output_lengths, _sending
from lib.serving.workload import Workload


def test_every_prompt_is_sent_as_tokens_with_a_seed_of_its_own(tmp_path: Path) -> None:
    prompts = [Prompt(text, tuple(range(1, 2 + len(text)))) for text in ("12345678", "2024", " a\u2028b", "null")]
    write_lines(tmp_path / "qa.jsonl", prompts)
    workload = Workload({"qa": tmp_path / "qa.jsonl"}, output_tokens=8, concurrency=2, stop="eos", prompts_per_subset=3)
    driver = SimpleNamespace(get_samples=None)
    with _sending(driver, workload, "qa"):
        requests = driver.get_samples(None, None)  # type: ignore[misc]
    assert [request.prompt for request in requests] == [list(prompt.token_ids) for prompt in prompts[:3]]
    assert [request.prompt_len for request in requests] == [9, 5, 5]
    assert [request.request_id for request in requests] == ["0", "1", "2"] and {request.expected_output_len for request in requests} == {8}
    assert len({request.request_overrides["seed"] for request in requests}) == 3 and driver.get_samples is None


def test_the_lengths_of_answers_are_their_mean_and_percentiles() -> None:
    assert _output_lengths([*range(101)]) == {
        **{"mean_output_tokens": 50, "p50_output_tokens": 50, "p90_output_tokens": 90, "p99_output_tokens": 99}
    }
