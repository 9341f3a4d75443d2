"""The last lines of a run: the verdict, whether it is recorded, and what to try next."""

from collections.abc import Iterator
from pathlib import Path

from lib.config import Publish
from lib.files import read_json
from lib.publish.publication import would_publish
from lib.records.layout import VerdictFiles
from lib.records.measurement import read_record
from lib.verdict.verdict import Verdict


def last_words(root: Path, filed: VerdictFiles, publish: Publish) -> Iterator[str]:
    """Yield the last lines of a run that reached its verdict, none for a run that did not."""
    if not (root / filed.verdict).exists():
        return
    verdict = read_record(root / filed.verdict, Verdict)
    yield verdict.summary
    publication = root / filed.publication(verdict.id)
    if publication.exists():
        yield f"Recorded: {read_json(publication, 'delete it, and the next run records the verdict again').get('summary')}"
    else:
        yield would_publish(verdict, publish)
    if (root / filed.next_levers).exists():
        yield (root / filed.next_levers).read_text().rstrip()
    yield "To write everything into one file, report.html, run make report"
