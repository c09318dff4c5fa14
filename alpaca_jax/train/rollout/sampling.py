"""Answers sampled from the run's own weights, on its own mesh: the same for the same weights, seed, batch, prompt and number."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.generation import Generation, Options
from alpaca_jax.decode.program import Program
from alpaca_jax.distributed import beat
from alpaca_jax.model.llama import Params

SLOTS = 64  # answers at a time


@dataclass(frozen=True)
class Answer:
    """Sampled `ids`, with the token that ended it, and their log-probabilities at temperature 1; `truncated`: it didn't end."""

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    truncated: bool

    @classmethod
    def of(cls, generation: Generation) -> "Answer":
        """What has come of a generation that is finished."""
        tokens = [*generation.tokens, *([generation.stop] if generation.stop else [])]
        return cls(tuple(one.id for one in tokens), tuple(one.logprob for one in tokens), generation.stop is None)


@dataclass(frozen=True)
class Sampler:
    """How answers are sampled. The whole distribution is drawn from: a nucleus would be another policy than the one that is trained."""

    program: Program
    stop_ids: frozenset[int]
    max_new_tokens: int
    temperature: float
    longest: int  # tokens of a prompt with its answer

    def sample(self, params: Params, prompts: Sequence[Sequence[int]], seeds: Sequence[int], step: int) -> list[Answer]:
        """One answer a prompt, in order; the watchdog hears of each token."""
        batch = Batch(self.program, weights.of_run(params), min(SLOTS, len(prompts)), self.longest + 1)
        admitted: list[Generation] = []
        while len(admitted) < len(prompts) or batch.free < batch.slots:
            for number in range(len(admitted), min(len(admitted) + batch.free, len(prompts))):
                options = Options(self.max_new_tokens, self.temperature, seed=seeds[number], stop_ids=self.stop_ids)
                admitted.append(batch.admit(prompts[number], options))
            batch.step()
            beat(step)
        return [Answer.of(generation) for generation in admitted]


def seed_of(*numbers: int) -> int:
    """A seed of 32 bits for these numbers, each other ones another."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
