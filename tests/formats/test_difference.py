"""Weight differences as Stanford published Alpaca's: they give the tuned model, and what doesn't fit is refused."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.formats import difference, model, pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten, unflatten
from alpaca_jax.tokenizer import Tokenizer

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


def make(architecture: Architecture, tokenizer: Path, seed: int, like: Pretrained | None = None) -> Pretrained:
    """A float32 model in memory; its weights are near those of `like`, as a tuned model's are."""
    params = flatten(jax.tree.map(np.array, llama.init(architecture, jax.random.key(seed))))
    for path, weight in params.items():
        if like is not None and path in weights(like.architecture):
            theirs = like.read(path)
            weight[: len(theirs)] = theirs + 0.01 * weight[: len(theirs)]
    return dataclasses.replace(model.in_memory(architecture, Tokenizer.load(tokenizer), unflatten(params)), source=f"models/{seed}")


def published(tuned: Pretrained, base: Pretrained) -> Pretrained:
    """The difference as Stanford's script makes it: in float32, with the mean of the base's rows in the place of a row it lacks."""
    differences = {}
    for path, weight in weights(tuned.architecture).items():
        theirs = base.read(path)
        more = weight.shape[0] - len(theirs)
        resized = np.concatenate([theirs, np.repeat(theirs.mean(0, keepdims=True), more, 0)]) if more else theirs
        differences[path] = tuned.read(path) - resized
    return dataclasses.replace(model.in_memory(tuned.architecture, tuned.tokenizer, unflatten(differences)), source="wdiff")


def test_a_difference_as_stanford_published_it(tiny_tokenizer: Path, tmp_path: Path) -> None:
    untied = dataclasses.replace(BASE, tie_embeddings=False)
    base = make(untied, tiny_tokenizer, 0)
    tuned = make(TUNED, tiny_tokenizer, 1, like=base)
    huggingface_export.export(tmp_path / "wdiff", published(tuned, base))
    huggingface_export.export(tmp_path / "base", base)
    opened = pretrained.open(ModelConfig(source=str(tmp_path / "wdiff"), base=str(tmp_path / "base")))
    assert opened.origin == str(tmp_path / "base")
    total = 0.0
    for path in weights(TUNED):
        np.testing.assert_allclose(opened.read(path), tuned.read(path), rtol=0, atol=3e-7)
        total += tuned.read(path).sum(dtype=np.float64)
    np.testing.assert_array_equal(opened.read(("head", "weight"), (slice(17, 19), slice(1, 4))), opened.read(("head", "weight"))[17:, 1:4])
    (note,) = (note for note in opened.notes if "all its weights is" in note)
    found = float(note.split("all its weights is ")[1].split(",")[0])
    assert found == pytest.approx(total, abs=1e-3)


def test_a_whole_model_is_not_taken_for_a_difference(tiny_tokenizer: Path) -> None:
    base = make(BASE, tiny_tokenizer, 0)
    with pytest.raises(UserError, match="holds the weights of a whole model, not their difference"):
        difference.add(make(BASE, tiny_tokenizer, 1, like=base), base)
    other = make(dataclasses.replace(BASE, hidden_size=32), tiny_tokenizer, 1)
    with pytest.raises(
        UserError, match=r"(?s)models/1 is no difference to base=models/0.*attention_norm.scale is \[2, 32\] in it, \[2, 16\] in the base"
    ):
        difference.add(other, base)


def test_the_bit_format_of_version_0_1_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "weight_difference.json").write_text("{}")
    with pytest.raises(
        UserError, match="is a weight difference in the bit format of alpaca-jax 0.1, which is no longer read: add it to its base"
    ):
        pretrained.open(tmp_path)
