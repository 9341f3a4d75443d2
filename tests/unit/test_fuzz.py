"""Any content of a file or key is refused in plain words, or everything that the plan makes of it works.

Hypothesis draws the same examples each time.
"""

import contextlib
import json
import math
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lib.errors import UserError
from lib.experiment import Experiment, describe_bench, load_experiment, verdict_files
from lib.features.conversations import read_source
from lib.files import write_json
from lib.records import layout
from lib.records.measurement import ProxyRecord, ServingRecord, read_record
from lib.report.plan import format_plan, make_plan, planned_search
from lib.report.status import status
from lib.report.tables import write_ledger
from lib.search.cohort import decide
from lib.search.decisions import Decisions, places
from lib.search.replay import replay
from lib.search.work import upper_bound

from tests.unit.made_records import proxy, serving
from tests.unit.search.searches import measured
from tests.workflow.clones import ROOT

SMALL = yaml.safe_load((ROOT / "tests/configs/small.yaml").read_text())
SHIPPED = yaml.safe_load((ROOT / "config/config.yaml").read_text())
SPACE = yaml.safe_load((ROOT / SMALL["space"]).read_text())
FEW = 64
"""Arms up to which a whole search is played through."""

fuzz = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

numbers = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([512, 1000, 10_000, 10**9, 2**63, 10**30]),
    st.integers(),
    st.floats(0, 2),
    st.floats(),
)
words = st.one_of(
    st.sampled_from(["", "null", "auto", "log", "eagle3", "tpe", "random", "grid", ".", "/", "config", "1e-3", "yes"]), st.text()
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=6,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places in nested data."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in inner for place in paths(part, (*path, key)))]


@st.composite
def changed(draw: st.DrawFn, sound: dict[str, Any]) -> dict[str, Any]:
    """Draw data that differs from sound data in one to three places."""
    data = deepcopy(sound)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(paths(data)[1:]))
        part = data
        for key in above:
            part = part[key]
        if draw(st.integers(0, 9)):
            part[last] = draw(values)
        else:
            del part[last]
        if len(paths(data)) == 1:
            break
    return data


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Any:
    """Work in a folder in which the files of the repository are found under their names."""
    for name in ("config", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    with contextlib.chdir(tmp_path):
        yield


@cache
def small() -> Experiment:
    with contextlib.chdir(ROOT):
        return load_experiment(SMALL)


def plan(config: dict[str, Any]) -> None:
    """Hold a configuration to this: it is refused at once, or the plan, the decisions and the names that follow from it can be made."""
    try:
        experiment = load_experiment(config)
    except UserError as error:
        assert str(error)
        return
    try:
        planned = make_plan(experiment, Path("nowhere"))
    except UserError as error:
        assert str(error).startswith("budget.")
        return
    assert format_plan(planned) and verdict_files(experiment) and describe_bench(experiment)
    search = planned_search(json.loads(json.dumps(planned, allow_nan=False)))
    assert search.id == experiment.search.id
    if upper_bound(search, 0, 1).arms <= FEW:
        replay(search, measured)
    else:
        decide(search, *places(search)[0], [], {})


@fuzz
@given(changed(SHIPPED | SMALL))
def test_configurations(config: dict[str, Any]) -> None:
    plan(config)


@fuzz
@given(changed(SPACE), st.sampled_from(["hyperband", "hyperband_tpe", "random", "grid", "tpe"]))
def test_spaces(space: dict[str, Any], strategy: str) -> None:
    Path("space.yaml").write_text(yaml.safe_dump(space))
    plan(SMALL | {"space": "space.yaml", "strategy": strategy})


def prior_arms() -> dict[str, Any]:
    point = {"global_batch": 8, "lr": 1e-3, "warmup": 0.0, "samples": 24, "accuracies": [0.5, 0.4, 0.3]}
    measured_on = {"stack.torch": "2.13.0"}
    return {
        "version": 1,
        "source": "me",
        "context": json.loads(json.dumps(small().search.recipe)),
        "arms": [point],
        "measured_on": measured_on,
    }


@fuzz
@given(st.data())
def test_prior_arms(data: st.DataObject) -> None:
    Path("prior.json").write_text(json.dumps(data.draw(changed(prior_arms()))))
    plan(SMALL | {"seed_from": "prior.json", "strategy": "hyperband_tpe"})


roles = st.one_of(st.sampled_from(["user", "assistant", "system", "tool", "human", "gpt"]), words)
turns = st.one_of(
    st.fixed_dictionaries({"role": roles, "content": st.one_of(st.text(), values)}, optional={"tool_calls": values}),
    st.fixed_dictionaries({"from": roles, "value": st.text()}),
    values,
)
conversations = st.fixed_dictionaries(
    {}, optional={"messages": st.lists(turns, max_size=3), "conversations": st.lists(turns, max_size=3), "tools": values, "system": values}
)
lines = st.one_of(
    conversations.map(lambda value: json.dumps(value).encode()),
    st.text().map(lambda text: json.dumps({"prompt": text}).encode()),
    values.map(lambda value: json.dumps({"prompt": value}).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from([b'{"prompt": "\\ud800"}', b'{"prompt": "a", "prompt": 1}', b"{" * 3000, b"9" * 5000]),
    st.binary(max_size=20),
)


@fuzz
@given(st.lists(lines, max_size=4))
def test_prompts(content: list[bytes]) -> None:
    Path("prompts.jsonl").write_bytes(b"\n".join(content))
    try:
        source = read_source(Path("prompts.jsonl"))
    except UserError:
        return
    assert len(source.conversations) + source.dropped.count == source.total > 0
    assert all(one.asked[-1]["content"].strip() for one in source.conversations)
    assert all(isinstance(text.encode(), bytes) for text in source.texts())
    plan(SMALL | {"serving": SMALL["serving"] | {"workload": SMALL["serving"]["workload"] | {"path": "prompts.jsonl"}}})


def looked_at() -> None:
    """Look at the tree in every way in which one can without making anything."""
    for look in (status, write_ledger):
        with contextlib.suppress(UserError):
            look(Path())
    with contextlib.suppress(UserError):
        make_plan(small(), Path())


def begun() -> None:
    """File the plan and the first decision of the small search."""
    search = small().search
    write_json(Path(layout.PLAN), make_plan(small(), Path("nowhere")))
    place = places(search)[0]
    write_json(Path(layout.decision(*place)), decide(search, *place, [], {}))


@fuzz
@given(st.data())
def test_records_of_arms(data: st.DataObject) -> None:
    begun()
    arm = small().search.standing
    record = proxy(arm, accuracies=(0.5, 0.4, 0.3)).model_copy(update={"rung": small().search.top_rung})
    for path, sound, kind in (
        (layout.acc(arm.id, small().search.top_rung), record, ProxyRecord),
        (layout.serving(arm.id), serving(arm.id), ServingRecord),
    ):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(data.draw(changed(sound.model_dump(mode="json")))))
        with contextlib.suppress(UserError):
            found = read_record(Path(path), kind)
            assert found.status != "ok" or all(math.isfinite(number) for number in (found.wall_seconds, found.device_seconds))
    looked_at()


@fuzz
@given(st.data())
def test_decisions_and_plans(data: st.DataObject) -> None:
    begun()
    search = small().search
    place = places(search)[0]
    path = Path(data.draw(st.sampled_from([layout.PLAN, layout.decision(*place)])))
    path.write_text(json.dumps(data.draw(changed(json.loads(path.read_text())))))
    with contextlib.suppress(UserError):
        decision = Decisions(search, Path())[place]
        assert all(Decisions(search, Path()).entry(arm) for arm in decision["arms"])
    looked_at()
