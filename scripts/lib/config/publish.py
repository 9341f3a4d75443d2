"""`publish`: where an improvement is recorded."""

from pydantic import Field

from lib.section import Section


class Publish(Section):
    """Where an improvement is recorded, once `ack_publish` names it."""

    baselines: str = Field("baselines", min_length=1, description="folder of standing baselines")
    lake: str | None = Field(
        None, min_length=1, description="perf lake: folder or URL (s3://bucket/folder) of a Parquet data set; empty: none"
    )
