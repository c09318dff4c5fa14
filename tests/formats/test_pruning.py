"""Smaller models out of a larger one: what is kept is read as it stands, and what does nothing is what goes."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from random_models import SIZES, byte_level, logits, model_of, random_weights

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.names import weights
from alpaca_jax.formats.pruning import calibration, choice, weighing
from alpaca_jax.formats.pruning.cut import cut
from alpaca_jax.formats.pruning.kept import Kept, ranges, said
from alpaca_jax.model import influence
from alpaca_jax.model.architecture import Architecture

ARCHITECTURE = Architecture(**SIZES | {"head_dim": 12, "tie_embeddings": True})
SMOLLM3 = Architecture(**SIZES | {"head_dim": 12, "family": "smollm3", "nope_layers": (1, 3)})
TOKENS = list(range(4, 40))
OUT, DOWN, VALUE = ("layers", "attention", "out"), ("layers", "mlp", "down"), ("layers", "attention", "value")


@pytest.fixture(scope="module")
def tokenizer():
    return dataclasses.replace(byte_level(), chat_template=None)


def model(tokenizer, architecture=ARCHITECTURE, **changes):
    """A random model; `changes` are functions of its weights."""
    made = random_weights(architecture)
    for change in changes.values():
        change(made)
    return model_of(made, architecture, tokenizer)


def idle(*layers):
    """Makes these layers add nothing to the residual stream."""

    def change(made):
        for path in (OUT, DOWN):
            made[path][list(layers)] = 0.0

    return change


def settings(tmp_path, **model_settings):
    return parse(ModelConfig, {"source": "tiny", "cache": str(tmp_path)} | model_settings)


def test_every_part_of_every_weight_is_that_of_the_kept_places(tokenizer):
    whole = model(tokenizer)
    kept = Kept(layers=(0, 2, 3), channels=tuple(range(1, 64, 2)), heads=((1,), (0,), (1,)), neurons=((5, 7, 90), (0, 1, 2), (3, 4, 95)))
    small = cut(whole, kept)
    a = small.architecture
    assert (a.num_layers, a.hidden_size, a.num_heads, a.num_kv_heads, a.intermediate_size) == (3, 32, 2, 1, 3)
    channels = list(kept.channels)
    assert np.array_equal(small.read(("embed", "weight")), whole.read(("embed", "weight"))[:, channels])
    assert np.array_equal(small.read(("norm", "scale")), whole.read(("norm", "scale"))[channels])
    query, down = whole.read(("layers", "attention", "query")), whole.read(DOWN)
    for place, layer in enumerate(kept.layers):
        head = kept.heads[place][0]
        assert np.array_equal(small.read(("layers", "attention", "query"))[place], query[layer][channels][:, 2 * head : 2 * head + 2])
        assert np.array_equal(small.read(DOWN)[place], down[layer][list(kept.neurons[place])][:, channels])
    for path, weight in weights(a).items():
        every = small.read(path)
        assert every.shape == weight.shape
        index = tuple(slice(size // 3, size // 3 + 1 + size // 2) for size in weight.shape)
        assert np.array_equal(small.read(path, index), every[index])


def test_fewer_layers_keep_their_own_kind(tokenizer):
    kept = Kept(layers=(0, 1, 3))
    assert kept.architecture(SMOLLM3).nope_layers == (1, 2)
    assert logits(cut(model(tokenizer, SMOLLM3), kept), TOKENS).shape == (36, 400)


@pytest.mark.parametrize("by", ["", " by loss", " one by one"])
def test_layers_that_do_nothing_are_left_out_and_nothing_changes(tokenizer, tmp_path, by):
    whole = model(tokenizer, change=idle(1, 2))
    kept = choice.keep(settings(tmp_path, keep_layers=f"drop 2, chosen{by}"), whole)
    assert kept == Kept(layers=(0, 3))
    np.testing.assert_allclose(logits(cut(whole, kept), TOKENS), logits(whole, TOKENS), atol=1e-5)


def test_heads_and_neurons_that_do_nothing_are_left_out_and_nothing_changes(tokenizer, tmp_path):
    busy = np.array([[3, 50, 90], [0, 1, 2], [10, 20, 30], [93, 94, 95]])

    def change(made):
        for layer, neurons in enumerate(busy):
            made[DOWN][layer, np.setdiff1d(np.arange(96), neurons)] = 0.0
            made[VALUE][layer, :, layer % 2] = 0.0

    whole = model(tokenizer, change=change)
    kept = choice.keep(settings(tmp_path, widths={"intermediate_size": 3, "num_kv_heads": 1}), whole)
    assert kept.heads == ((1,), (0,), (1,), (0,)) and np.array_equal(kept.neurons, busy)
    np.testing.assert_allclose(logits(cut(whole, kept), TOKENS), logits(whole, TOKENS), atol=1e-5)


def test_the_quietest_channels_are_left_out(tokenizer, tmp_path):
    def change(made):
        for path, axis in ((("embed", "weight"), 1), (OUT, 3), (DOWN, 2)):
            made[path][(slice(None),) * axis + (slice(0, 16),)] *= 0.01

    kept = choice.keep(settings(tmp_path, widths={"hidden_size": 48}), model(tokenizer, change=change))
    assert kept.channels == tuple(range(16, 64)) and kept.heads is kept.neurons is None and kept.layers == (0, 1, 2, 3)


def test_angles_and_influences_by_hand():
    streams = [np.array([[1.0, 0.0]]), np.array([[0.0, 2.0]]), np.array([[0.0, 1.0]]), np.array([[-3.0, 0.0]])]
    np.testing.assert_allclose(influence.angular_distances(streams, 1), [0.5, 0.0, 0.5], atol=1e-12)
    np.testing.assert_allclose(influence.angular_distances(streams, 2), [0.5, 0.5], atol=1e-12)
    np.testing.assert_allclose(influence.block_influences(streams), [1.0, 0.0, 1.0], atol=1e-12)
    assert influence.without(6, 2, 3) == (0, 1, 5) and influence.largest(np.array([1.0, 3.0, 2.0, 3.0]), 2) == (1, 3)


def test_the_loss_without_a_block_is_that_of_the_smaller_model(tokenizer):
    whole = model(tokenizer)
    texts = calibration.read(None, tokenizer, 256)
    found = weighing.losses_without(weighing.Walk(whole, texts), range(4), 2)
    assert len(found) == 4
    for start in range(3):
        small = cut(whole, Kept(layers=influence.without(4, start, 2)))
        walk = weighing.Walk(small, texts)
        np.testing.assert_allclose(found[start], walk.losses([weighing.streams(walk)[-1]])[0], rtol=1e-5)
    np.testing.assert_allclose(found[-1], weighing.losses_without(weighing.Walk(whole, texts), range(4), 1)[-1], rtol=1e-6)


def test_what_is_named_on_the_way_is_seen():
    from jax.ad_checkpoint import checkpoint_name

    def function(x):
        return checkpoint_name(jnp.sin(checkpoint_name(x * 2, "twice")), "sine") + 1

    result, seen = influence.named(function, ["twice", "sine"])(jnp.array([0.5]))
    np.testing.assert_allclose(result, np.sin(1.0) + 1, rtol=1e-6)
    np.testing.assert_allclose([seen["twice"][0], seen["sine"][0]], [1.0, np.sin(1.0)], rtol=1e-6)


def test_a_choice_is_made_once(tokenizer, tmp_path, monkeypatch):
    whole, asked = model(tokenizer), settings(tmp_path, keep_layers="drop 1, chosen")
    first = choice.keep(asked, whole)
    monkeypatch.setattr(choice, "choose", lambda *_: pytest.fail("chosen again"))
    assert choice.keep(asked, whole) == first and len(first.layers) == 3
    assert choice.keep(settings(tmp_path, keep_layers=3), whole) == Kept(layers=(0, 1, 2))
    assert choice.keep(settings(tmp_path, keep_layers=[0, 3]), whole) == Kept(layers=(0, 3))
    assert choice.keep(settings(tmp_path), whole) is None


def test_other_texts_may_choose_otherwise_and_are_a_choice_of_their_own(tokenizer, tmp_path):
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps({"instruction": f"Say {n}", "output": str(n)}) + "\n" for n in range(9)))
    asked = settings(tmp_path, keep_layers="drop 1", calibration=str(records))
    assert choice.keep(asked, model(tokenizer)).layers
    records.write_text('{"instruction": "Say nothing.", "output": ""}\n')
    choice.keep(asked, model(tokenizer))
    assert len(list((tmp_path / "kept").iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep_layers": 5}, "keep_layers=5: tiny has 4 layers"),
        ({"keep_layers": [0, 4]}, r"keep_layers=\[0, 4\]: tiny has 4 layers"),
        ({"keep_layers": "drop 4, chosen"}, "keep_layers=drop 4, chosen: tiny has 4 layers"),
        ({"widths": {"num_kv_heads": 3}}, "widths.num_kv_heads=3: tiny has only 2"),
        ({"keep_layers": "the best 3"}, "give N, a list such as"),
        ({"keep_layers": [2, 1]}, "in order and each only once"),
        ({"keep_layers": 0}, "give N, a list such as"),
        ({"keep_layers": 2, "source": None}, "give model.source=NAME too"),
    ],
)
def test_what_a_model_does_not_have_is_refused(tokenizer, tmp_path, changes, message):
    with pytest.raises((UserError, ValueError), match=message):
        choice.keep(settings(tmp_path, **changes), model(tokenizer))


def test_what_is_left_is_said_in_words():
    assert ranges([0, 2, 3, 4, 9]) == "0, 2-4, 9"
    kept = Kept(layers=(0, 3), heads=((0,), (1,)))
    assert said(ARCHITECTURE, kept) == "2 of 4 layers (without 1-2), 2 of 4 heads"
    assert said(ARCHITECTURE, Kept(layers=(0, 1, 2, 3))) == "all of it"
    assert dataclasses.replace(kept, heads=None).architecture(ARCHITECTURE) == ARCHITECTURE.with_layers(2)
