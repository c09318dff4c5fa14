"""Frozen weights by pattern, and the errors that name what was meant."""

import jax
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.model.tree import by_name
from alpaca_jax.trainer.weights import join, name_of, split

TREE = {
    "embed": {"weight": 1},
    "layers": {"attention_norm": {"scale": 2}, "attention": {"query": 3, "key": 4}, "mlp": {"gate": 5}},
    "norm": {"scale": 6},
}


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        ((), set()),
        (("embed.*",), {1}),
        (("layers.*",), {2, 3, 4, 5}),
        (("*norm.scale", "layers.attention.quer?"), {2, 3, 6}),
        (("layers.attention.[qk]*",), {3, 4}),
    ],
)
def test_patterns_part_the_weights_and_join_puts_them_together(patterns, frozen):
    trained, rest = split(TREE, patterns)
    assert set(by_name(rest).values()) == frozen
    assert set(by_name(trained).values()) == {1, 2, 3, 4, 5, 6} - frozen
    assert join(trained, rest) == TREE == join(rest, trained)


def test_a_pattern_that_matches_nothing_names_the_nearest():
    with pytest.raises(UserError, match=r"optimizer.frozen: layers.atention.\* matches no weight; did you mean layers.attention.\*\?"):
        split(TREE, ["embed.*", "layers.atention.*"])
    with pytest.raises(UserError, match="the weights are embed.weight, layers.attention_norm.scale"):
        split(TREE, ["zzz"])


def test_all_frozen_is_an_error():
    with pytest.raises(UserError, match="leaves nothing to train"):
        split(TREE, ["embed.*", "layers.*", "norm.*"])


def test_a_leaf_of_an_optimizer_state_knows_its_weight():
    state = ({"adam": (TREE, 0)}, TREE["norm"])
    names = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)}
    assert names == {*by_name(TREE), "", "scale"}
