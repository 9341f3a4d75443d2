"""`budget` and `cost`: what a search may use, and what work costs."""

from pydantic import Field

from lib.section import Positive, Section

LEAST, MOST = 1e-9, 1e9
"""Bounds of what work costs. A plan can multiply any within them."""


class Budget(Section):
    """The most that a search may use, including standing configuration and verdict. A search that may need more is refused."""

    samples: Positive | None = Field(None, description="training samples; empty: no bound")
    device_hours: float | None = Field(None, gt=0, description="device-hours of training and serving; empty: no bound")
    arms: Positive | None = Field(None, description="arms that are trained; empty: no bound")


class Cost(Section):
    """What work costs, for the plan. Measured seconds in the ledger replace the seconds given here."""

    seconds_per_sample: float | None = Field(
        None, ge=LEAST, le=MOST, description="device-seconds per training sample; empty: not known before a run"
    )
    seconds_per_serving: float | None = Field(None, ge=LEAST, le=MOST, description="device-seconds to measure one head; empty: not known")
    seconds_per_start: float | None = Field(
        None, ge=LEAST, le=MOST, description="device-seconds of one start of the serving engine; empty: seconds_per_serving includes it"
    )
    extracted_tokens_per_second: float | None = Field(
        None, ge=LEAST, le=MOST, description="tokens that one engine answers and extracts per second; empty: not known before a run"
    )
    price_per_device_hour: float | None = Field(None, ge=0, le=MOST, description="price of a device-hour; empty: the plan names no price")
    currency: str = Field("USD", description="currency of the price")
