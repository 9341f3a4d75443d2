"""Write the share of positions at which a head's training targets are the tokens that a target answers, for tiny random targets.

    .venv/bin/python benchmarks/real/architectures.py benchmarks/real

Writes architectures.json and architectures.md into the folder. tests/unit/target/test_kinds.py makes the same targets.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from lib.draft import heads  # noqa: E402
from lib.errors import UserError  # noqa: E402
from lib.features.extract import Agreement  # noqa: E402
from lib.files import write_json  # noqa: E402
from lib.methods import read_draft  # noqa: E402
from lib.target.load import check_target  # noqa: E402
from lib.target.tiny import train_tiny_target  # noqa: E402

from tests.stub_engine.engine import Reference, load_target  # noqa: E402
from tests.unit.target.test_kinds import LEARNT, REFUSED, make  # noqa: E402

METHODS = ("eagle3", "dflash")
PROMPT = [1, 20, 3, 77, 5, 6]
ANSWER = 40
PACKAGES = ("torch", "transformers", "speculators")


def main() -> None:
    """Examine all kinds of targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    out: Path = parser.parse_args().out
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch, "tokenizer")
        shape = {"hidden": 64, "intermediate": 96, "layers": 2, "heads": 2, "kv_heads": 1, "vocab_size": 512, "context": 64}
        train_tiny_target(tokenizer, **shape, steps=1, batch=2, lr=3e-3, seed=0, threads=1)
        kinds = {kind: examine(make(kind, tokenizer, Path(scratch, kind))) for kind in (*LEARNT, *REFUSED)}
    stack = {package: version(package) for package in PACKAGES} | {"python": sys.version.split()[0]}
    result = {"prompt_tokens": len(PROMPT), "positions": ANSWER, "dtype": "float32", "stack": stack, "kinds": kinds}
    write_json(out / "architectures.json", result)
    (out / "architectures.md").write_text(table(result))


def examine(path: Path) -> dict[str, Any]:
    """Return by method the share of positions that agree, with our final norm and with speculators' own, or the refusal."""
    try:
        check_target(path)
    except UserError as error:
        return {"refused": str(error).partition("config.json: ")[2] or str(error)}
    reference = Reference(load_target(path), [4])
    answer = reference.answer(PROMPT, ANSWER, [], {})
    last = reference.states(PROMPT + answer)[len(PROMPT) - 1 : -1, -1]

    def share(method: str) -> float:
        output = heads.learnt_output(read_draft({"method": method, "aux_layers": (1, 2)}), path)
        return Agreement(output, path).compare(last, answer) / len(answer)

    ours = {method: share(method) for method in METHODS}
    with patch.object(heads, "match_final_norm"):
        return {"agreement": ours, "with_the_norm_of_speculators": {method: share(method) for method in METHODS}}


def table(result: Mapping[str, Any]) -> str:
    """Return the result as Markdown."""
    kinds = result["kinds"]
    stack = ", ".join(f"{package} {number}" for package, number in result["stack"].items())
    lines = [
        "# Tokens that heads learn, by kind of target",
        "",
        "For each kind, a random target of four layers answers one prompt greedily. Training computes the next tokens from the target's",
        "last hidden states with the target's final norm and output projection. The table has the share of positions at which these tokens",
        "are those of the answer. If a head learns other tokens, the target rejects its drafts.",
        "",
        f"{result['positions']} positions per kind, fp32, CPU, random weights, n = 1. {stack}.",
        "",
        "| `model_type` | EAGLE3 | DFlash | EAGLE3, norm of speculators | DFlash, norm of speculators |",
        "|---|---|---|---|---|",
    ]
    for kind, found in kinds.items():
        if shares := found.get("agreement"):
            cells = [f"{part[method]:.0%}" for part in (shares, found["with_the_norm_of_speculators"]) for method in METHODS]
            lines.append(f"| {kind} | {' | '.join(cells)} |")
    lines += ["", "These kinds are refused before anything is trained:", ""]
    lines += [f"- {kind}: {found['refused']}" for kind, found in kinds.items() if "refused" in found]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
