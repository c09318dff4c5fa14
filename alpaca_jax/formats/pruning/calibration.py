"""The texts on which a model's parts are weighed: records rendered as the model's own chat, packed into a few rows."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from importlib import resources

import numpy as np

from alpaca_jax import records
from alpaca_jax.data import example, template
from alpaca_jax.data.example import Recipe
from alpaca_jax.data.pack import best_fit, lay
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer

LENGTH = 256  # tokens of a row, and the most that are taken of a text
TOKENS = 4096  # enough for a stable order of layers; a pass over them takes seconds for a small model


@dataclasses.dataclass(frozen=True)
class Calibration:
    """The arrays of a packed batch, [B, T] each (see `data.pack`), and the file that the texts are from."""

    tokens: np.ndarray
    targets: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    source: str

    @property
    def real(self) -> np.ndarray:
        """Which slots hold a token, bool [B, T]."""
        return self.segments > 0


def read(path: str | None, tokenizer: Tokenizer, most: int) -> Calibration:
    """The first records of a file (None: the packaged tasks), of at most `most` tokens each; a UserError where there are none."""
    if path is not None:
        return _laid(records.stream(records.files(path), "stop", Counter()), tokenizer, most, path)
    with resources.as_file(resources.files("alpaca_jax.records") / "seeds.jsonl") as packaged:
        return _laid(records.read(packaged).records, tokenizer, most, "the packaged tasks")


def _laid(texts: Iterable[records.Record], tokenizer: Tokenizer, most: int, source: str) -> Calibration:
    length = min(LENGTH, most)
    recipe = Recipe(template.get(template.AUTO, tokenizer), tokenizer, length)
    taken, tokens = [], 0
    for one in example.stream(texts, recipe, Counter()):
        if tokens + len(one.ids) > TOKENS:
            break
        taken.append(one)
        tokens += len(one.ids)
    if not taken:
        raise UserError(f"model.calibration={source}: it has no record with an answer, so nothing can be weighed; give another file")
    places = best_fit([len(one.ids) for one in taken], length)
    batch = lay([[taken[index] for index in place] for place in places], len(places), length)
    return Calibration(**batch, source=source)
