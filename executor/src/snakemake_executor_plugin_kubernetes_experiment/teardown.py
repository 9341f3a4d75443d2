"""Remove everything that an experiment has on a cluster: python -m snakemake_executor_plugin_kubernetes_experiment.teardown."""

import argparse
import sys
import time
from dataclasses import replace

from .api import ApiError, Cluster, Object
from .lease import HeldError, Lease
from .names import EXPERIMENT, WORKSTREAM, Experiment, make_experiment

LISTED = ("leases", "jobs", "pods")  # and the Secret, which is read by its name
PATIENCE = 180  # seconds to wait for deleted objects; a pod may use its grace period
PAUSE = 1


class RefusedError(Exception):
    """An object is not this workstream's, or was deleted and does not disappear."""


def find(cluster: Cluster, experiment: Experiment) -> list[tuple[str, str]]:
    """Return kind and name of all objects with both labels. Raise RefusedError if an object has this run id without this workstream."""
    found: list[tuple[str, Object]] = [(kind, item) for kind in LISTED for item in cluster.list(kind, f"{EXPERIMENT}={experiment.run_id}")]
    for each in _experiments(experiment, [item["metadata"]["name"] for kind, item in found if kind == "leases"]):
        try:
            found.append(("secrets", cluster.get("secrets", each.secret)))
        except ApiError as error:
            if error.status != 404:
                raise
    for kind, item in found:
        owner = (item["metadata"].get("labels") or {}).get(WORKSTREAM)
        if owner != experiment.workstream:
            whose = f"belongs to workstream {owner}" if owner else "has no workstream label"
            raise RefusedError(f"{kind}/{item['metadata']['name']} {whose}, not to {experiment.workstream}: nothing was deleted")
    return [(kind, item["metadata"]["name"]) for kind, item in found]


def _experiments(experiment: Experiment, leases: list[str]) -> list[Experiment]:
    """Return the experiment under its own slug and under the slugs of all Leases that carry its run id."""
    slugs = {name.removesuffix(f"-{experiment.run_id}") for name in leases} | {experiment.slug}
    return [replace(experiment, slug=slug) for slug in sorted(slugs)]


def teardown(cluster: Cluster, experiment: Experiment, dry_run: bool = False) -> list[tuple[str, str]]:
    """Print, then delete, all objects of an experiment; return what was there.

    Deletion holds the experiment's Lease, which a live controller keeps, and continues until nothing is left.

    Raises:
        RefusedError: an object is not this workstream's, or has not disappeared in time.
        HeldError: a controller has the experiment.
    """
    found = find(cluster, experiment)
    for kind, name in found:
        print(f"{kind}/{name}")
    if dry_run or not found:
        return found
    leases = [
        Lease(cluster, each, lambda _why: None, lambda line: print(line, file=sys.stderr))
        for each in _experiments(experiment, [name for kind, name in found if kind == "leases"])
    ]
    try:
        for lease in leases:
            lease.acquire()
        _delete(cluster, experiment, leases)
    finally:
        for lease in leases:
            lease.release(keep=sys.exception() is not None)
    return found


def _delete(cluster: Cluster, experiment: Experiment, leases: list[Lease]) -> None:
    """Delete all objects but the Leases, and wait until they are gone. Stop if a Lease is lost."""
    deleted: set[tuple[str, str]] = set()
    end = time.monotonic() + PATIENCE
    while left := [each for each in find(cluster, experiment) if each[0] != "leases"]:
        if not all(lease.confirm() for lease in leases):
            raise HeldError(f"run {experiment.run_id} was taken by a controller just now; stop it, then tear down again")
        if time.monotonic() > end:
            kind, name = left[0]
            raise RefusedError(f"{kind}/{name} was deleted and is still there after {PATIENCE} s, as on a lost node; tear down again later")
        for kind, name in left:
            if (kind, name) not in deleted:
                cluster.delete(kind, name)
                deleted.add((kind, name))
        time.sleep(PAUSE)


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
    except (ValueError, RefusedError, HeldError, ApiError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{len(found)} objects of run {asked.run_id}{' would be' if asked.dry_run else ''} deleted; {len(LISTED) + 1} kinds checked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
