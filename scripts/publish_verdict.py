"""Record an improvement in the standing baseline, and every measurement of the contest in the perf lake."""

from typing import TYPE_CHECKING

from lib.arm import Arm
from lib.config import Publish
from lib.errors import UserError
from lib.files import write_json
from lib.publish.publication import publish
from lib.records.measurement import read_record
from lib.script import here, logger, running
from lib.verdict.contest import Measurements
from lib.verdict.verdict import Verdict

if TYPE_CHECKING:
    from snakemake.iocontainers import snakemake

if __name__ == "__main__":
    with running(snakemake.log[0]):
        verdict = read_record(here(snakemake.input.verdict), Verdict)
        if snakemake.params.acknowledged != verdict.id:
            raise UserError(
                f"ack_publish = {snakemake.params.acknowledged!r} does not acknowledge verdict {verdict.id}; nothing is recorded"
            )
        measurements = read_record(here(snakemake.input.measurements), Measurements)
        publication = publish(
            verdict, measurements, [Arm.from_record(arm) for arm in snakemake.params.arms], Publish.model_validate(snakemake.params.publish)
        )
        logger.info("%s", publication["summary"])
        write_json(here(snakemake.output.publication), publication)
