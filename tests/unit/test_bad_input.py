"""Bad input of any kind at any entry point gives one line with key and value or file, and the cure. Nothing is written.

The rows are kinds of damage times entry points. Kinds that do no damage at an entry point are left out there by name.
"""

import contextlib
import importlib.util
import json
import os
import signal
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache, partial
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from kubernetes.config import kube_config
from lib.config import Config
from lib.errors import UserError
from lib.experiment import Experiment, load_experiment, verdict_files
from lib.features.prompts import read_prompts
from lib.features.samples import FeatureSet
from lib.files import write_json
from lib.manifest import read_manifest
from lib.publish.publication import require_acknowledged
from lib.records import layout
from lib.records.measurement import write_record
from lib.report.plan import make_plan
from lib.report.status import status
from lib.report.tables import write_ledger
from lib.search.cohort import decide
from lib.search.decisions import Decisions, places
from lib.section import Section
from lib.serving.ceilings import load_ceiling
from lib.serving.exported import require_alike, require_whole
from snakemake.cli import parse_config
from snakemake.utils import update_config
from snakemake_executor_plugin_kubernetes_experiment.api import Cluster, NoClusterError, check_kubeconfig
from snakemake_executor_plugin_kubernetes_experiment.patch import read_patch

from tests.unit.made_records import arm, proxy, serving
from tests.workflow.clones import ROOT

SMALL = yaml.safe_load((ROOT / "tests/configs/small.yaml").read_text())
SPACE = yaml.safe_load((ROOT / SMALL["space"]).read_text())
SECONDS = 10
"""After which an answer is a hang. The slowest row takes a tenth of that."""

DEEP = "[" * 3_000 + "]" * 3_000
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))


@contextlib.contextmanager
def at(folder: Path) -> Iterator[None]:
    """Work in a folder in which the files of the repository are found under their names."""
    for name in ("config", "tests"):
        (folder / name).symlink_to(ROOT / name)
    with contextlib.chdir(folder):
        yield


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in a folder that stays empty."""
    with at(tmp_path_factory.mktemp("empty")):
        yield


@pytest.fixture
def own(tmp_path: Path) -> Iterator[None]:
    """Work in a folder of the test."""
    with at(tmp_path):
        yield


def refused(call: Callable[[], Any], *names: str) -> str:
    """Return the one line with which a call is refused, after looking that it holds `names` and a cure, in time, and makes nothing."""

    def late(*_: object) -> None:
        raise AssertionError(f"no answer within {SECONDS} s")

    before = sorted(map(str, Path().rglob("*")))
    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with pytest.raises(UserError) as refusal:
            call()
    finally:
        signal.alarm(0)
    line = str(refusal.value)
    lines = line.split("\n")
    assert all(each.startswith(lines[0].partition(":")[0]) for each in lines), "one line a fault, each naming the same file"
    assert len(line) / len(lines) < 800 and all(";" in each and each.partition(";")[2].strip() for each in lines), line
    assert all(name in line for name in names), (names, line)
    assert sorted(map(str, Path().rglob("*"))) == before
    return line


# Values of keys


def deep(levels: int = 2_000) -> list[Any]:
    """Return a list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


EVERYWHERE = {
    "5,000 digits": (10**4_999, "digits"),
    "deep nesting": (deep(), "deep"),
    "infinite": (float("inf"), "inf"),
    "a list": ([1], "[1]"),
}
HERE_AND_THERE = {
    "1e400": (float("1e400"), "inf"),
    "not a number": (float("nan"), "nan"),
    "a page of text": ("x" * 5_000, "5,00"),
    "two lines": ("a\nb", r"a\nb"),
    "a null byte": ("a\0b", r"a\x00b"),
    "half a character": ("\ud800", r"\ud800"),
}
PLACES = (("space",), ("search", "arms"), ("target", "trust_remote_code"), ("serving", "workload", "top_p"))
OF_NUMBERS = {
    "truth": (True, "true"),
    "untruth": (False, "false"),
    "text": ("fast", "'fast'"),
    "-1": (-1, "-1"),
    "30 digits": (10**30, "31 digits"),
}
OF_TRUTHS = {"text": ("maybe", "'maybe'"), "a number": (7, "7")}
OF_TEXTS = {"truth": (True, "True"), "a number": (1.5, "1.5")}


def keys(section: type[Section], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], set[Any]]]:
    """Yield every key of the configuration, and the types it takes."""
    for name, field in section.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from keys(annotation, (*path, name))
        else:
            yield (*path, name), {annotation, *get_args(annotation), *(one for part in get_args(annotation) for one in get_args(part))}


def rows_of_keys() -> Iterator[Any]:
    for path, types in keys(Config):
        own = OF_NUMBERS if {int, float} & types else OF_TRUTHS if bool in types else OF_TEXTS
        for kind, (value, said) in (EVERYWHERE | own | (HERE_AND_THERE if path in PLACES else {})).items():
            if (path, kind) != (("serving", "extra_args"), "a list"):  # a list is what it takes
                yield pytest.param(path, value, said, id=f"{'.'.join(path)}: {kind}")


def put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return a copy of nested values with one of them changed."""
    first, *rest = path
    return values | {first: put(values.get(first, {}), tuple(rest), value) if rest else value}


@pytest.mark.parametrize(("path", "value", "said"), list(rows_of_keys()))
@pytest.mark.usefixtures("empty")
def test_a_value_that_a_key_does_not_take(path: tuple[str, ...], value: Any, said: str) -> None:
    refused(partial(load_experiment, put(SMALL, path, value)), path[-1], said)


COMMAND_LINE = (
    (["trainig={ranks: 1}"], "configuration: unknown key 'trainig'; did you mean 'training'?"),
    (["training={ranks: 3}"], "standing: global batch 8 is not a multiple of 3 ranks; change standing or training"),
    (["strategy=best"], "strategy = 'best' is unknown; choose one of"),
    (["strategy=random", "search={arms: 1000000000}"], "the search would have more than 10,000 arms; lower search.arms"),
    (["strategy=tpe", "search={arms: 1000000000}"], "the search would have more than 10,000 arms; lower search.arms"),
    (["search={bracket: 1000000000}"], "search.bracket = 1000000000 does not exist on 2 rungs; choose from 0 to 1"),
    (["space=absent.yaml"], "space = 'absent.yaml': no such file; name a YAML file, such as those of config/spaces/"),
    (["target={path: absent}"], "target.path=absent is not a directory; give a local Hugging Face model directory"),
    (["target={path: /root/*/no/such}"], "target.path=/root/*/no/such is not a directory; give"),
    (
        ["target={tiny: {layers: 1000000000}}"],
        "configuration: target.tiny.layers = '1000000000': input should be less than or",
    ),
    (["features={prompts: absent.jsonl}"], "features.prompts=absent.jsonl: no such file; give a JSONL file"),
    (["features={dataset: absent}"], "configuration: features.dataset holds the hidden states of one target; set target.path"),
    (["features={chat_template: }"], "configuration: features.chat_template = None: input should be a valid string; correct it"),
    (
        ["features={template_arguments: {tokenize: true}}"],
        "configuration: features: template_arguments.tokenize is set by the workflow for every conversation; remove it",
    ),
    (["features={answers: kept}"], "configuration: features.answers = 'kept': input should be 'regenerate' or 'given'; correct it"),
    (["features={answers: given}"], "configuration: features: answers = 'given' needs conversations; set prompts, or set answers to"),
    (["features={dataset: absent, prompts: x}"], "configuration: features: prompts and dataset are both set; set only one of them"),
    (["verdict={seeds: 1}"], "configuration: verdict: seeds = 1 cannot estimate the noise between trainings; set at least 2"),
    (["verdict={repeats: 1000000000}"], "configuration: verdict.repeats = '1000000000': input should be less than or equal to 1000"),
    (["serving={engine: llama.cpp}"], "serving.engine = 'llama.cpp' is unknown; choose one of vllm"),
    (["serving={max_num_seqs: 1000000000}"], "configuration: serving.max_num_seqs = '1000000000': input should be less than or equal to"),
    (
        ["serving={max_num_seqs: 4}"],
        "configuration: serving: workload.concurrency = 8 is more than max_num_seqs x data_parallel = 4, the sequences",
    ),
    (
        ["serving={max_num_batched_tokens: 7}"],
        "configuration: serving: max_num_batched_tokens = 7 is less than max_num_seqs = 8, and each sequence takes a token",
    ),
    (
        ["serving={max_num_batched_tokens: 63}"],
        "configuration: features.concurrency = 64 is more than serving.max_num_batched_tokens = 63, and each sequence",
    ),
    (["serving={max_num_batched_tokens: 1000000000}"], "configuration: serving.max_num_batched_tokens = '1000000000': input should be"),
    (["serving={kv_cache_gib: 1e300}"], "configuration: serving.kv_cache_gib = "),
    (["serving={start_timeout_s: 1000000000}"], "configuration: serving.start_timeout_s = '1000000000': input should be less than or"),
    (["serving={engines: 1000000000}"], "configuration: serving.engines = '1000000000': input should be less than or equal to 1000"),
    (["serving={workload: {temperature: 2.1}}"], "configuration: serving.workload.temperature = '2.1': input should be less than or equal"),
    (["serving={workload: {temperature: 1e-9}}"], "configuration: serving.workload.temperature: 1e-09 is sampled as 0.01; write 0 or at"),
    (["features={temperature: 2.1}"], "configuration: features.temperature = '2.1': input should be less than or equal to 2"),
    (
        ["features={engines: 9}"],
        "configuration: features.engines = 9 is more than features.heldout_prompts = 8, and each engine extracts a part of them; lower it",
    ),
    (["serving={workload: {path: absent}}"], "serving.workload.path=absent does not exist; give a .jsonl file of prompts"),
    (["serving={workload: {stop: never}}"], "configuration: serving.workload.stop = 'never': input should be 'eos' or 'fixed'; correct it"),
    (["serving={sol_ceiling: B9000}"], "serving.sol_ceiling = 'B9000' is not in config/sol-ceilings.yaml (known: H100"),
    (["serving={sol_ceiling: GB300}"], "serving.sol_ceiling = 'GB300': with serving.workload.concurrency = 8 decoding is not"),
    (["baseline=absent.json"], "absent.json: no such file; name a file that a verdict promoted"),
    (["seed_from=absent.json"], "seed_from = 'absent.json': no such file; name a prior-arms JSON file or a ledger.parquet"),
    (
        ["manifest=absent.json"],
        "configuration: manifest describes the model at target.path, which is empty; set target.path, or leave manifest empty",
    ),
    (["publish={lake: tests/configs/small.yaml}"], "publish.lake = "),
    (["publish={lake: nope://x}"], "publish.lake = 'nope://x' is neither a local path nor the URL of a bucket; write"),
    (["publish={lake: 'memory://'}"], "publish.lake = 'memory://' is neither a local path nor the URL of a bucket; write"),
    (["publish={lake: 's3:/bucket'}"], "publish.lake = 's3:/bucket' is neither a local path nor the URL of a bucket; write"),
    (["publish={lake: 'file:///tmp/lake'}"], "publish.lake = 'file:///tmp/lake' is neither a local path nor the URL of a bucket; write"),
    (["streaming={url: 's3:/bucket'}"], "streaming.url = 's3:/bucket' is neither a local path nor the URL of a bucket; write"),
    (["publish={lake: 's3://AKIA:hush/4711@bucket/lake'}"], "publish.lake holds a password or a key in its URL"),
    (["publish=https://me:hush4711@host/lake"], "configuration: publish = 'https://***@host/lake' is a single value"),
    (["target=/models/mine"], "configuration: target = '/models/mine' is a single value; write {key: value}"),
)


@pytest.mark.parametrize(("arguments", "line"), COMMAND_LINE, ids=[" ".join(arguments) for arguments, _ in COMMAND_LINE])
@pytest.mark.usefixtures("empty")
def test_what_the_command_line_says(arguments: list[str], line: str) -> None:
    values = deepcopy(SMALL)
    update_config(values, parse_config(arguments))
    said = refused(partial(load_experiment, values))
    assert said.startswith(line) and "4711" not in said


GRID = {"global_batch": [1, 2, 4, 8], "lr": {"low": 1e-5, "high": 1.0, "scale": "log", "steps": 1000}}
FINE = {"low": 0.0, "high": 0.9, "scale": "linear", "steps": 1000}
SPACES: dict[str, tuple[dict[str, Any], str]] = {
    "64 million points": (
        {"parameters": GRID | {"warmup": FINE, "weight_decay": FINE | {"steps": 16}}},
        "parameters: 64,000,000 points are",
    ),
    "eta 1000": ({"rungs": {"samples": [8, 16, 24, 32], "eta": 1000}}, "more than 10,000 arms; lower"),
    "1000 rungs": ({"rungs": {"samples": list(range(8, 8008, 8)), "eta": 2}}, "rungs.samples"),
    "bounds that round together": (
        {"parameters": {"global_batch": [8], "lr": {"low": 1e-3, "high": 1.0001e-3, "scale": "log"}, "warmup": [0.0]}},
        "parameters.lr: low = 0.001 and high = 0.0010001 are the same value in the 3 digits",
    ),
    "a bound that is almost 0": (
        {"parameters": {"global_batch": [8], "lr": {"low": 5e-324, "high": 1e-3, "scale": "log"}, "warmup": [0.0]}},
        "parameters.lr: low = 4.94066e-324 must be at least 1e-100 on a log scale",
    ),
    "a layer twice": ({"draft": SPACE["draft"] | {"aux_layers": [1, 1, 2]}}, "draft.aux_layers = [1, 1, 2] repeat; list each layer once"),
    "a layer too many": (
        {"draft": SPACE["draft"] | {"aux_layers": [1, 2, 4]}},
        "draft.aux_layers = 4 is outside the target's layers",
    ),
    "words too many": (
        {"draft": SPACE["draft"] | {"draft_vocab_size": 4096}},
        "draft.draft_vocab_size = 4096 is larger than the target's vocabulary of 512",
    ),
    "truth in a list": (
        {"parameters": SPACE["parameters"] | {"lr": [True]}},
        "parameters.lr: values = true (also written yes, on) is",
    ),
}


@pytest.mark.parametrize(("change", "line"), SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("strategy", ["hyperband", "random", "tpe"])
@pytest.mark.usefixtures("own")
def test_a_space_that_is_no_search(change: dict[str, Any], line: str, strategy: str) -> None:
    Path("space.yaml").write_text(yaml.safe_dump(SPACE | change))
    refused(partial(load_experiment, SMALL | {"strategy": strategy, "space": "space.yaml"}), line)


USER = {"role": "user", "content": "Hello"}
CONVERSATIONS: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "no template": (
        [{"messages": [USER]}],
        {},
        "features.chat_template = 'auto', but features.prompts=own.jsonl holds conversations, and the target's tokenizer has no chat "
        "template; name a template file",
    ),
    "a template that is not wanted": (
        [{"messages": [USER]}],
        {"chat_template": "none"},
        "features.chat_template = 'none', but features.prompts=own.jsonl holds conversations, which only a chat template turns into text; ",
    ),
    "an absent template": (
        [{"messages": [USER]}],
        {"chat_template": "absent.jinja"},
        "features.chat_template = 'absent.jinja': no such file; name a file with a Jinja chat template, auto for that of the",
    ),
    "a folder for a template": (
        [{"messages": [USER]}],
        {"chat_template": "config"},
        "features.chat_template = 'config': a folder, not a file",
    ),
    "mixed shapes": (
        [{"messages": [USER]}, {"prompt": "Hello"}],
        {"chat_template": "own.jinja"},
        "features.prompts=own.jsonl line 2 has the shape 'prompt', the lines before it 'messages'; put them into different files",
    ),
    "no user": (
        [{"messages": [USER]}, {"messages": [USER | {"role": "assistant"}]}],
        {"chat_template": "own.jinja"},
        "features.prompts=own.jsonl: 1 of 2 lines cannot be used, more than features.max_dropped = 0.1 allows: 1 without a user turn "
        "(first: line 2); correct these lines, or raise features.max_dropped",
    ),
    "an unknown role": (
        [{"conversations": [{"from": "bot", "value": "Hello"}]}],
        {"chat_template": "own.jinja"},
        "features.prompts=own.jsonl: 1 of 1 lines cannot be used, more than features.max_dropped = 0.1 allows: 1 with a role other than",
    ),
    "an empty conversation": (
        [{"messages": []}],
        {"chat_template": "own.jinja"},
        "features.prompts=own.jsonl: 1 of 1 lines cannot be used, more than features.max_dropped = 0.1 allows: 1 without turns (first: ",
    ),
    "no answers": (
        [{"prompt": "Hello"}],
        {"answers": "given"},
        "features.answers = 'given', but features.prompts=own.jsonl holds plain prompts without answers; set it to regenerate",
    ),
}


@pytest.mark.parametrize(("lines", "features", "line"), CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.usefixtures("own")
def test_conversations_that_cannot_be_used(lines: list[Any], features: dict[str, Any], line: str) -> None:
    Path("own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    Path("own.jinja").write_text("{{ messages }}")
    small = {**SMALL["features"], "train_prompts": 1, "heldout_prompts": 1, "serving_prompts": 1}
    said = refused(partial(load_experiment, SMALL | {"features": {**small, "prompts": "own.jsonl", **features}}))
    assert said.startswith(line)


WORKLOADS: dict[str, tuple[list[Any], str]] = {
    "no template": (
        [{"messages": [USER]}],
        "features.chat_template = 'auto', but serving.workload.path=own.jsonl holds conversations, and",
    ),
    "no user": (
        [{"messages": [USER]}, {"messages": [USER | {"role": "assistant"}]}],
        "serving.workload.path=own.jsonl: 1 of 2 lines cannot be used: 1 without a user turn (first: line 2); correct them",
    ),
    "mixed shapes": (
        [{"turns": ["a"]}, {"prompt": "a"}],
        "serving.workload.path=own.jsonl line 2 has the shape 'prompt', the lines before",
    ),
    "no turns": (
        [{"turns": []}],
        'serving.workload.path=own.jsonl line 1 is not {"turns": ["some text", ...]}; correct or remove the line',
    ),
    "turns that are no texts": ([{"turns": ["a", {"b": 1}]}], 'serving.workload.path=own.jsonl line 1 is not {"turns": ["some text", ...]'),
    "one turn": ([{"turns": "a"}], 'serving.workload.path=own.jsonl line 1 is not {"turns": ["some text", ...]}; correct or remove'),
    "a line of no category": (
        [{"prompt": "a", "category": "qa"}, {"prompt": "b"}],
        "serving.workload.path=own.jsonl line 2 has no category, but others have; give one to every line or to none",
    ),
    "categories of one name": (
        [{"prompt": "a", "category": "q/a"}, {"prompt": "b", "category": "q a"}],
        "serving.workload.path=own.jsonl has two subsets named q_a; rename a file or a category",
    ),
    "too few in a category": (
        [{"prompt": "a", "category": "qa"}, {"prompt": "b", "category": "qa"}, {"prompt": "b", "category": "math"}],
        "serving.workload.prompts_per_subset = 2, but a subset holds 1; lower it",
    ),
}


@pytest.mark.parametrize(("lines", "line"), WORKLOADS.values(), ids=WORKLOADS)
@pytest.mark.usefixtures("own")
def test_a_workload_that_cannot_be_sent(lines: list[Any], line: str) -> None:
    Path("own.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    serving = put(SMALL["serving"], ("workload",), {"path": "own.jsonl", "prompts_per_subset": 2, "output_tokens": 16, "concurrency": 8})
    assert refused(partial(load_experiment, SMALL | {"serving": serving})).startswith(line)


# Contents of files


@cache
def small() -> Experiment:
    with contextlib.chdir(ROOT):
        return load_experiment(SMALL)


def prior_arms() -> dict[str, Any]:
    point = {"global_batch": 8, "lr": 1e-3, "warmup": 0.0, "samples": 24, "accuracies": [0.5, 0.4, 0.3]}
    return {"version": 1, "source": "me", "context": json.loads(json.dumps(small().search.recipe)), "arms": [point]}


def first_decision() -> tuple[Path, dict[str, Any]]:
    place = places(small().search)[0]
    return Path(layout.decision(*place)), json.loads(json.dumps(decide(small().search, *place, [], {}), default=str))


def with_plan(call: Callable[[Path], Any]) -> Callable[[], Any]:
    """Return a call on a tree that holds the plan of the small search."""

    def called() -> Any:
        return call(Path())

    def prepared() -> Callable[[], Any]:
        write_json(Path(layout.PLAN), make_plan(small(), Path("nowhere")))
        if not (FILED / "rung0.acc").exists():
            write_record(FILED / "rung0.acc", proxy(ARM))
        return called

    return prepared


def planned(**changes: Any) -> Callable[[], Any]:
    """Return a plan with keys of the small configuration changed."""
    values = SMALL | {name: SMALL[name] | value if isinstance(value, dict) and name in SMALL else value for name, value in changes.items()}
    return lambda: partial(load_experiment, values)


def with_model(**changes: Any) -> Callable[[], Any]:
    """Return a plan for a model of the user."""

    def prepared() -> Callable[[], Any]:
        files = {"config.json": json.dumps(MODEL), "tokenizer.json": "{}", "model.safetensors": WEIGHTS}
        for name, content in files.items():
            if not Path("model", name).exists():
                Path("model").mkdir(exist_ok=True)
                Path("model", name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return planned(target={"path": "model"}, **changes)()

    return prepared


def pod_patch() -> Callable[[], Any]:
    def called() -> None:
        try:
            read_patch(Path("pod.yaml"))
        except ValueError as error:
            raise UserError(f"{error}; correct it") from None  # the plugin says it as an error of its own settings

    return called


def kubeconfig(use: Callable[[], Any]) -> Callable[[], Callable[[], Any]]:
    def called() -> None:
        try:
            use()
        except NoClusterError as error:
            raise UserError(f"{error}; correct it") from None  # the plugin and teardown show it as it is

    def prepared() -> Callable[[], Any]:
        kube_config.KUBE_CONFIG_DEFAULT_LOCATION = "kubeconfig.yaml"
        return called

    return prepared


def head() -> Callable[[], Any]:
    Path("other").mkdir(exist_ok=True)
    for folder in ("head", "other"):
        Path(folder, "model.safetensors").write_bytes(WEIGHTS)
    Path("other/config.json").write_text('{"a": 1}')
    return partial(require_alike, Path("other"), Path("head"))


def profile() -> Callable[[], Any]:
    spec = importlib.util.spec_from_file_location("teardown", ROOT / "scripts/teardown.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return partial(module.arguments, Path("profile.yaml"), "r1")


FACTS = {"hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 512, "max_position_embeddings": 512}
MODEL = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **FACTS}
HEADER = json.dumps({"lm_head.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(16)
DESCRIBED = {"path": "model", "name": "model", "fingerprint": "1", "code": None, "dense": True, "chat_template": False}
MANIFEST = {"target": DESCRIBED | {"facts": {"architecture": "L", "model_type": "l", **dict.fromkeys(("hidden_size", "num_layers"), 64)}}}
FEATURES = {"target": "t", "aux_layers": [1], "hidden_size": 4, "files": {"state.json": {"bytes": 1, "sha256": "0"}}}
WRITTEN = b'{"prompt": "one", "token_ids": [1, 2]}\n'
PROMPTS = b'{"prompt": "one"}\n{"prompt": "two"}\n'
ARM = arm()
FILED = Path("results") / ARM.id

Entry = tuple[str | Callable[[], str], Callable[[], Any], Callable[[], Callable[[], Any]], tuple[str, ...]]
ENTRIES: dict[str, Entry] = {
    # name: path, sound content, what reads it, kinds that are no damage
    "space": ("space.yaml", lambda: SPACE, planned(space="space.yaml"), ()),
    "prior arms": ("prior.json", prior_arms, planned(seed_from="prior.json"), ("an alias bomb",)),
    "ledger as prior arms": ("prior.parquet", lambda: b"PAR1", planned(seed_from="prior.parquet"), ()),
    "baseline": ("baseline.json", lambda: {"key": "x"}, planned(baseline="baseline.json"), ("an alias bomb",)),
    "prompts": ("prompts.jsonl", lambda: PROMPTS, planned(features={"prompts": "prompts.jsonl"}), ("cut",)),
    "chat template": (
        "own.jinja",
        lambda: b"{{ messages }}",
        planned(features={"chat_template": "own.jinja"}),
        ("empty", "a list", "null", "a number", "text", "no keys", "deep nesting", "5,000 digits", "an alias bomb", "cut"),
    ),
    "workload": (
        "workload.jsonl",
        lambda: PROMPTS,
        planned(serving={"workload": {"path": "workload.jsonl", "output_tokens": 16, "concurrency": 8}}),
        ("cut",),
    ),
    "ceilings": ("ceilings.yaml", lambda: {"GB300": {}}, lambda: partial(load_ceiling, "GB300", Path("ceilings.yaml")), ()),
    "model": ("model/config.json", lambda: MODEL, with_model(), ()),
    "index of weights": ("model/model.safetensors.index.json", lambda: {"weight_map": {"a": "b"}}, with_model(), ("absent",)),
    "generation settings": (
        "model/generation_config.json",
        lambda: {},
        with_model(),
        ("absent", "a list", "null", "a number", "text", "no keys"),
    ),
    "weights": ("model/model.safetensors", lambda: WEIGHTS, with_model(), ("absent",)),
    "manifest": ("manifest.json", lambda: MANIFEST, with_model(manifest="manifest.json"), ("an alias bomb",)),
    "decision, planned": (
        lambda: str(first_decision()[0]),
        lambda: first_decision()[1],
        lambda: lambda: make_plan(small(), Path()),
        ("absent",),
    ),
    "decision, status": (lambda: str(first_decision()[0]), lambda: first_decision()[1], with_plan(status), ("absent",)),
    "decision, read": (
        lambda: str(first_decision()[0]),
        lambda: first_decision()[1],
        lambda: partial(Decisions(small().search, Path()).__getitem__, places(small().search)[0]),
        (),
    ),
    "plan, status": (layout.PLAN, lambda: {"search": {}}, lambda: partial(status, Path()), ()),
    "plan, ledger": (layout.PLAN, lambda: {"search": {}}, lambda: partial(write_ledger, Path()), ()),
    "training record": (str(FILED / "rung0.acc"), lambda: proxy(ARM).model_dump(mode="json"), with_plan(write_ledger), ("absent",)),
    "measurement": (str(FILED / "serving.json"), lambda: serving(ARM.id).model_dump(mode="json"), with_plan(write_ledger), ("absent",)),
    "contest": ("results/search/finalists-x/contest-y.json", lambda: {"order": []}, with_plan(write_ledger), ("absent",)),
    "champion": (lambda: verdict_files(small()).champion, lambda: {"arm": ARM.id}, with_plan(status), ("absent",)),
    "verdict": (lambda: verdict_files(small()).verdict, lambda: {"id": "v1"}, with_plan(status), ("absent",)),
    "verdict, acknowledged": (
        "verdict.json",
        lambda: {"id": "v1"},
        lambda: partial(require_acknowledged, Path("verdict.json"), "v1"),
        ("absent",),
    ),
    "state": ("state/manifest.json", lambda: {"files": {"a": "0"}}, lambda: partial(read_manifest, Path("state")), ()),
    "features": ("features/manifest.json", lambda: FEATURES, lambda: partial(FeatureSet, Path("features")), ()),
    "prompts, written": ("prompts/train.jsonl", lambda: WRITTEN, lambda: partial(read_prompts, Path("prompts/train.jsonl")), ()),
    "head": (
        "head/model.safetensors",
        lambda: WEIGHTS,
        lambda: lambda: require_whole(Path("head"), "0"),
        ("absent",),
    ),
    "configuration of a head": ("head/config.json", lambda: {"a": 1}, head, ("no keys", "5,000 digits")),
    "pod patch": ("pod.yaml", lambda: {"spec": {"nodeSelector": {"a": 1}}}, pod_patch, ("no keys", "cut")),
    "kubeconfig, checked": ("kubeconfig.yaml", lambda: {"contexts": [1]}, kubeconfig(check_kubeconfig), ()),
    "kubeconfig, used": (
        "kubeconfig.yaml",
        lambda: {"contexts": [1]},
        kubeconfig(lambda: Cluster("default").list("jobs", attempts=1)),
        (),
    ),
    "profile": ("profile.yaml", lambda: {}, profile, ()),
}
DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "empty": lambda _: b"",
    "a list": lambda _: b"[]",
    "null": lambda _: b"null",
    "a number": lambda _: b"1",
    "text": lambda _: b'"x"',
    "no keys": lambda _: b"{}",
    "deep nesting": lambda _: f'{{"a": {DEEP}}}'.encode(),
    "5,000 digits": lambda _: b'{"' + b"a" * 3 + b'": ' + b"9" * 5_000 + b"}",
    "an alias bomb": lambda _: BOMB.encode(),
    "UTF-16": lambda sound: sound.decode("latin-1").encode("utf-16"),
    "Latin-1": lambda _: '{"a": "é"}'.encode("latin-1"),
    "any bytes": lambda _: bytes(range(256)),
    "cut": lambda sound: sound[: len(sound) // 2],
    "50 MiB": lambda _: None,
    "a folder": lambda _: None,
    "absent": lambda _: None,
}


def rows_of_files() -> Iterator[Any]:
    for entry, (_, _, _, harmless) in ENTRIES.items():
        for kind in DAMAGE:
            if kind not in harmless:
                yield pytest.param(entry, kind, id=f"{entry}: {kind}")


@pytest.mark.parametrize(("entry", "kind"), list(rows_of_files()))
@pytest.mark.usefixtures("own")
def test_a_damaged_file(entry: str, kind: str) -> None:
    name, content, prepare, _ = ENTRIES[entry]
    path, sound = Path(name if isinstance(name, str) else name()), content()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sound if isinstance(sound, bytes) else json.dumps(sound).encode())
    call = prepare()
    damaged = DAMAGE[kind](path.read_bytes())
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "50 MiB":
        with path.open("wb") as handle:
            handle.truncate(50 * 2**20)
    elif damaged is not None:
        path.write_bytes(damaged)
    refused(call, path.stem)


@pytest.mark.parametrize(
    "key", ["space", "seed_from", "baseline", "features.prompts", "features.chat_template", "serving.workload.path", "target.path"]
)
@pytest.mark.usefixtures("own")
def test_what_is_not_readable(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root nothing is unreadable, so the system's answer is made up."""
    Path("mine").mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: str(path) != "mine")
    refused(
        partial(load_experiment, put(SMALL, tuple(key.split(".")), "mine")), f"{key} = 'mine' cannot be read (Permission denied); make it"
    )


FIELDS = [
    ("training record", field, value)
    for field in ("arm", "status", "configuration", "rung", "samples", "acc0", "accuracies", "context", "wall_seconds")
    for value in (None, True, -1, 10**30, [[1]], {"a": {"b": 1}})
    if (field, value) != ("wall_seconds", 10**30)
] + [
    ("decision, planned", field, value)
    for field in ("arms", "points", "cap_samples")
    for value in (
        None,
        True,
        -1,
        10**30,
        [[1]],
        {"a": {"b": 1}},
        ["no-such-arm"],
        {"no-such-arm": {"global_batch": 8, "lr": 1e-3, "warmup": 0}},
    )
]


@pytest.mark.parametrize(("entry", "field", "value"), [row for row in FIELDS if row[1:] != ("configuration", {"a": {"b": 1}})])
@pytest.mark.usefixtures("own")
def test_a_field_of_a_record(entry: str, field: str, value: Any) -> None:
    name, content, prepare, _ = ENTRIES[entry]
    path = Path(name if isinstance(name, str) else name())
    write_json(path, content() | {field: value})
    refused(prepare(), path.name, "delete")


CLUSTER = {"server": "https://127.0.0.1:9"}
KUBECONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no server": ({}, {"token": "t"}, "its server '' is no URL"),
    "no URL": ({"server": "cluster"}, {"token": "t"}, "its server 'cluster' is no URL"),
    "an absent certificate": (CLUSTER | {"certificate-authority": "absent.crt"}, {"token": "t"}, "File does not exist"),
    "a damaged certificate": (CLUSTER | {"certificate-authority-data": "AAAA"}, {"token": "t"}, "NO_CERTIFICATE"),
    "a key without a certificate": (CLUSTER, {"client-certificate": "absent.crt", "client-key": "absent.key"}, "File does not exist"),
    "no certificate of a user": (CLUSTER, {"client-certificate-data": "AAAA", "client-key-data": "AAAA"}, "[SSL]"),
    "an absent token": (CLUSTER, {"tokenFile": "absent"}, "absent"),
}


@pytest.mark.parametrize(("cluster", "user", "line"), KUBECONFIGS.values(), ids=KUBECONFIGS)
@pytest.mark.usefixtures("own")
def test_what_of_a_kubeconfig_is_checked_before_anything_is_asked(cluster: Any, user: Any, line: str) -> None:
    names = {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
    content = names | {"clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": user}]}
    Path("kubeconfig.yaml").write_text(yaml.safe_dump(content))
    refused(kubeconfig(check_kubeconfig)(), "no cluster: no usable kubeconfig", line)


@pytest.mark.usefixtures("own")
def test_the_credential_plugin_of_a_kubeconfig_is_not_run_by_its_check() -> None:
    names = {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}
    plugin = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [str(Path("ran").absolute())]}}
    content = names | {"clusters": [{"name": "c", "cluster": CLUSTER}], "users": [{"name": "u", "user": plugin}]}
    Path("kubeconfig.yaml").write_text(yaml.safe_dump(content))
    kubeconfig(check_kubeconfig)()()
    assert not Path("ran").exists()
