"""The score: what one who knows, one who guesses and one who repeats would get, errors by hand, and what a model is asked."""

import math
import random
import types

import numpy as np
import pytest
from random_models import byte_level

from alpaca_jax.data import template
from alpaca_jax.data.example import Recipe, prompt_ids
from alpaca_jax.scores.suites.basics import ask
from alpaca_jax.scores.suites.basics.config import BasicsConfig
from alpaca_jax.scores.suites.basics.items import every
from alpaca_jax.scores.suites.basics.score import choices, rows, score

LOADED = types.SimpleNamespace(template=None, template_name="alpaca")


def model(monkeypatch, answer, logprob):
    """Lets `score` ask a model that gives an item this answer, and a choice this log-probability."""
    monkeypatch.setattr(ask, "answers", lambda loaded, written, items, most, told: [answer(item) for item in items])
    monkeypatch.setattr(
        ask, "likelihoods", lambda loaded, written, items, told: [[logprob(item, choice) for choice in item.choices] for item in items]
    )


def test_one_who_knows_gets_everything(monkeypatch):
    model(monkeypatch, lambda item: item.question.answer, lambda item, choice: -1e3 * (choice != item.question.answer))
    found = score(LOADED, BasicsConfig())
    names = ("strict", "lenient", "choice", "choice_norm", "probability")
    assert {name: (metric["value"], metric["stderr"]) for name, metric in found["metrics"].items()} == dict.fromkeys(names, (100, 0))
    assert (found["items"], found["score"], len(found["samples"])) == (300, 100, 300)
    assert {name: part["items"] for name, part in found["levels"].items()} == {"1": 120, "2": 90, "3": 90}


def test_one_who_guesses_is_at_chance(monkeypatch):
    draw = random.Random(0)
    others = {category: [item.question.answer for item in every() if item.category == category] for category in ("facts", "lists")}
    model(monkeypatch, lambda item: draw.choice(others[item.category]), lambda item, choice: draw.gauss(-10, 1))
    config = BasicsConfig(categories=("facts", "lists"))
    runs = [score(LOADED, config)["metrics"] for _ in range(20)]
    for name in ("choice", "lenient"):
        mean, chance = np.mean([run[name]["value"] for run in runs]), runs[0][name]["chance"]
        assert abs(mean - chance) < 4 * np.mean([run[name]["stderr"] for run in runs]) / math.sqrt(20) + 1, name
    assert runs[0]["choice"]["chance"] == 25 and 0 < runs[0]["lenient"]["chance"] < 5


def test_one_who_repeats_the_question_gets_nothing(monkeypatch):
    model(monkeypatch, lambda item: item.question.prompt, lambda item, choice: 0.0)
    assert score(LOADED, BasicsConfig(choose=False))["score"] == 0


def test_errors_and_parts_by_hand(monkeypatch):
    model(monkeypatch, lambda item: item.question.answer if item.id in ("facts-01", "facts-03") else "", lambda item, choice: 0.0)
    found = score(LOADED, BasicsConfig(categories=("facts", "lists"), limit=4, choose=False))
    assert found["score"] == 25 and found["stderr"] == pytest.approx(100 * math.sqrt(2 * 0.75 / 7 / 8))
    parts = {name: part["metrics"]["lenient"] for name, part in found["categories"].items()}
    assert (parts["facts"]["value"], parts["lists"]["value"]) == (50, 0)
    assert parts["facts"]["stderr"] == pytest.approx(100 * math.sqrt(4 * 0.25 / 3 / 4)) and parts["lists"]["stderr"] == 0
    table = {(row["task"], row["metric"]): (row["value"], row["stderr"]) for row in rows(found)}
    assert table["basics", "lenient"] == (0.25, found["stderr"] / 100) and table["basics_facts", "strict"][0] == 0.5
    assert score(LOADED, BasicsConfig(categories=("facts",), limit=1, choose=False))["stderr"] is None


def test_choices_by_hand():
    item = types.SimpleNamespace(choices=("a", "bbbb", "cc", "d"), right=1)
    found = choices(item, [-2.0, -4.0, -9.0, -3.0])
    assert (found["choice"], found["choice_norm"]) == (0.0, 1.0)
    assert found["probability"] == pytest.approx(math.exp(-4) / sum(map(math.exp, (-2, -4, -9, -3))))
    assert choices(item, [-5000.0, -4000.0, -5000.0, -5000.0])["probability"] == 1.0


def test_a_choice_is_scored_from_its_first_token_on():
    tokenizer = byte_level()
    written = template.get("alpaca", tokenizer)
    for item in every()[::50]:
        prompt = prompt_ids(written, tokenizer, item.question.prompt)
        for (ids, start), choice in zip(ask._rows(item, Recipe(written, tokenizer, 4096)), item.choices, strict=True):
            assert ids[: len(prompt)] == prompt and tokenizer.decode(ids[len(prompt) : start]) == ask.LEAD
            assert tokenizer.decode(ids[start:]) == f" {choice}"
