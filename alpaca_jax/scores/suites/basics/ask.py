"""What a model makes of the items: its greedy answers, and how likely it finds each choice."""

from collections.abc import Callable, Sequence

import numpy as np

from alpaca_jax.data.example import Recipe, prompt_ids, tokenize
from alpaca_jax.data.template import Template
from alpaca_jax.decode.generation import Generation, Options
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites.basics.item import Item

SLOTS = 32  # answers at a time
# What precedes each choice. Without it, the small models that begin a sentence or repeat the question are asked for what they never write.
LEAD = "Answer:"
AT_ONCE = 16  # items between two calls of `progress`
Progress = Callable[[int], None]


def answers(loaded: Loaded, template: Template, items: Sequence[Item], max_tokens: int, progress: Progress) -> list[str]:
    """Returns one greedy answer an item; `progress` hears how many are finished."""
    batch = loaded.batch(SLOTS)
    room = batch.max_length - max_tokens
    prompts = [prompt_ids(template, loaded.tokenizer, item.question.prompt) for item in items]
    if room < (longest := max(map(len, prompts), default=0)):
        raise UserError(
            f"basics: a prompt of {longest} tokens and max_tokens={max_tokens} don't fit the model's {batch.max_length} positions: "
            "give a smaller max_tokens, or generate=false"
        )
    options = Options(max_tokens, stop_ids=frozenset((*loaded.eos_ids, template.end_id)))
    admitted: list[Generation] = []
    while len(admitted) < len(prompts) or batch.free < batch.slots:
        admitted += [batch.admit(prompt, options) for prompt in prompts[len(admitted) : len(admitted) + batch.free]]
        batch.step()
        progress(len(admitted) - (batch.slots - batch.free))
    return [loaded.tokenizer.decode([token.id for token in one.tokens]) for one in admitted]


def likelihoods(loaded: Loaded, template: Template, items: Sequence[Item], progress: Progress) -> list[list[float]]:
    """Returns for each item the log-probability (nats) of each choice after an answer that begins with LEAD, without what would end it.

    All is tokenized as training tokenizes it. `progress` hears how many items are done.
    """
    scoring = Scoring(loaded.program, loaded.weights)
    recipe = Recipe(template, loaded.tokenizer, scoring.max_length)
    found: list[list[float]] = []
    for first in range(0, len(items), AT_ONCE):
        some = items[first : first + AT_ONCE]
        scored = iter(scoring.score([row for item in some for row in _rows(item, recipe)]))
        found += [[next(scored).logprob for _ in item.choices] for item in some]
        progress(len(found))
    return found


def _rows(item: Item, recipe: Recipe) -> list[tuple[list[int], int]]:
    """The ids of prompt, lead and choice, and where the choice starts."""
    texts = [LEAD, *(f"{LEAD} {choice}" for choice in item.choices)]
    examples, counts = tokenize([Record(instruction=item.question.prompt, output=text) for text in texts], recipe)
    if counts.truncated or counts.no_target:
        raise UserError(f"basics: {item.id} doesn't fit the model's {recipe.max_length} positions: give choose=false")
    lead, *rows = [example.ids[:-1] for example in examples.take(range(len(texts)))]  # without the token that ends the answer
    return [(row.tolist(), _common(lead, row)) for row in rows]


def _common(one: np.ndarray, other: np.ndarray) -> int:
    """How many tokens both begin with."""
    least = min(len(one), len(other))
    (differ,) = np.nonzero(one[:least] != other[:least])
    return int(differ[0]) if len(differ) else least
