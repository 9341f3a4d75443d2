"""Documentation names only existing make verbs, files, keys, examples and rules."""

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from lib.config import STRATEGIES, Config, Space, load_space, parse_config
from lib.hyperparameters import HYPERPARAMETERS
from lib.search.priors import PriorFile
from snakemake.cli import parse_config as parse_command_line

ROOT = Path(__file__).parents[2]
FILES = [ROOT / name for name in subprocess.check_output(["git", "ls-files", "*.md"], cwd=ROOT, text=True).splitlines()]
GUIDES = [ROOT / "README.md", ROOT / "config/README.md", ROOT / "docs/recording.md"]
FORM = "section={key: value}"
"""How the guides write that a key of a section is given, where any section and key are meant."""

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    .*$", re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")


def code(path: Path) -> list[str]:
    """Return the indented lines and the code within the prose of a file."""
    text = FENCE.sub("", path.read_text())
    return INDENTED.findall(text) + [" ".join(span.split()) for span in INLINE.findall(INDENTED.sub("", text))]


def fenced(path: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(path.read_text()) if found == language]


def named_keys(path: Path) -> list[str]:
    """Return the dotted names among the code of a file that are not names of files."""
    dotted = [span for span in code(path) if re.fullmatch(r"[a-z_]+(\.[a-z0-9_]+)+", span)]
    return [name for name in dotted if not re.search(r"\.(csv|json|jsonl|lock|md|parquet|py|yaml)$", name)]


def is_key(name: str, model: Any) -> bool:
    part, _, rest = name.partition(".")
    choices = [model, *get_args(model)]  # of a union every model
    fields = [one.model_fields[part] for one in choices if part in getattr(one, "model_fields", {})]
    return any(not rest or is_key(rest, field.annotation) for field in fields)


def config_arguments(line: str) -> Iterator[list[str]]:
    """Yield what follows each `--config` of a command line, up to the next option or the end of its command."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    words = list(lexer)
    for place in [place for place, word in enumerate(words) if word == "--config"]:
        rest = words[place + 1 :]
        yield rest[: next((end for end, word in enumerate(rest) if word == ";" or word.startswith("--")), len(rest))]


EXAMPLES = [arguments for guide in GUIDES for line in code(guide) for arguments in config_arguments(line) if arguments != [FORM]]


def test_every_make_verb_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {verb for path in FILES for span in code(path) for verb in re.findall(r"\bmake(?: [A-Z]+=\S+)* ([a-z][\w-]*)", span)}
    assert named and named <= targets, named - targets


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_lines_of_at_most_140_characters(path: Path) -> None:
    """Tables, code, links to elsewhere and what benchmarks write are as long as they are."""
    if path.name not in ("results.md", "overheads.md", "embedded.md"):
        lines = INDENTED.sub("", FENCE.sub("", path.read_text())).splitlines()
        assert not [line for line in lines if len(line) > 140 and not line.startswith("|") and "://" not in line]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text()))
    missing = [link for link in links if "://" not in link and not (path.parent / link.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("path", [*GUIDES, ROOT / "CONTRIBUTING.md"], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_key_that_is_named_exists(path: Path) -> None:
    assert not [name for name in named_keys(path) if not is_key(name, Config) and not is_key(name, Space)]


def test_keys_are_found_in_the_guides() -> None:
    assert all(named_keys(guide) for guide in GUIDES)
    assert is_key("serving.workload.top_p", Config) and not is_key("serving.output_tokens", Config)


@pytest.mark.parametrize("arguments", EXAMPLES, ids=" ".join)
def test_every_example_of_the_command_line_is_valid(arguments: list[str]) -> None:
    config = parse_config(parse_command_line(arguments))
    load_space(ROOT / config.space)
    assert config.strategy in STRATEGIES


def test_examples_are_found_in_the_guides() -> None:
    assert len(EXAMPLES) > 5
    assert list(config_arguments("a --config 'b={c: 1}' d=e --dry-run; f --config g=h; i # j")) == [["b={c: 1}", "d=e"], ["g=h"]]


def test_every_example_of_a_file_is_valid() -> None:
    guide = ROOT / "config/README.md"
    configurations, priors = fenced(guide, "yaml"), fenced(guide, "json")
    assert configurations and priors
    for example in configurations:
        parse_config(yaml.safe_load(example))
    for example in priors:
        PriorFile.model_validate(json.loads(example))


@pytest.mark.parametrize("model", [Config, Space], ids=lambda model: model.__name__)
def test_the_tables_of_keys_are_the_models(model) -> None:
    rows = "".join(f"| `{name}` | {field.description} |\n" for name, field in model.model_fields.items())
    assert f"| key | what it is |\n|---|---|\n{rows}\n" in (ROOT / "config/README.md").read_text(), f"the rows are:\n{rows}"


def test_the_table_of_hyperparameters_is_the_declarations() -> None:
    rows = "".join(f"| `{name}` | {one.description} | {one.allowed} |\n" for name, one in HYPERPARAMETERS.items())
    assert f"| key | what it is | values |\n|---|---|---|\n{rows}\n" in (ROOT / "config/README.md").read_text(), f"the rows are:\n{rows}"


@pytest.mark.parametrize("path", [ROOT / "Snakefile", *sorted(ROOT.glob("rules/*.smk"))], ids=lambda path: path.name)
def test_every_rule_says_what_it_does(path: Path) -> None:
    rules = re.findall(r'^ *(?:rule|checkpoint) (\w+):\n( *""".+""")?', path.read_text(), re.MULTILINE)
    assert not [name for name, docstring in rules if not docstring]
    assert rules or path.name == "common.smk"


def test_condas_environment_is_that_of_the_lock() -> None:
    digest = hashlib.sha256((ROOT / "envs/laptop.lock").read_bytes()).hexdigest()
    assert f"{digest}  envs/laptop.lock" in (ROOT / "envs/laptop.post-deploy.sh").read_text(), f"write {digest}; see envs/README.md"


def test_the_drawn_dag_has_every_rule() -> None:
    (drawing,) = fenced(ROOT / "docs/architecture.md", "mermaid")
    files = "".join(path.read_text() for path in ROOT.glob("rules/*.smk"))
    drawn = [re.fullmatch(r" +(\w+) .*?(\w+)", line) for line in drawing.splitlines() if ">" in line]
    assert {rule for arrow in drawn if arrow for rule in arrow.groups()} == set(
        re.findall(r"^ *(?:rule|checkpoint) (\w+):", files, re.MULTILINE)
    )
