"""The settings of `evaluate action=vote`."""

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Port, Share


@configclass
class VoteConfig:
    """Where the page answers, and how much of the voting every voter shares with the others."""

    host: str = "127.0.0.1"  # there is no key: on another address everyone who reaches it can vote
    port: Port = 8010  # 0: any free one
    overlap: Share = 0.2  # of the questions, those that every voter gets; the rest is divided
    ready: str | None = None  # a file that gets {url, pid} while the page answers
