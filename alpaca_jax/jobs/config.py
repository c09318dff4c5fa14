"""The settings of `alpaca-jax jobs`."""

from typing import Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Duration, Natural, Positive


@configclass
class Config:
    """Which job or sweep, and what to do with it."""

    dir: str  # of a job, or of a sweep
    action: Literal["status", "logs", "cancel", "resume"] = "status"
    rank: Natural | None = None  # whose log; none: the rank that failed first, else the lead's
    lines: Positive = 40  # of a log, counted from its end
    follow: bool = False  # keep going until the jobs have ended
    poll_seconds: Duration = 2.0  # between two polls
    trust: bool = False  # resume and cancel also what somebody else has launched

    def __post_init__(self) -> None:
        if self.follow and self.action in ("cancel", "resume"):
            raise ValueError(f"follow=true works with action=status and action=logs, not with {self.action}")
        if self.rank is not None and self.action != "logs":
            raise ValueError(f"rank={self.rank} works with action=logs, not with {self.action}")
