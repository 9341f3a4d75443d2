"""`verdict`: champion against standing configuration, measured afresh."""

from pydantic import Field, model_validator

from lib.section import Positive, Section


class VerdictOptions(Section):
    """The comparison of champion and standing configuration on fresh trainings and measurements."""

    seeds: int = Field(3, le=100, description="fresh training seeds of the champion and of the standing configuration, at least 2")
    repeats: Positive = Field(2, le=1000, description="times the workload is run against each of their servers")
    confidence: float = Field(0.95, ge=0.51, le=0.999, description="1 - the rate at which chance alone may pass for an improvement")
    smallest_effect: float = Field(0.02, ge=0, description="smallest gain in acceptance length that is worth calling an improvement")

    @model_validator(mode="after")
    def _replicated(self) -> "VerdictOptions":
        if self.seeds < 2:
            raise ValueError(f"seeds = {self.seeds} cannot estimate the noise between trainings; set at least 2")
        return self
