"""The result of a verdict: the head to serve, in the format vLLM loads, and its model card."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.files import whole_directory
from lib.manifest import write_manifest
from lib.records.measurement import ProxyRecord
from lib.verdict.card import Winner, format_card
from lib.verdict.contest import Contest, Measurements, Side
from lib.verdict.verdict import Verdict


def choose_head(
    verdict: Verdict, contest: Contest, measurements: Measurements, proxies: Sequence[ProxyRecord], heads: Mapping[str, Path]
) -> Winner | None:
    """Return the head to serve after a verdict: the champion's if it is an improvement, otherwise the standing configuration's.

    It is the first measured head of that side. The order was fixed before measuring, so unlike the champion's selection score its number
    has no selection bias. A champion that is no improvement is served only if no standing head could be measured. None when no head
    could be measured.

    Args:
        verdict: the verdict on the contest.
        contest: the arms of both sides.
        measurements: the measurements of these arms in vLLM.
        proxies: the training records of the same arms.
        heads: the folder of every arm's head, by arm id.
    """
    trained = {proxy.arm: proxy for proxy in proxies}
    sides: tuple[Side, ...] = ("champion",) if verdict.outcome == "improvement" else ("standing", "champion")
    for side in sides:
        for serving in measurements.of(side):
            if serving.status == "ok":
                return Winner(side, heads[serving.arm], contest.arms[serving.arm], serving, trained[serving.arm])
    return None


def hand_over(out: Path, winner: Winner | None, verdict: Verdict, prompts: Mapping[str, str], records: Sequence[str]) -> None:
    """Write the folder `out` atomically: the head, its card `README.md`, and `manifest.json` with the records behind the card.

    Args:
        out: the folder, as the card passes it to vLLM.
        winner: the head, None when there is none.
        verdict: the verdict on the contest.
        prompts: the workload's files by subset.
        records: paths of the records behind the verdict.
    """
    with whole_directory(out) as folder:
        if winner:
            shutil.copytree(winner.head, folder, dirs_exist_ok=True)
        (folder / "README.md").write_text(format_card(winner, verdict, out, prompts, records), encoding="utf-8")
        facts = {
            "verdict": verdict.id,
            "outcome": verdict.outcome,
            "side": winner.side if winner else None,
            "arm": winner.arm.record() if winner else None,
            "serving": winner.serving.model_dump(mode="json") if winner else None,
            "training": winner.training.model_dump(mode="json") if winner else None,
        }
        write_manifest(folder, facts)
