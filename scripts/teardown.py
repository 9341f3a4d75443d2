"""Delete a run's objects on the cluster, selected by both of its labels. The bucket is kept. Run by hand (`make teardown RUN_ID=...`)."""

import argparse
import os
import sys
from pathlib import Path

from lib.controller import refuse
from lib.errors import UserError
from snakemake.profiles import ProfileConfigFileParser
from snakemake_executor_plugin_kubernetes_experiment import teardown

SETTINGS = "kubernetes-experiment-"


def arguments(profile: Path, run_id: str) -> list[str]:
    """Return workstream and namespace of a profile, and the run id, as arguments of the executor's teardown."""
    if not run_id:
        raise UserError("RUN_ID is not set; name the run: make teardown RUN_ID=...")
    try:
        with profile.open() as stream:
            settings = ProfileConfigFileParser().parse(stream)
    except OSError as error:
        raise UserError(f"{profile}: {error.strerror}; run this in the root of the repository") from None
    except Exception as error:  # a damaged file can raise anything
        raise UserError(f"{profile}: not a profile ({' '.join(str(error).split())[:200]}); correct it") from None
    if not settings.get(f"{SETTINGS}workstream"):
        raise UserError(f"{profile}: workstream is empty; fill it in, because only objects labelled with it are deleted")
    told = {name: settings.get(SETTINGS + name) for name in ("workstream", "namespace", "slug")}
    return [f"--run-id={run_id}", *(f"--{name}={value}" for name, value in told.items() if value)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, default=Path("gb300"))
    parser.add_argument("--dry-run", action="store_true", help="list only")
    asked = parser.parse_args()
    with refuse():
        sys.argv[1:] = arguments(asked.profile / "config.yaml", os.environ.get("RUN_ID", "")) + (["--dry-run"] if asked.dry_run else [])
    sys.exit(teardown.main())
