"""A reward model that `train objective=reward` made: a number for each answer, which orders answers and filters them.

As a command (`python -m alpaca_jax.scores.reward RUN`) it reads a JSON list of [instruction, input, system, answer] and writes the list of
their rewards; see `rewarding`.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from alpaca_jax import storage
from alpaca_jax.data import example, template
from alpaca_jax.data.example import Example, Features, Recipe
from alpaca_jax.data.pack import best_fit, lay
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native, pretrained
from alpaca_jax.model.llama import Params
from alpaca_jax.records import Record
from alpaca_jax.sharding import Layout
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives.preference import REAL
from alpaca_jax.trainer.objectives.reward import answer_rewards
from alpaca_jax.trainer.weights import SCORE

ROWS = 4  # of a batch
STRIDE = 256  # a row is a multiple of this, and holds the longest text
LONGEST = 2**24  # nothing is cut


class RewardModel:
    """The newest checkpoint of a run of objective=reward, or the one that `source` names; a UserError where it is none."""

    def __init__(self, source: str) -> None:
        score = native.score(storage.at(source))
        model = pretrained.open(source)
        self._recipe = Recipe(template.get("chat", model.tokenizer), model.tokenizer, LONGEST)
        layout = Layout.of_one_device()
        self._forward = Forward(model.architecture, constrain=layout.constrain)
        self._params: Params = pretrained.load_params(model) | {SCORE: {"weight": jnp.asarray(score, jnp.float32)[None]}}

    def rewards(self, records: Sequence[Record], progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
        """Returns the reward of the last answer of each record, float32 [N]; `progress` hears how many are done."""
        asked = (record.answering(record.answer) for record in records)
        texts = [Example(ids, np.ones(len(ids), bool), facts={REAL: 1.0}) for _, ids, _ in example.joined(asked, self._recipe)]
        lengths = [len(text.ids) for text in texts]
        length = -(-max(lengths, default=1) // STRIDE) * STRIDE
        places = best_fit(lengths, length)
        slots, found = max(map(len, places), default=0), np.zeros(len(texts), np.float32)
        for start in range(0, len(places), ROWS):
            group = places[start : start + ROWS]
            batch = lay([[texts[index] for index in place] for place in group], ROWS, length, slots, Features(facts=(REAL,)))
            for place, row in zip(group, np.asarray(_rewards(self._forward, self._params, batch)), strict=False):
                found[place] = row[: len(place)]
            progress(sum(map(len, places[: start + ROWS])))
        return found


@functools.partial(jax.jit, static_argnums=0)
def _rewards(forward: Forward, params: Params, batch: Mapping[str, jax.Array]) -> jax.Array:
    return answer_rewards(forward, params, batch)


def main() -> int:
    """Scores what stands on standard input by the run that the first argument names; returns the exit code."""
    asked = [Record(instruction, input, answer, system=system) for instruction, input, system, answer in json.load(sys.stdin)]
    try:
        rewards = RewardModel(sys.argv[1]).rewards(asked).tolist()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    json.dump(rewards, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
