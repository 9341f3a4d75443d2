"""The order of the test suite: the longest first, and tests without a finished run beside tests that make one."""

import pytest

FIRST = (
    "unit/serving/test_acceptance",
    "workflow/test_run",
    "workflow/test_verdict",
    "unit/draft/test_rung",
    "workflow/test_interrupt",
    "workflow/test_failures",
    "unit/draft/test_stream",
    "workflow/test_bring_your_own",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort files so that two workers end together; within a file nothing moves."""
    items.sort(key=lambda item: next((place for place, name in enumerate(FIRST) if name in item.nodeid), len(FIRST)))
