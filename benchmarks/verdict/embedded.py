"""Three real contests on the embedded default: the standing configuration against itself, against a crippled one, and the two swapped.

    .venv/bin/python benchmarks/verdict/embedded.py

Writes embedded.json and embedded.md beside this file. It takes a quarter of an hour on two cores.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOUND = {"global_batch": 8, "lr": 3e-3, "warmup": 0.1}
CRIPPLED = SOUND | {"lr": 3e-6}
"""A thousandth of the learning rate."""

CONTESTS = {
    "the configuration against itself": (SOUND, SOUND),
    "the configuration against a crippled one": (SOUND, CRIPPLED),
    "the crippled one against the configuration": (CRIPPLED, SOUND),
}


def main() -> None:
    """Hold the contests in one clone and write down their verdicts."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        verdicts = {name: contest(clone, champion, standing) for name, (champion, standing) in CONTESTS.items()}
    (HERE / "embedded.json").write_text(json.dumps(verdicts, indent=2) + "\n")
    (HERE / "embedded.md").write_text(table(verdicts))


def contest(clone: Path, champion: dict, standing: dict) -> dict:
    """Run a search over the one point `champion` to its verdict on it."""
    space = yaml.safe_load((clone / "config/spaces/eagle3-draft.yaml").read_text())
    only = {name: [value] for name, value in champion.items()}
    (clone / "one.yaml").write_text(yaml.safe_dump(space | {"parameters": only, "standing": standing}))
    words = ["--config", "space=one.yaml", "strategy=grid", "serving={top_k: 1}"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run([sys.executable, "-m", "snakemake", *words], cwd=clone, check=True, env=os.environ | {"PATH": path})
    return json.loads((clone / "results/verdict.json").read_text())


def table(verdicts: dict[str, dict]) -> str:
    """Return the outcomes as Markdown, with what they depend on."""
    context = next(iter(verdicts.values()))["context"]
    identity, workload = context["identity"], context["workload"]
    prompts = sum(subset["num_prompts"] for subset in workload["subsets"].values())
    lines = [
        "# Three contests on the embedded default",
        "",
        f"Target {identity['model']}, EAGLE3 head, k = {context['configuration']['num_speculative_tokens']}; "
        f"vLLM {context['stack']['vllm']} on {identity['device_name']}; {prompts} prompts, up to {workload['output_tokens']} tokens each, "
        f"temperature {workload['temperature']:g}, {workload['concurrency']} in flight. Acceptance length, mean ± SD over fresh "
        f"training seeds. The configuration is global batch {SOUND['global_batch']}, lr {SOUND['lr']}, warmup {SOUND['warmup']}; the "
        "crippled one has a thousandth of its learning rate.",
        "",
        "| champion against standing | champion | standing | effect | 90 % interval | outcome |",
        "|---|---|---|---|---|---|",
    ]
    for name, verdict in verdicts.items():
        sides = [f"{side['mean']:.3f} ± {side['std']:.3f} (n = {side['n']})" for side in (verdict["champion"], verdict["standing"])]
        low, high = verdict["interval"]
        lines.append(f"| {name} | {' | '.join(sides)} | {verdict['effect']:+.3f} | {low:+.3f} to {high:+.3f} | {verdict['outcome']} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
