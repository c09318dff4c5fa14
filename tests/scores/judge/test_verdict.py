import math

import pytest

from alpaca_jax.scores.judge import verdict
from alpaca_jax.teacher.protocol import Answer


def said(text, *top):
    positions = tuple({token: math.log(share) for token, share in each.items()} for each in top)
    return Answer(text=text, finish_reason="stop", model="m", prompt_tokens=1, completion_tokens=1, seconds=0.0, top=positions)


@pytest.mark.parametrize(
    ("text", "preferred"),
    [
        *(("A", 1.0), (" b\n", 0.0), ("C.", 0.5), ("**A**", 1.0), ("(B)", 0.0), ('"A"', 1.0), ("Answer: B", 0.0), ("answer A", 1.0)),
        *(("The better answer is B.", 0.0), ("My verdict: C", 0.5), ("tie", 0.5), ("Neither.", 0.5)),
        ("A\n\nAnswer A names the capital, answer B doesn't.", 1.0),
        ("Answer A is short but right, and B rambles.\n\nVerdict: A", 1.0),
        *(("", None), ("A good question", None), ("Both are good", None), ("AB", None), ("D", None), ("I'm sorry, I can't help.", None)),
        *((None, None), ("A or B", None), ("Banana", None)),
    ],
)
def test_a_letter(text, preferred):
    assert verdict.read(said(text), "letter") == preferred


@pytest.mark.parametrize(
    ("text", "preferred"),
    [
        *(('{"verdict": "A"}', 1.0), ('```json\n{"verdict": "b"}\n```', 0.0), ('{"reason": "{", "verdict": "C"}', 0.5)),
        ('First {"verdict": "A"}, no: {"verdict": "B"}', 0.0),
        ('{"reason": "both {fine}", "verdict": "tie"}', 0.5),
        *(('{"verdict": 1}', None), ('{"winner": "A"}', None), ("A", None), ('{"verdict": "A"', None), ("{" * 50_000, None)),
    ],
)
def test_an_object(text, preferred):
    assert verdict.read(said(text), "json") == preferred


def test_log_probabilities_are_normalised_over_all_spellings_of_the_labels():
    top = {"A": 0.3, " A": 0.2, "a": 0.1, "B": 0.15, "▁B": 0.05, "The": 0.2}
    assert verdict.read(said("A", top), "logprobs") == pytest.approx(0.75)
    assert verdict.read(said("C", {"A": 0.2, "B": 0.2, "C": 0.4, "x": 0.2}), "logprobs") == pytest.approx(0.5)
    assert verdict.read(said("A", {"A": 0.6, "C": 0.3}), "logprobs") == pytest.approx(0.75 / 0.9)
    assert verdict.read(said("A", {"A": 1.0}), "logprobs") == 1.0


def test_a_label_may_follow_a_space_but_not_a_word():
    assert verdict.read(said(" A", {" ": 0.9, "A": 0.02}, {"A": 0.25, "B": 0.75}), "logprobs") == pytest.approx(0.25)
    assert verdict.read(said("I think A", {"I": 0.97, "A": 0.03}, {"A": 0.9, "B": 0.1}), "logprobs") is None
    assert verdict.read(said("A"), "logprobs") is None
    assert verdict.read(said("A", {}), "logprobs") is None
