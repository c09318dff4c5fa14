"""What is written for Hydra's grammar is read back as it was."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alpaca_jax.config import parse
from alpaca_jax.grammar import written
from alpaca_jax.recipe.config import Stage

VALUES = [
    ["你好", "it's", 'say "no"', "back\\slash\\", "two\nlines", "a, b", "[x]", "${x", "null", "1", ""],
    {"a": [1, 2.5, True, None], "b c": {"d": "é"}},
    [],
    {},
    "1e5",
    None,
    False,
]


def _read(text):
    return OverridesParser.create().parse_overrides([f"key={text}"])[0].value()


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_round_trip(value):
    assert _read(written(value)) == value


def test_a_recipe_passes_values_on_as_they_are():
    for value in (VALUES[0], [{"a": 1}]):
        stage = parse(Stage, {"verb": "evaluate", "output": "x", "overrides": {"samples": {"prompts": value}}})
        assert _read(stage.added()[0].partition("=")[2]) == value


def test_the_command_of_a_plain_list_stays_as_it_was():
    assert parse(Stage, {"verb": "train", "output": "x", "overrides": {"a": ["b", 1]}}).added() == ['a=["b", 1]']
