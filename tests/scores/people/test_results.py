"""The figures of a vote, on people's published votes and on votes worked by hand."""

import json
import random

import pytest

from alpaca_jax.scores.people import results, tables
from alpaca_jax.scores.people.questions import Question
from alpaca_jax.scores.people.votes import Vote

LEVELS = {
    "a-is-better": "first_much",
    "a-is-slightly-better": "first_slightly",
    "tie": "tie",
    "b-is-slightly-better": "second_slightly",
    "b-is-better": "second_much",
}


@pytest.fixture(scope="module")
def published(data_dir):
    """(questions, votes) of 877 votes on the 252 prompts, with answers that have nothing but their lengths."""
    rows = [json.loads(line) for line in (data_dir / "judged" / "human_votes.jsonl").read_text().splitlines()]
    expected = json.loads((data_dir / "judged" / "expected.json").read_text())["human_votes"]
    pairs = [tuple(name.split(" vs ")) for name in expected["pairs"]]
    asked, votes = {}, {}
    for row in rows:
        characters = {row["first"]: row["first_chars"], row["second"]: row["second_chars"]}
        models = next(pair for pair in pairs if set(pair) == set(characters))
        question = Question(row["prompt"], (row["prompt"],), models, tuple(("x" * characters[name],) for name in models))
        asked[question.key] = question
        vote = Vote(row["annotator"], question.key, row["prompt"], row["first"], row["second"], LEVELS[row["preference"]])
        votes[vote.voter, vote.question] = vote
    assert len(votes) == expected["votes"]
    return list(asked.values()), list(votes.values()), expected


def test_published_votes_give_the_published_figures(published):
    asked, votes, expected = published
    value = results.results(votes, asked, {}, "chatgpt")
    assert len(value["voters"]) == 16
    for pair in value["pairs"]:
        wanted = expected["pairs"][f"{pair['model']} vs {pair['against']}"]
        rate = pair["rate"]["estimate"]
        assert rate["value"] == pytest.approx(wanted["win_rate_mean_of_prompts"], abs=1e-3)
        assert rate["standard_error"] == pytest.approx(wanted["se_over_prompts"], abs=1e-3)
        levels = pair["levels"]
        assert levels["first_much"] + levels["first_slightly"] == wanted["wins"]
        assert levels["second_much"] + levels["second_slightly"] == wanted["losses"]
        assert levels["tie"] == wanted["ties"]
    elo = {one["name"]: one["elo"]["value"] for one in value["ranking"]["models"]}
    for name, wanted in expected["with_position_term"]["elo"].items():
        assert elo[name] == pytest.approx(wanted, abs=0.01)
    assert value["ranking"]["position"]["value"] == pytest.approx(expected["with_position_term"]["position_logit_first"], abs=1e-4)


def test_published_agreement_of_people(published):
    asked, votes, expected = published
    wanted = expected["pairs"]["chatgpt vs tulu_65B"]
    of_pair = [question for question in asked if question.models == ("chatgpt", "tulu_65B")]
    first_two = [vote for each in of_pair for vote in [vote for vote in votes if vote.question == each.key][:2]]
    value = results.results(first_two, of_pair, {}, "chatgpt")
    people = value["agreement"][0]["all"]
    assert people["items"] == wanted["doubly_judged"]
    assert people["agreed"]["value"] == pytest.approx(100 * wanted["agreement"], abs=1e-3)
    assert people["kappa"]["value"] == pytest.approx(wanted["cohen_kappa"], abs=0.02)  # which of two voters is named first is chance


def test_the_order_of_votes_changes_nothing(published):
    asked, votes, _ = published
    mixed = random.Random(0).sample(votes, len(votes))
    one, other = (json.dumps(results.results(each, asked, {}, "chatgpt"), sort_keys=True) for each in (votes[:200], mixed))
    assert one != other
    again = json.dumps(results.results(votes, asked, {}, "chatgpt"), sort_keys=True)
    assert json.loads(again)["agreement"] == json.loads(other)["agreement"]


def test_judge_people_and_length_by_hand():
    asked = [Question(f"p{n}", ("?",), ("m", "base"), (("long answer",), ("short",))) for n in range(4)]
    cast = [("ada", 0, "first_much"), ("bob", 0, "first_slightly"), ("ada", 1, "second_much"), ("bob", 1, "tie"), ("ada", 2, "both_bad")]
    votes = [Vote(voter, asked[n].key, asked[n].prompt, "m", "base", level) for voter, n, level in cast]
    judged = {asked[0].key: 0.9, asked[1].key: 0.4, asked[3].key: 1.0}
    value = results.results(votes, asked, judged, "base")
    people, judge, rule = value["agreement"]
    assert (people["all"]["items"], people["all"]["agreed"]["value"]) == (2, 50.0)
    assert (people["decided"]["items"], people["decided"]["agreed"]["value"]) == (1, 100.0)
    assert (judge["all"]["items"], judge["all"]["agreed"]["value"]) == (4, 75.0)
    assert (judge["decided"]["items"], judge["decided"]["agreed"]["value"]) == (3, 100.0)
    assert (rule["all"]["items"], rule["all"]["agreed"]["value"]) == (5, 40.0)
    (pair,) = value["pairs"]
    assert pair["rate"]["estimate"]["value"] == pytest.approx(100 * (1 + 0.25 + 0.5) / 3)
    assert pair["judge"]["estimate"]["value"] == pytest.approx(100 * (0.9 + 0.4) / 2)
    assert pair["levels"] == dict(first_much=1, first_slightly=1, tie=1, second_slightly=0, second_much=1, both_bad=1)
    shown = {table.title: table for table in tables.tables(value)}
    assert list(shown) == ["What people prefer", "Who agrees with whom"]
    json.dumps(value, allow_nan=False)


def test_levels_are_told_from_the_models_side_whoever_was_shown_first():
    question = Question("p", ("?",), ("m", "base"), (("x",), ("y",)))
    shown = [("m", "base", "first_much"), ("base", "m", "second_much"), ("base", "m", "first_slightly"), ("base", "m", "both_bad")]
    votes = [Vote(f"v{n}", question.key, "p", first, second, level) for n, (first, second, level) in enumerate(shown)]
    (pair,) = results.results(votes, [question], {}, "base")["pairs"]
    assert pair["levels"] == dict(first_much=2, first_slightly=0, tie=0, second_slightly=1, second_much=0, both_bad=1)


def test_nobody_has_voted():
    question = Question("p", ("?",), ("m", "base"), (("x",), ("y",)))
    value = results.results([], [question], {question.key: 0.5}, "base")
    assert tables.tables(value) == []
    assert tables.summary(value) == "nobody has voted yet"
