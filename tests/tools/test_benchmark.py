"""What the benchmarks share: whose ratio is which, and the file that carries tokens to another machine."""

import json

import numpy as np

from alpaca_jax.data.example import Example, Examples
from tools.benchmark import alpaca, turns


def test_a_ratio_above_one_is_always_ours_being_better():
    rate, time = (json.loads(turns.result("name", 2.0, 8.0, unit, ("numpy", "no-such-package"))) for unit in ("tokens/s", "s"))
    assert (rate["ratio"], time["ratio"]) == (0.25, 4.0)
    assert rate["versions"] == {"numpy": np.__version__, "no-such-package": None}
    assert json.loads(turns.result("name", 2.0, None, "s", ()))["ratio"] is None


def test_turns_alternate_and_the_warm_up_does_not_count():
    taken = []
    seconds = turns.in_turns({name: lambda name=name: taken.append(name) for name in "ab"}, turns=2)
    assert "".join(taken) == "ababab"
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_carried_tokens_are_the_same(tmp_path):
    random = np.random.default_rng(0)
    made = Examples.of(Example.answering(random.integers(0, 49152, size).astype(np.int32), 2) for size in (3, 9, 4))
    alpaca.save(tmp_path / "tokens.npz", made)
    found = alpaca.load(tmp_path / "tokens.npz")
    for mine, its in zip(made.take(range(3)), found.take(range(3)), strict=True):
        np.testing.assert_array_equal(its.ids, mine.ids)
        np.testing.assert_array_equal(its.learnt, mine.learnt)
    assert found.ids.dtype == np.int32
