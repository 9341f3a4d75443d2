"""A measurement in the real server equals an independent count for the same head and prompts."""

import json
import math
import operator
import os
import shutil
import signal
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import psutil
import pytest
from lib.methods import Draft, read_draft
from lib.serving.acceptance import measure, ready
from lib.serving.counters import SpeculationCounters
from lib.serving.engine import EngineError, EngineSettings, Speculation
from lib.serving.exported import HeadDiffers
from lib.serving.vllm import driver, engine
from lib.serving.vllm.driver import load_driver
from lib.serving.vllm.engine import Server, running
from lib.serving.workload import Workload
from lib.target.load import load_tokenizer
from safetensors.torch import load_file, save_file

from tests.independent.speculative import Counts, speculate_greedily, speculate_on_itself
from tests.unit.serving.vllm.test_surroundings import POISON

pytestmark = pytest.mark.slow

EAGLE3 = read_draft({"method": "eagle3", "aux_layers": (1, 2, 3), "loss_fn": "ce"})
DFLASH = read_draft({"method": "dflash", "layers": 2, "aux_layers": (1, 2, 3), "anchors": 12, "loss_fn": "ce"})

FOREIGN = "the-key-of-another"
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

MakeHead = Callable[[Draft, int], Path]


@pytest.fixture(scope="module")
def ends(target: Path) -> set[int]:
    """Return the end-of-sequence tokens of `ending`, of which the line break and the underscore occur in answers."""
    return {0, *load_tokenizer(target).convert_tokens_to_ids(["Ċ", "_"])}


@pytest.fixture(scope="module")
def ending(target: Path, ends: set[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the target with more end-of-sequence tokens."""
    folder = Path(shutil.copytree(target, tmp_path_factory.mktemp("ending") / "a target"))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": sorted(ends)}))
    return folder


@pytest.mark.parametrize(
    ("draft", "steps", "at_least"),
    [
        pytest.param(EAGLE3, 50, 1.4, id="EAGLE3", marks=pytest.mark.long),
        pytest.param(DFLASH, 60, 1.2, id="DFlash of two layers"),
        pytest.param(EAGLE3.model_copy(update={"draft_vocab_size": 200}), 50, 1.3, id="EAGLE3 with a reduced vocabulary"),
        pytest.param(DFLASH.model_copy(update={"draft_vocab_size": 200}), 60, 1.1, id="DFlash, reduced", marks=pytest.mark.long),
    ],
)
def test_counters_equal_an_independent_simulation(
    target: Path,
    ending: Path,
    ends: set[int],
    serving_prompts: list[list[int]],
    workload: Workload,
    settings: EngineSettings,
    make_head: MakeHead,
    tmp_path: Path,
    draft: Draft,
    steps: int,
    at_least: float,
) -> None:
    """Of each prompt, of the head that the engine was started with and of those that took its place, and of each head in this process."""
    heads = {number: make_head(draft, number) for number in (steps, 0)}
    by_prompt = {
        number: [speculate_greedily(target, head, [prompt], workload.output_tokens, draft.positions) for prompt in serving_prompts]
        for number, head in heads.items()
    }
    speculation = Speculation(draft.served_as, heads[steps], draft.positions)
    cached = replace(settings, prefix_caching=True)
    with ready(engine, ending, speculation, cached, workload, tmp_path / "log", 120) as server:
        record = measure(server, workload, 2)
        _require_equal(record, by_prompt[steps], workload)
        assert at_least <= record["acceptance_length"] <= 4
        refused = _damaged(heads[0], tmp_path / "damaged")
        for number in (0, steps):
            with pytest.raises(HeadDiffers, match=r"damaged differs from \S+ in tensors\.fc\.weight$"):
                server.exchange(refused)
            server.exchange(heads[number])
            exchanged = measure(server, replace(workload, concurrency=8 if number else 1), 1)
            _require_equal(exchanged, by_prompt[number], workload)
            assert exchanged["context"] == record["context"] | {"draft": str(heads[number])}
        for number in [0, steps] * 9:
            server.exchange(heads[number])
        assert _counted(measure(server, workload, 1)) == _expected(by_prompt[steps])
        ended = measure(server, replace(workload, stop="eos"), 1)
    counts = [speculate_greedily(target, heads[steps], [prompt], 40, draft.positions, ends) for prompt in serving_prompts]
    assert _counted(ended) == _expected(counts) != _counted(record["repeats"][0])
    lengths = [one.acceptance_length if one.drafts else None for one in counts]
    assert ended["prompt_acceptance"] == {"code": lengths[:6], "qa": lengths[6:]}
    assert [subset["input_tokens_mean"] for subset in record["workload"]["subsets"].values()] == [16, 16]
    assert record["context"]["method"] == draft.served_as
    assert record["context"]["dtype"] == "torch.float32"
    assert record["context"]["prefix_caching"] is True
    assert "rms_norm with one weight per layer" in record["context"]["repairs"]


def _require_equal(record: dict[str, Any], by_prompt: list[Counts], workload: Workload) -> None:
    """Require the counters of the simulation in total, in each repeat and subset, and of each prompt."""
    expected = {"code": by_prompt[:6], "qa": by_prompt[6:]}
    repeats = len(record["repeats"])
    assert _counted(record) == _expected(by_prompt * repeats)
    for repeat in record["repeats"]:
        assert _counted(repeat) == _expected(by_prompt)
        for name, counts in expected.items():
            assert _counted(repeat["subsets"][name]) == _expected(counts)
            assert _counted(record["subsets"][name]) == _expected(counts * repeats)
            assert repeat["subsets"][name]["output_tokens"] == len(counts) * workload.output_tokens
    assert record["prompt_acceptance"] == {name: [one.acceptance_length for one in counts] for name, counts in expected.items()}


def _damaged(head: Path, out: Path) -> Path:
    """Return a copy of a head whose first layer takes fewer features."""
    if not out.exists():
        shutil.copytree(head, out)
        tensors = load_file(out / "model.safetensors")
        save_file(tensors | {"fc.weight": tensors["fc.weight"][:, 1:].contiguous()}, out / "model.safetensors")
    return out


@pytest.fixture(scope="module")
def server(ending: Path, settings: EngineSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server whose draft is the target itself, where the environment holds all that has kept servers and drivers from working."""
    long = tmp_path_factory.mktemp("long") / ("t" * 118)
    long.mkdir()
    with pytest.MonkeyPatch.context() as environment:
        for name in (engine.KEY, driver.KEY):
            environment.setenv(name, FOREIGN)
        for name, value in POISON.items():
            environment.setenv(name, value)
        environment.setenv("TMPDIR", str(long))
        environment.setattr(tempfile, "tempdir", None)
        with running(ending, Speculation("draft_model", ending, 3), settings, tmp_path_factory.mktemp("log") / "log") as server:
            server.wait_until_ready(120)
            yield server


def test_the_target_as_its_own_draft_has_everything_accepted(server: Server, workload: Workload) -> None:
    counted, by_request, _ = _run(server, workload)
    assert reduce(operator.add, by_request) == counted
    assert [request.acceptance_length for request in by_request] == [4] * 16
    assert counted.acceptance_length == 4
    assert counted.per_position_acceptance == [1, 1, 1]


def test_seeded_sampling_repeats_exactly_and_follows_the_temperature(
    server: Server, target: Path, serving_prompts: list[list[int]], workload: Workload
) -> None:
    temperature = 0.5
    sampled = replace(workload, temperature=temperature, seed=1)
    first, by_request, texts = _run(server, sampled)
    assert (first, by_request, texts) == _run(server, sampled)
    assert reduce(operator.add, by_request) == first
    others = [_run(server, replace(sampled, seed=seed))[0] for seed in (2, 3)]
    assert others[0] != first
    expected = speculate_on_itself(target, serving_prompts, workload.output_tokens, 3, temperature, seed=0)
    drafts, accepted = (sum(getattr(one, name) for one in (first, *others)) for name in ("drafts", "accepted"))
    # The mean square of a count is the sum of 2i + 1 over the positions i it reached.
    reached = [count / expected.drafts for count in expected.accepted_per_position]
    variance = sum((2 * i + 1) * rate for i, rate in enumerate(reached)) - sum(reached) ** 2
    five_standard_errors = 5 * math.sqrt(variance / drafts + variance / expected.drafts)
    assert five_standard_errors < 0.25, "wide enough to hide a temperature that does not arrive: that costs 0.35"
    assert 1 + accepted / drafts == pytest.approx(expected.acceptance_length, abs=five_standard_errors)


def test_an_answer_ends_at_any_end_of_sequence_token_of_the_target(server: Server, workload: Workload) -> None:
    whole = [server.send(workload, subset) for subset in workload.subsets]
    ended = [server.send(replace(workload, stop="eos"), subset) for subset in workload.subsets]
    texts = [
        (one, other) for all_of, some_of in zip(whole, ended, strict=True) for one, other in zip(all_of.texts, some_of.texts, strict=True)
    ]
    assert all(one.startswith(other) for one, other in texts) and any(len(other) < len(one) for one, other in texts)
    assert [answers.speed["mean_output_tokens"] for answers in whole] == [40, 40]
    for answers in ended:
        assert answers.speed["mean_output_tokens"] == answers.speed["output_tokens"] / len(answers.texts) < 40
        assert answers.speed["p50_output_tokens"] <= answers.speed["p99_output_tokens"] <= 40
        assert sum(one.drafts for one in answers.requests) == answers.counted[0]


def test_the_context_is_complete_and_jsonlike(server: Server) -> None:
    context = server.context()
    assert context["target"] == context["draft"] == str(server.target)
    assert (context["num_speculative_tokens"], context["max_num_seqs"], context["max_model_len"]) == (3, 8, 128)
    assert context["kv_cache_memory_bytes"] == int(0.02 * 2**30)
    assert (context["device_type"], context["workers"], context["cudagraph_mode"]) == ("cpu", 1, "NONE")
    assert context["decode_context_parallel"] == 1
    assert "commit" in context  # None in the CPU wheel
    assert all(isinstance(value, str | int | float | bool | list | None) for value in context.values())


@pytest.mark.parametrize("path", ["/collective_rpc", "/reset_prefix_cache", "/v1/models", "/server_info", "/version", "/metrics/../sleep"])
@pytest.mark.parametrize("key", [None, FOREIGN], ids=["without a key", "with the key of another"])
def test_a_request_that_lacks_the_servers_own_key_is_refused(server: Server, path: str, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with pytest.raises(urllib.error.HTTPError) as refused:
        DIRECTLY.open(urllib.request.Request(server.url + path, headers=headers), timeout=10)
    assert refused.value.code == 401


def test_the_key_stands_neither_in_an_argument_nor_in_the_log(server: Server) -> None:
    family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    assert not [word for process in family for word in process.cmdline() if server.key in word]
    assert server.key not in server.log.read_text()


def test_requests_that_do_not_fit_are_an_error_that_leaves_nothing_behind(server: Server, workload: Workload) -> None:
    before = _run(server, workload)
    with pytest.raises(EngineError, match=r"^10 of 10 requests failed"):
        server.send(replace(workload, output_tokens=1000), "qa")
    assert _run(server, workload) == before


def test_the_driver_reads_the_first_prompts_of_a_file(server: Server, workload: Workload) -> None:
    _, all_requests, all_texts = _run(server, workload)
    _, requests, texts = _run(server, replace(workload, prompts_per_subset=2))
    assert texts == [*all_texts[:2], *all_texts[6:8]]
    assert requests == [*all_requests[:2], *all_requests[6:8]]


def test_the_driver_is_loaded_once() -> None:
    assert load_driver() is load_driver()


def test_a_server_killed_midway_is_an_error(server: Server, workload: Workload) -> None:
    """The last test of this server."""
    engine_core = psutil.Process(server.process.pid).children(recursive=True)[-1].pid

    def kill_soon() -> None:
        time.sleep(0.5)
        os.kill(engine_core, signal.SIGKILL)

    threading.Thread(target=kill_soon).start()
    with pytest.raises(EngineError, match=r"^\d+ of 10 requests failed, the first with: .*\(log: \S+\)$"):
        server.send(replace(workload, output_tokens=100, concurrency=1), "qa")
    with pytest.raises(EngineError, match="did not answer /metrics"):
        server.process.wait(30)
        server.ask("/metrics")


def _run(server: Server, workload: Workload) -> tuple[SpeculationCounters, list[SpeculationCounters], list[str]]:
    before = server.counters()
    runs = [server.send(workload, subset) for subset in workload.subsets]
    counted = server.counters().since(before)
    return counted, [request for run in runs for request in run.requests], [text for run in runs for text in run.texts]


def _counted(record: dict[str, Any]) -> tuple[int, int, int, list[int]]:
    per_position = [round(rate * record["drafts"]) for rate in record["per_position_acceptance"]]
    return record["drafts"], record["draft_tokens"], record["accepted"], per_position


def _expected(counts: list[Counts]) -> tuple[int, int, int, list[int]]:
    per_position = [sum(accepted) for accepted in zip(*(one.accepted_per_position for one in counts), strict=True)]
    drafts, draft_tokens, accepted = (sum(getattr(one, name) for one in counts) for name in ("drafts", "draft_tokens", "accepted"))
    return drafts, draft_tokens, accepted, per_position
