"""Weight differences: the tuned model comes back bit for bit, and what doesn't fit is said."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.formats import difference, float_difference, huggingface, huggingface_export, model
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import leaves, weights
from alpaca_jax.formats.tensors import nested
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture

BASE = Architecture(
    vocab_size=18,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    max_positions=64,
    tie_embeddings=True,
)
TUNED = dataclasses.replace(BASE, vocab_size=19, tie_embeddings=False)  # a row more, and a head of its own
DTYPES = ("float32", "bfloat16", "float16")


def numpy_dtype(name: str) -> Any:
    return ml_dtypes.bfloat16 if name == "bfloat16" else name


def make(architecture: Architecture, tokenizer: Path, seed: int, dtype: str, like: Pretrained | None = None) -> Pretrained:
    """A model in memory; its weights are near those of `like`, as a tuned model's are."""
    params = dict(leaves(jax.tree.map(np.array, llama.init(architecture, jax.random.key(seed)))))
    for path, weight in params.items():
        if like is not None and path in weights(like.architecture):
            theirs = like.read(path).astype(np.float32)
            weight[: len(theirs)] = theirs + 0.01 * weight[: len(theirs)]
    embed = params["embed", "weight"]
    embed[0, :4] = [0.0, -0.0, 1e-7, -1e-7]  # signs of zero and what is denormal in float16
    made = nested({path: weight.astype(numpy_dtype(dtype)) for path, weight in params.items()})
    return dataclasses.replace(model.in_memory(architecture, Tokenizer.load(tokenizer), made), source=f"models/{seed}")


def same(left: Pretrained, right: Pretrained) -> bool:
    assert left.architecture == right.architecture
    return all(left.read(path).tobytes() == right.read(path).tobytes() for path in weights(right.architecture))


@pytest.fixture(params=DTYPES)
def models(request: pytest.FixtureRequest, tiny_tokenizer: Path) -> tuple[Pretrained, Pretrained]:
    base = make(BASE, tiny_tokenizer, 0, "bfloat16")
    return make(TUNED, tiny_tokenizer, 1, request.param, like=base), base


def test_the_tuned_model_comes_back_bit_for_bit(models: tuple[Pretrained, Pretrained], tmp_path: Path) -> None:
    tuned, base = models
    told: list[str] = []
    difference.export(tmp_path / "diff", tuned, base, {"README.md": "hello"}, told.append, shard_bytes=3000)
    assert len(told) == len(set(told)) == len(huggingface_export.listing(TUNED, "float32"))
    assert len(list((tmp_path / "diff").glob("weight_difference-*.safetensors"))) > 1
    assert (tmp_path / "diff" / "README.md").read_text() == "hello"
    assert json.loads((tmp_path / "diff" / "config.json").read_text())["dtype"] == tuned.dtype
    assert difference.base_of(tmp_path / "diff") == "models/0"

    # The base as others hold it: in files, cut otherwise, in a wider dtype.
    huggingface_export.export(tmp_path / "base", base, "float32", shard_bytes=2000)
    opened = difference.open(tmp_path / "diff", huggingface.open(tmp_path / "base"))
    assert opened.dtype == tuned.dtype
    assert same(opened, tuned)
    for path, index in {("embed", "weight"): (slice(16, 19), slice(2, 5)), ("layers", "mlp", "down"): (slice(1, 2), slice(3, 9))}.items():
        assert opened.read(path, index).tobytes() == tuned.read(path, index).tobytes()

    huggingface_export.export(tmp_path / "recovered", opened)
    assert same(huggingface.open(tmp_path / "recovered"), tuned)


def test_what_the_base_lacks_is_stored_as_it_is(models: tuple[Pretrained, Pretrained], tmp_path: Path) -> None:
    tuned, base = models
    deeper = dataclasses.replace(BASE, num_layers=3)
    tuned = dataclasses.replace(make(deeper, Path(tmp_path), 1, tuned.dtype, base) if False else tuned)
    difference.export(tmp_path / "diff", tuned, base)
    opened = difference.open(tmp_path / "diff", base)
    stored = opened.stored["lm_head.weight"]
    bits = difference.safetensors.read(stored)
    assert bits.tobytes() == tuned.read(("head", "weight")).tobytes()
    rows = difference.safetensors.read(opened.stored["model.embed_tokens.weight"])
    assert rows[18:].tobytes() == tuned.read(("embed", "weight"))[18:].tobytes()
    assert not rows[0, :2].any()  # equal bits leave nothing
