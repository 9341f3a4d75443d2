"""`streaming`: the state of a rung in progress."""

from pydantic import Field

from lib.section import Section


class Streaming(Section):
    """Checkpoints of a rung in progress, from which a killed job resumes. They do not change results."""

    every_s: float = Field(300, gt=0, description="seconds between states: what a killed job loses at most, besides the time to write one")
    url: str | None = Field(
        None, min_length=1, description="folder or URL (s3://bucket/folder) that states and logs are copied to; empty: beside the results"
    )
