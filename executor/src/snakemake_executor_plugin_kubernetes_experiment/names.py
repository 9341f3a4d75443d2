"""Names and labels of the objects of an experiment."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EXPERIMENT, WORKSTREAM, ARM, RULE, JOB = "experiment", "workstream", "arm", "rule", "job"
RECIPE = "spec-decode-tune/recipe"  # annotation of a Job: digest of its parameters and image
COLLECTED = "spec-decode-tune/collected"  # annotation of a finished Job whose result a controller has recorded

NODE_VARIABLE = "SPEC_DECODE_TUNE_NODE"  # name of the pod's node
RUN_ID_VARIABLE = "SPEC_DECODE_TUNE_RUN_ID"  # with these a job checks its acknowledgement itself
ACKNOWLEDGED_VARIABLES = {"train": "SPEC_DECODE_TUNE_ACK_TRAIN", "serve": "SPEC_DECODE_TUNE_ACK_SERVE"}

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LONGEST_NAME = 63  # a Job's name becomes a label of its pod
_LONGEST_IDENTITY = 36  # of slug, dash and run id; the rest is for rule, digest and number


@dataclass(frozen=True)
class Experiment:
    """One run of one workstream. All its objects are named and labelled after it."""

    slug: str
    run_id: str
    workstream: str

    @property
    def prefix(self) -> str:
        """Return the first part of every name."""
        return f"{self.slug}-{self.run_id}"

    @property
    def secret(self) -> str:
        """Return the name of the Secret with the environment of all jobs."""
        return f"{self.prefix}-env"

    @property
    def owner(self) -> str:
        """Return run and workstream, in words."""
        return f"run {self.run_id} of workstream {self.workstream}"

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels that every object carries."""
        return {EXPERIMENT: self.run_id, WORKSTREAM: self.workstream}

    @property
    def selector(self) -> str:
        """Return the label selector that finds everything of this experiment and nothing else."""
        return ",".join(f"{key}={value}" for key, value in self.labels.items())

    def job_name(self, rule: str, digest: str, number: int) -> str:
        """Return the name of the n-th Job for the same files."""
        end = f"-{digest}-{number}"
        middle = re.sub(r"[^a-z0-9]+", "-", rule.lower()).strip("-")
        room = _LONGEST_NAME - len(self.prefix) - 1 - len(end)
        return f"{self.prefix}-{middle[:room].strip('-')}{end}"


def make_experiment(slug: str, run_id: str, workstream: str) -> Experiment:
    """Return a checked experiment, or raise ValueError with one line that states the fault."""
    if not run_id:
        raise ValueError("run id not set: pass --kubernetes-experiment-run-id")
    if not workstream:
        raise ValueError("workstream not set: pass --kubernetes-experiment-workstream")
    for what, value in (("slug", slug), ("run id", run_id)):
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"{what} {value!r} cannot name Kubernetes objects: only lower-case letters, digits and dashes, no dash first or last"
            )
    if len(slug) + 1 + len(run_id) > _LONGEST_IDENTITY:
        raise ValueError(f"slug and run id {slug}-{run_id} are too long: {_LONGEST_IDENTITY} characters at most with the dash between")
    if not _LABEL.fullmatch(workstream):
        raise ValueError(
            f"workstream {workstream!r} cannot be a Kubernetes label: at most 63 letters, digits, '-', '_' and '.', no sign first or last"
        )
    return Experiment(slug, run_id, workstream)


def label_value(text: str) -> str:
    """Return text as a label's value. Characters that Kubernetes refuses are replaced, and a digest keeps the value unique."""
    if _LABEL.fullmatch(text) or not text:
        return text
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', text).strip('-_.')[:50]}-{digest(text)}".lstrip("-")


def digest(value: Any) -> str:
    """Return a short digest of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:10]


def job_labels(experiment: Experiment, rule: str, wildcards: Mapping[str, str], job: str) -> dict[str, str]:
    """Return the labels of a Job and its pod."""
    labels = experiment.labels | {RULE: label_value(rule), JOB: job}
    return labels | ({ARM: label_value(wildcards["arm"])} if "arm" in wildcards else {})
