"""The items: the same ones everywhere, and none that is answered by repeating it, by a wrong choice, or not by its own answer."""

import collections

import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.scores.suites.basics.config import BasicsConfig
from alpaca_jax.scores.suites.basics.draw import Draw
from alpaca_jax.scores.suites.basics.item import CHOICES, lenient, strict
from alpaca_jax.scores.suites.basics.items import LEVELS, VERSION, chosen, every, fingerprint
from alpaca_jax.scores.suites.basics.questions import CATEGORIES


def test_this_version_has_these_items():
    """With another fingerprint, published scores mean something else: raise VERSION."""
    items = every()
    assert (VERSION, len(items), fingerprint(items)[:16]) == (1, 300, "73673aea61e3a68b")
    assert collections.Counter((item.category, item.level) for item in items) == {
        (category, level): count for category in CATEGORIES for level, count in LEVELS.items()
    }
    assert len({item.id for item in items}) == len({item.question.prompt for item in items}) == 300


@pytest.mark.parametrize("seed", range(5))
def test_only_its_own_answer_answers_an_item(seed):
    for item in every(seed):
        question = item.question
        assert strict(question, f" {question.answer}\n") and lenient(question, question.answer), item
        assert lenient(question, f"The answer is {question.answer}."), item
        assert not lenient(question, question.prompt) and not lenient(question, ""), item
        assert not any(lenient(question, wrong) for wrong in question.wrong), item
        assert not lenient(question, "; ".join(item.choices)) or question.kind in ("number", "sequence", "json"), item
        assert len(set(item.choices)) == CHOICES and item.choices[item.right] == question.answer


def test_the_answers_place_says_nothing():
    places = collections.Counter(item.right for seed in range(5) for item in every(seed))
    assert all(375 - 5 * 17 < count < 375 + 5 * 17 for count in places.values()), places  # five standard deviations


def test_a_part_of_the_items():
    few = chosen(["lists", "facts"], limit=3)
    assert [item.id for item in few] == ["lists-01", "lists-02", "lists-03", "facts-01", "facts-02", "facts-03"]
    assert chosen(limit=1000) == list(every()) and fingerprint(every(1)) != fingerprint(every())


def test_draws_are_those_of_python_that_never_change():
    draw = Draw("a name")
    assert [draw.number(1, 100) for _ in range(5)] == [3, 20, 71, 63, 4]
    assert sorted(Draw("x").shuffled(range(10))) == list(range(10)) and len(set(Draw("x").some(range(10), 4))) == 4


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"categories": ["list"]}, "categories=list: there is no such category.*lists"),
        ({"generate": False}, "metric=lenient needs generate=true"),
        ({"choose": False, "metric": "choice"}, "metric=choice needs choose=true"),
    ],
)
def test_settings_that_ask_for_nothing_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        parse(BasicsConfig, settings)
