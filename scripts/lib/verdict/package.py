"""What a verdict hands over: the head to serve in the format vLLM loads, and its card."""

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
    """Return the head to serve after a verdict: the champion's if it is an improvement, otherwise that of the standing configuration.

    Of a side's fresh trainings it is the first that was measured. Which one that is was settled before anything was measured, so the head's
    own number is not flattered by having chosen it, unlike that of the arm by which the search found its champion. A champion that is no
    improvement is handed over only where nothing of the standing configuration could be measured. None when no head could be.

    Args:
        verdict: the verdict on the contest.
        contest: the arms of both sides.
        measurements: what vLLM measured of them.
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
    """Write the folder `out`: the head, its card `README.md`, and `manifest.json` with the records behind the card, whole or not at all.

    Args:
        out: as the card names it to vLLM.
        winner: the head, None when there is none.
        verdict: the verdict it rests on.
        prompts: the workload's files by subset.
        records: where the records behind the verdict are filed.
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
