"""The load driver sends the prompts that the workflow has read, even if vLLM's own reader would read the file differently."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from lib.serving.vllm.driver import _sending
from lib.serving.workload import Workload

PROMPTS = {"numbers": ["12345678", "2024", "3.14159", "7"], "text": ["def main():", " a\u2028b", "null"]}


def _tokenizer(text: str) -> SimpleNamespace:
    return SimpleNamespace(input_ids=list(text))


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "with a byte order mark"])
@pytest.mark.parametrize("name", PROMPTS)
def test_every_prompt_is_sent_as_text_with_a_seed_of_its_own(tmp_path: Path, name: str, mark: str) -> None:
    file = tmp_path / f"{name}.txt"
    file.write_text(mark + "".join(json.dumps({"prompt": prompt, "output_tokens": 3}) + "\n" for prompt in PROMPTS[name]))
    workload = Workload({name: file}, output_tokens=8, concurrency=2, prompts_per_subset=3)
    driver = SimpleNamespace(get_samples=None)
    with _sending(driver, workload, name):
        requests = driver.get_samples(None, _tokenizer)  # type: ignore[misc]
    assert [request.prompt for request in requests] == PROMPTS[name][:3]
    assert [request.prompt_len for request in requests] == [len(prompt) for prompt in PROMPTS[name][:3]]
    assert [request.request_id for request in requests] == ["0", "1", "2"] and {request.expected_output_len for request in requests} == {8}
    assert len({request.request_overrides["seed"] for request in requests}) == 3 and driver.get_samples is None
