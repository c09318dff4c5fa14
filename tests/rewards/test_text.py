"""Rewards that look at the text, on answers worked by hand."""

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.rewards import text
from alpaca_jax.rewards.config import ExactConfig, FormatConfig, LengthConfig


@pytest.mark.parametrize(
    ("settings", "answer", "key", "reward"),
    [
        ({}, " The\n cat ", "The cat", 1),
        ({}, "The cat.", "The cat", 0),
        ({"number": True}, "It costs $1,250.50.", "1250.5", 1),
        ({"number": True}, "3 + 4 = 7", "7", 1),
        ({"number": True}, "3 + 4", "7", 0),
        ({"number": True}, "none", "7", 0),
        ({"number": True}, "none", "none", 0),  # no number is not the right number
        ({"after": "####", "number": True}, "2 and 3\n#### 5", "so\n#### 5", 1),
        ({"after": "####", "number": True}, "5", "so\n#### 5", 0),
    ],
)
def test_an_exact_answer(settings, answer, key, reward):
    assert text.exact(ExactConfig(name="exact", **settings), answer, key) == reward


@pytest.mark.parametrize(
    ("settings", "answer", "reward"),
    [
        ({"bullets": 3}, "- a\n* b\n\n3. c", 1),
        ({"bullets": 3}, "Here they are:\n- a\n- b\n- c", 0),
        ({"bullets": 3}, "- a\n- b", 0),
        ({"bullets": 1}, "-", 0),
        ({"json_object": True}, ' {"a": 1} ', 1),
        ({"json_object": True}, "[1]", 0),
        ({"json_object": True}, "[" * 100_000, 0),
        ({"pattern": r"<think>.*</think>.+"}, "<think>\nhm\n</think>\n4", 1),
        ({"pattern": r"<think>.*</think>.+"}, "4", 0),
        ({"pattern": r"(a|a)*b", "json_object": True}, "a" * 50_000, 0),  # would take a backtracking matcher for ever
        ({"pattern": r"\{.*", "json_object": True}, "{", 0.5),
    ],
)
def test_a_format(settings, answer, reward):
    assert text.format(FormatConfig(name="format", **settings), answer) == reward


@pytest.mark.parametrize(("words", "reward"), [(0, 0), (4, 0.5), (5, 1), (10, 1), (11, 0.5), (12, 0), (90, 0)])
def test_a_length_with_slack(words, reward):
    assert text.length(LengthConfig(name="length", least=5, most=10, slack=2), "word " * words) == reward


def test_a_length_without_slack_in_characters():
    config = LengthConfig(name="length", most=3, unit="characters")
    assert [text.length(config, answer) for answer in ("abc", " abc ", "abcd")] == [1, 1, 0]


def test_what_makes_no_sense_is_named():
    with pytest.raises(ValueError, match="give pattern, bullets=N or json_object"):
        FormatConfig(name="format")
    with pytest.raises(ValueError, match="least=5 is above most=3"):
        LengthConfig(name="length", least=5, most=3)
    with pytest.raises(UserError, match=r"pattern='\(' is no regular expression"):
        text.compiled("(")
