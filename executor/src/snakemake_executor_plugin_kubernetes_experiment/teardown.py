"""Remove everything that an experiment has on a cluster: python -m snakemake_executor_plugin_kubernetes_experiment.teardown."""

import argparse
import sys

from .api import PATHS, ApiError, Cluster, NoClusterError, Object
from .names import EXPERIMENT, WORKSTREAM, Experiment, make_experiment

OWNED = ("leases", "jobs", "pods", "secrets")


class RefusedError(Exception):
    """There is something that this teardown must not touch."""


def find(cluster: Cluster, experiment: Experiment) -> list[tuple[str, str]]:
    """Return kind and name of all that carries both labels; whatever carries the run id alone is somebody else's and refused."""
    found: list[tuple[str, Object]] = [(kind, item) for kind in OWNED for item in cluster.list(kind, f"{EXPERIMENT}={experiment.run_id}")]
    for kind, item in found:
        owner = item["metadata"]["labels"].get(WORKSTREAM)
        if owner != experiment.workstream:
            whose = f"belongs to workstream {owner}" if owner else "has no workstream label"
            raise RefusedError(f"{kind}/{item['metadata']['name']} {whose}, not to {experiment.workstream}: nothing was deleted")
    return [(kind, item["metadata"]["name"]) for kind, item in found]


def teardown(cluster: Cluster, experiment: Experiment, dry_run: bool = False) -> list[tuple[str, str]]:
    """List, then delete, all that an experiment has; return what was there. Pods go with their Jobs."""
    found = find(cluster, experiment)
    for kind, name in found:
        print(f"{kind}/{name}")
        if not dry_run:
            cluster.delete(kind, name)
    return found


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True)
    parser.add_argument("--workstream", required=True)
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--slug", default="sdt")
    parser.add_argument("--dry-run", action="store_true", help="list only")
    asked = parser.parse_args()
    try:
        experiment = make_experiment(asked.slug, asked.run_id, asked.workstream)
        found = teardown(Cluster(asked.namespace), experiment, asked.dry_run)
    except (ValueError, RefusedError, NoClusterError, ApiError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(found)} objects of run {asked.run_id}{' would be' if asked.dry_run else ''} deleted; {len(PATHS)} kinds looked at")
    return 0


if __name__ == "__main__":
    sys.exit(main())
