"""Which measurements may be compared: those whose contexts agree in everything but what names the arm itself."""

from collections.abc import Sequence
from typing import Any

from lib.errors import UserError
from lib.files import differing_keys
from lib.records.measurement import Measurement, ProxyRecord

OF_THE_ARM = {
    "proxy": ("hardware.host.", "hardware.threads."),
    "serving": ("identity.head.", "grounding.mean.", "grounding.std.", "grounding.node.", "grounding.sol_percent."),
}
"""Context keys in which arms differ by right. Host and threads change a proxy by rounding alone, the kind of device does not."""


def require_comparable(records: Sequence[Measurement]) -> None:
    """Refuse to compare measurements of one kind that were taken in different contexts. Failed arms have no number and are left out.

    Raises:
        UserError: two files with the keys in which they differ, and the cure.
    """
    sound = [record for record in records if record.status == "ok"]
    contexts = [_compared(record) for record in sound]
    for record, context in zip(sound[1:], contexts[1:], strict=True):
        differing = [key for key in differing_keys(contexts[0], context) if not f"{key}.".startswith(OF_THE_ARM[record.kind])]
        if differing:
            raise UserError(
                f"{sound[0].file} and {record.file} were measured in different contexts ({', '.join(differing)}); "
                f"delete results/{sound[0].arm}/ or results/{record.arm}/, whichever is older: the next run trains and measures it again"
            )


def _compared(record: Measurement) -> dict[str, Any]:
    """Return what two measurements must share: their context, and of arms in training the recipe too."""
    recipe = {"recipe": record.configuration.get("recipe")} if isinstance(record, ProxyRecord) else {}
    return record.context.model_dump(mode="json") | recipe
