"""Refusals and commands that send no request to the bucket, which in these tests fails on any request; and what jobs resume from."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snakemake.api  # noqa: F401 - its modules import each other, and can only be begun here
import yaml
from kubernetes.config import kube_config
from lib.errors import UserError
from lib.session import Session, open_session
from snakemake_interface_common.exceptions import WorkflowError

ROOT = Path(__file__).parents[2]
PREFIX = "s3://bucket/spec-decode-tune/r1/."
KUBERNETES = "--kubernetes-experiment-"
RUN = ["--executor", "kubernetes-experiment", f"{KUBERNETES}run-id=r1", f"{KUBERNETES}workstream=we"]
KUBECONFIG = {
    "current-context": "c",
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
    "users": [{"name": "u", "user": {"token": "t"}}],
}


class Bucket:
    """Belongs to another workstream; its records are not to be pulled."""

    settings = SimpleNamespace(**dict.fromkeys(("endpoint_url", "region", "access_key", "secret_key", "token")))

    def __init__(self) -> None:
        self.asked: list[str] = []

    def require_own(self, prefix: str, owner: str) -> None:
        """Refuse."""
        self.asked.append(prefix)
        raise WorkflowError(f"{prefix} is not of {owner}")

    def pull(self, prefix: str) -> None:
        """Fail."""
        raise AssertionError(prefix)

    def go_offline(self, prefix: str) -> None:
        """End here, as a damaged listing does."""
        raise WorkflowError(f"offline {prefix}")


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Return a bucket, and go to a clone of which results/ lies there."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(KUBECONFIG))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.chdir(tmp_path)
    return Bucket()


def opened(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, *words: str, prefix: str = PREFIX, **changes: Any) -> str:
    """Return with what a run that is started with some words is refused."""
    monkeypatch.setattr(sys, "argv", ["snakemake", *words])
    workflow = SimpleNamespace(
        is_main_process=True,
        output_settings=SimpleNamespace(dryrun="--dry-run" in words, verbose=False, quiet=set()),
        storage_registry=SimpleNamespace(default_storage_provider=bucket),
        storage_settings=SimpleNamespace(default_storage_prefix=prefix),
        configfiles=[],
        config_settings=SimpleNamespace(config={}),
    )
    with pytest.raises(UserError) as error:
        open_session(workflow, yaml.safe_load(Path("config/config.yaml").read_text()) | changes)
    return str(error.value)


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        ([*RUN[:2], RUN[3]], {}, "run id not set"),
        (RUN[:3], {}, "workstream not set"),
        ([*RUN, f"{KUBERNETES}pod-patch=absent.yaml"], {}, "pod patch absent.yaml: No such file"),
        (RUN, {"prefix": "s3://bucket/spec-decode-tune//."}, "fill in bucket and run_id in the profile"),
        (RUN, {"seed": "x"}, "seed"),
        (RUN, {"space": "absent.yaml"}, "space = 'absent.yaml': no such file; name a YAML file"),
        (RUN, {"features": {"prompts": "/dev/null"}}, "features.prompts=/dev/null: a device or pipe, not a file"),
        (RUN, {"space": str(ROOT / "config/spaces/eagle3-draft.yaml")}, "jobs on other machines only get files below"),
    ],
)
def test_what_needs_no_bucket_is_told_before_one_is_asked(
    words: list[str], changes: dict[str, Any], message: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = opened(bucket, monkeypatch, *words, **changes)
    assert message in said and "\n" not in said
    assert bucket.asked == [] and not Path("results").exists()


def test_a_kubeconfig_is_looked_at_before_the_bucket_is_asked(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("kubeconfig").unlink()
    assert opened(bucket, monkeypatch, *RUN).startswith("no cluster: no usable kubeconfig in $KUBECONFIG or ~/.kube/config (")
    assert bucket.asked == [] and not Path("results").exists()


def test_a_file_of_a_record_is_looked_for_after_the_bucket_was_asked(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(bucket, monkeypatch, *RUN, space="results/levers/a/space.yaml") == f"{PREFIX} is not of run r1 of workstream we"


def test_a_place_of_others_is_refused_before_its_records_are_pulled(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(bucket, monkeypatch, *RUN) == f"{PREFIX} is not of run r1 of workstream we"
    assert opened(bucket, monkeypatch, *RUN, prefix="s3://bucket/b/.").startswith("s3://bucket/b/."), "and the run may be corrected"


@pytest.mark.parametrize("looks", [["--dry-run"], ["draw_report", "--report", "report.html"]])
def test_a_dry_run_and_a_report_ask_no_bucket(looks: list[str], bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(bucket, monkeypatch, *RUN, *looks) == f"offline {PREFIX}"
    assert bucket.asked == [] and not Path("results").exists()


@pytest.mark.parametrize(
    ("rung", "first", "trained", "there", "resumed"),
    [
        (2, 0, (), (), "results/a/rung1.state"),  # of the rung below, which a job still has to make
        (2, 2, (0, 1), (0, 1), "results/a/rung1.state"),
        (2, 2, (0, 1), (0,), "results/a/rung0.state"),
        (2, 2, (1,), (0,), []),  # the state of a rung without a trained head
        (0, 0, (), (), []),
    ],
)
def test_an_arm_resumes_from_the_rung_below_or_from_what_is_on_disk(rung: int, first: int, trained: Any, there: Any, resumed: Any) -> None:
    standing = SimpleNamespace(
        trained_head=lambda _, lower: "hash" if lower in trained else None,
        there=lambda path: path in {f"results/a/rung{lower}.state" for lower in there},
    )
    session: Any = SimpleNamespace(entry=lambda arm: (arm, first), standing=standing)
    assert Session.state_below(session, "a", rung) == resumed


@pytest.mark.parametrize(
    ("forced", "measured"),
    [
        (set(), ["new"]),
        ({"measure_serving"}, ["old", "new", "other"]),
        ({"file_serving"}, ["old", "new", "other"]),
        ({"servings-0"}, ["old", "new", "other"]),
        ({"results/old/serving.json"}, ["old", "new"]),
    ],
)
def test_what_is_forced_is_measured_beside_what_is_missing(forced: set[str], measured: list[str]) -> None:
    session = SimpleNamespace(
        experiment=SimpleNamespace(search=SimpleNamespace(shares=lambda *_: [["old", "new", "other"]])),
        finalists=list,
        filed=SimpleNamespace(engines=1, servings="servings-{engine}"),
        forced=lambda: forced,
        standing=lambda path: path != "results/new/serving.json",
    )
    assert Session.to_measure(session, 0) == measured  # type: ignore[arg-type]
