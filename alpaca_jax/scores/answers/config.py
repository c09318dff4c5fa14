"""What the key `answers` of a config holds."""

import dataclasses
from typing import Annotated, Any

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Nonnegative, Nucleus, Positive, Range, Seed
from alpaca_jax.teacher.config import TeacherConfig

Slots = Annotated[int, Range(1, 4096, give="1 to 4096")]
WARM = 0.7  # the temperature of several answers a prompt, where none is given: MT-bench's for open questions


@configclass
class AnswersConfig:
    """Which prompts are answered, by whom, and how."""

    prompts: str | None = None  # the file of a prompt set; null: nothing is answered
    seeds: Positive = 1  # answers to each prompt
    seed: Seed = 0  # of the first answer; those that follow have the next ones
    temperature: Nonnegative | None = None  # null: greedy for one seed, 0.7 for several
    top_p: Nucleus = 1.0
    max_tokens: Positive = 512  # of an answer
    template: str | None = None  # null: that of data; chat: each model's own
    slots: Slots = 16  # prompts that a model in this process answers at once
    limit: Positive | None = None  # only the first prompts; null: all
    # Name -> a file of answers, or an endpoint, to compare with.
    others: dict[str, str | TeacherConfig] = dataclasses.field(default_factory=dict)
    dollars: Nonnegative | None = None  # the most that each endpoint may cost
    set_aside: bool = False  # answers that were made with other settings are renamed and made anew; otherwise they are refused

    def __post_init__(self) -> None:
        if self.temperature == 0 and self.seeds > 1:
            raise ValueError(f"temperature=0 gives the same answer for all {self.seeds} seeds: give a temperature, or seeds=1")
        if self.others and self.prompts is None:
            raise ValueError("others has answers to compare, and prompts says to what: give answers.prompts=FILE")

    @property
    def settled_temperature(self) -> float:
        """The temperature, with what null stands for."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.seeds == 1 else WARM

    def sampling(self) -> dict[str, Any]:
        """What decides an answer beside its model and its prompt."""
        return {"temperature": self.settled_temperature, "top_p": self.top_p, "max_tokens": self.max_tokens, "seed": self.seed}
