from hypothesis import given
from hypothesis import strategies as st

from alpaca_jax.model import llama
from alpaca_jax.model.tree import by_name, flatten, map_with_path, unflatten

TREE = {"layers": {"mlp": {"up": 1, "down": (2, 3)}, "norm": None}, "embed": [4]}
TREES = st.recursive(st.integers(), lambda below: st.dictionaries(st.text(max_size=2), below, min_size=1), max_leaves=12)


def test_leaves_are_found_by_path_and_by_name_in_order():
    assert list(flatten(TREE).items()) == [
        (("layers", "mlp", "up"), 1),
        (("layers", "mlp", "down"), (2, 3)),
        (("layers", "norm"), None),
        (("embed",), [4]),
    ]
    assert list(by_name(TREE)) == ["layers.mlp.up", "layers.mlp.down", "layers.norm", "embed"]


def test_a_named_tuple_is_a_leaf():
    spec = llama.WeightSpec((2, 3), "float32", ("vocab", "embed"))
    assert flatten({"embed": {"weight": spec}}) == {("embed", "weight"): spec}


@given(st.dictionaries(st.text(max_size=2), TREES, max_size=4))
def test_a_tree_is_flattened_and_built_again(tree):
    assert unflatten(flatten(tree)) == tree


def test_mapping_sees_path_and_leaf():
    assert map_with_path(lambda path, leaf: (path[-1], leaf), TREE) == {
        "layers": {"mlp": {"up": ("up", 1), "down": ("down", (2, 3))}, "norm": ("norm", None)},
        "embed": ("embed", [4]),
    }
    assert map_with_path(lambda path, leaf: leaf, {}) == {}
