"""The arithmetic of costs that are computed, by hand, and the table in the docs."""

from pathlib import Path

import pytest
import yaml

from alpaca_jax import config as configuration
from alpaca_jax.errors import UserError
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.scores.frontier.computed import Assumed, compute
from tools import frontier_cost

SMALL = Architecture(vocab_size=10, hidden_size=4, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=2)


def test_the_cost_follows_from_tokens_flop_and_prices() -> None:
    assumed = Assumed(prompt_tokens=60, answer_tokens=40, chip="A100", devices=2, mfu=0.5)
    made = compute("gpt-4.1", "small", SMALL, records=1000, epochs=2, assumed=assumed)
    # A token: 2 x (4 x 2 x 8 for the attention's matrices + 3 x 4 x 8 for the FFN's + 10 x 4 for the vocabulary) = 400 FLOP forward.
    # An example of 100 tokens: 40,000, and attention 4 x 2 x 2 x 100 x 101 / 2 = 80,800. Three times that to train.
    assert made.flop == pytest.approx(2 * 1000 * 3 * (40_000 + 80_800))
    assert made.tokens == 200_000
    assert made.hours == pytest.approx(made.flop / (0.5 * 2 * 312e12) / 3600)
    assert made.training_dollars == pytest.approx(made.hours * 2 * 2.49)
    assert made.teacher_dollars == pytest.approx(1000 * (60 * 2.00 + 40 * 8.00) / 1e6)
    assert made.dollars == made.teacher_dollars + made.training_dollars


def test_the_published_recipe_takes_the_published_flop() -> None:
    # 3 epochs of Alpaca on 7B: 7.9e17 FLOP.
    made = compute("gpt-4.1", "llama_7b", frontier_cost.architecture("llama_7b"), records=52_002, epochs=3)
    assert made.flop == pytest.approx(7.9e17, rel=0.02)


def test_without_a_list_price_nothing_is_computed() -> None:
    with pytest.raises(UserError, match="the list price of the teacher 'nobody' isn't known"):
        compute("nobody", "small", SMALL, 10, 1)
    with pytest.raises(UserError, match="'TPU v5e'"):
        compute("gpt-4.1", "small", SMALL, 10, 1, Assumed(chip="TPU v5e"))


def test_the_experiment_is_the_one_that_is_computed() -> None:
    text = (configuration.directory() / "experiment" / "frontier" / "recipe.yaml").read_text()
    settings = yaml.safe_load(text)["settings"]
    assert {name: settings[name]["epochs"] for name in frontier_cost.STUDENTS} == frontier_cost.STUDENTS
    assert f"settings.records={','.join(map(str, frontier_cost.RECORDS))}" in text
    assert all(f"teacher.model={teacher} " in text for teacher in frontier_cost.TEACHERS)


def test_the_table_in_the_docs_is_the_computed_one() -> None:
    text = (Path(__file__).parents[3] / "docs" / "frontier.md").read_text()
    assert frontier_cost.table(frontier_cost.costs()) in text
