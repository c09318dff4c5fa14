"""The Alpaca records as examples in memory; requires neither TensorFlow nor a cache."""

import os
from pathlib import Path

import numpy as np

from alpaca_jax import records
from alpaca_jax.data import example, template
from alpaca_jax.data.example import Examples
from alpaca_jax.tokenizer import Tokenizer

RECORDS, TOKENIZER = "alpaca_data.json", "llama_tokenizer.model"


def folder() -> Path:
    """The folder of the published records and LLaMA's tokenizer; exits with the folder's name if they are missing."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    directory = Path(os.environ.get("ALPACA_JAX_TEST_DATA", beside))
    lacking = [name for name in (RECORDS, TOKENIZER) if not (directory / name).is_file()]
    if lacking:
        raise SystemExit(f"{directory} lacks {' and '.join(lacking)}: set ALPACA_JAX_TEST_DATA to a folder that holds them")
    return directory


def examples(max_length: int = 512, limit: int | None = None, tokenizer: Tokenizer | None = None) -> Examples:
    """The first `limit` records (None: all 52,002) in Stanford's template and LLaMA's (or the given) tokens, truncated at `max_length`."""
    tokenizer = tokenizer or Tokenizer.load(folder() / TOKENIZER)
    recipe = example.Recipe(template.get("alpaca", tokenizer), tokenizer, max_length)
    tokenized, _ = example.tokenize(records.read(folder() / RECORDS).records[:limit], recipe)
    return tokenized


def save(path: Path, tokenized: Examples) -> None:
    """Writes examples for a machine that has neither the records nor a tokenizer (all of Alpaca: 11 MB)."""
    np.savez_compressed(path, ids=tokenized.ids.astype(np.uint16), learnt=np.packbits(tokenized.learnt), offsets=tokenized.offsets)


def load(path: Path | str) -> Examples:
    """Reads what `save` wrote."""
    stored = np.load(path)
    ids = stored["ids"].astype(np.int32)
    return Examples(ids, np.unpackbits(stored["learnt"], count=len(ids)).astype(bool), stored["offsets"])
