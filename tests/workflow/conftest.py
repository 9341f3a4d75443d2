"""One finished small run that every test may look at."""

import pytest

from tests.workflow.clones import Clone, clone


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which the small run has finished. Tests must not change it."""
    one = clone(tmp_path_factory.mktemp("finished"))
    one.snakemake()
    return one
