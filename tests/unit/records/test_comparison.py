"""Numbers are compared only within one context."""

from dataclasses import replace
from typing import Any

import pytest
from lib.errors import UserError
from lib.records.comparison import OF_THE_ARM, require_comparable

from tests.unit.made_records import CONTEXT, SERVED, arm, proxy, serving
from tests.unit.records.test_measurement import changed, leaves

OTHER: dict[tuple[str, ...], Any] = {
    ("configuration", "extra_args"): ("--block-size=32",),
    ("regime", "tier"): "latency",
    ("workload", "stop"): "eos",
    ("grounding", "level"): "L4",
    ("grounding", "sol_ceiling"): None,
    ("grounding", "n"): None,  # only with its standard deviation
}
"""Values for fields that take but a few."""

FIXED = ("regime", "start")
"""Takes one value alone."""


def other(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, "x"] if isinstance(value, list) else f"{value}x"


def fields(context: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the paths of all fields that hold a value."""
    paths = list(leaves(context))
    return [path for path in paths if not any(longer[: len(path)] == path and longer != path for longer in paths)]


def value_at(context: dict[str, Any], path: tuple[str, ...]) -> Any:
    for key in path:
        context = context[key]
    return context


def free(kind: str, path: tuple[str, ...]) -> bool:
    return f"{'.'.join(path)}.".startswith(OF_THE_ARM[kind])


@pytest.mark.parametrize("path", [path for path in fields(SERVED) if not free("serving", path) and path != FIXED], ids=".".join)
def test_measurements_that_differ_in_any_one_field_are_not_compared(path: tuple[str, ...]) -> None:
    value = value_at(SERVED, path)
    if path in OTHER and OTHER[path] is None:
        two = {"n": 2, "std": 0.1, "sol_percent": 40.0, "sol_ceiling": "GB300"}
        context = SERVED | {"grounding": SERVED["grounding"] | two}
    else:
        # A field that is None here is a text or a number elsewhere; pydantic reads "0.5" and "5" as either.
        context = changed(SERVED, path, OTHER.get(path) or (other(value) if value is not None else "1"))
    with pytest.raises(UserError, match=rf"different contexts \(.*{path[-1]}"):
        require_comparable([serving("a"), serving("b", context=context, prompt_acceptance=None)])


@pytest.mark.parametrize("path", [path for path in fields(SERVED) if free("serving", path)], ids=".".join)
def test_measurements_differ_in_their_heads_and_numbers_by_right(path: tuple[str, ...]) -> None:
    if value_at(SERVED, path) is None:
        return  # the two that go with other fields, below
    require_comparable([serving("a"), serving("b", context=changed(SERVED, path, other(value_at(SERVED, path))))])


def test_measurements_differ_in_their_scatter_and_their_share_of_the_speed_of_light() -> None:
    whole = SERVED["grounding"] | {"n": 2, "std": 0.1, "sol_percent": 40.0, "sol_ceiling": "GB300"}
    other_numbers = whole | {"std": 0.2, "sol_percent": 41.0}
    require_comparable([serving(name, context=SERVED | {"grounding": one}) for name, one in (("a", whole), ("b", other_numbers))])


@pytest.mark.parametrize("path", [path for path in fields(CONTEXT) if not free("proxy", path)], ids=".".join)
def test_proxies_that_differ_in_any_one_field_are_not_compared(path: tuple[str, ...]) -> None:
    spoiled = changed(CONTEXT, path, other(value_at(CONTEXT, path)))
    with pytest.raises(UserError) as refusal:
        require_comparable([proxy("a"), proxy("b", **{path[0]: spoiled[path[0]]})])
    assert str(refusal.value).startswith(
        f"results/a/rung0.acc and results/b/rung0.acc were measured in different contexts ({'.'.join(path)});"
    )


def test_arms_differ_in_their_point_and_may_train_on_another_host_of_the_same_kind() -> None:
    require_comparable([proxy(arm(lr=1e-3)), proxy(arm(lr=2e-3), hardware={"host": "two", "threads": 2})])


def test_arms_differ_in_the_key_of_the_recipe_that_a_hyperparameter_replaces() -> None:
    decaying = replace(arm(), point=arm().point.model_copy(update={"weight_decay": 0.1}))
    require_comparable([proxy(arm()), proxy(decaying)])


def test_arms_of_another_recipe_are_not_compared() -> None:
    other_recipe = replace(arm(), recipe=arm().recipe | {"training": {"weight_decay": 0.1}})
    with pytest.raises(UserError, match=r"different contexts \(recipe\.training\.weight_decay\)"):
        require_comparable([proxy(arm()), proxy(other_recipe)])


def test_a_failed_arm_is_compared_with_nobody() -> None:
    require_comparable([proxy("a"), proxy("b", "diverged", stack={"torch": "2.14.0"})])
