"""Measurements are comparable if their contexts agree in every key that does not name the arm."""

from collections.abc import Sequence
from typing import Any

from lib.errors import UserError
from lib.files import differing_keys
from lib.records.measurement import Measurement, ProxyRecord

OF_THE_ARM = {
    "proxy": ("hardware.host.", "hardware.threads."),
    "serving": ("identity.head.", "grounding.mean.", "grounding.std.", "grounding.node.", "grounding.sol_percent."),
}
"""Context keys in which arms may differ. Host and threads change a proxy only by rounding, the kind of device changes it more."""


def require_comparable(records: Sequence[Measurement]) -> None:
    """Refuse to compare measurements from different contexts. Failed arms have no number and are skipped.

    Raises:
        UserError: names two files, the keys in which they differ, and the cure.
    """
    sound = [record for record in records if record.status == "ok"]
    contexts = [_compared(record) for record in sound]
    for record, context in zip(sound[1:], contexts[1:], strict=True):
        differing = [key for key in differing_keys(contexts[0], context) if not f"{key}.".startswith(OF_THE_ARM[record.kind])]
        if differing:
            raise UserError(
                f"{sound[0].file} and {record.file} were measured in different contexts ({', '.join(differing)}); "
                f"delete results/{sound[0].arm}/ or results/{record.arm}/, whichever is older; the next run trains and measures it again"
            )


def _compared(record: Measurement) -> dict[str, Any]:
    """Return the values that two measurements must share: the context, and for trainings also the recipe."""
    recipe = {"recipe": record.configuration.get("recipe")} if isinstance(record, ProxyRecord) else {}
    return record.context.model_dump(mode="json") | recipe
