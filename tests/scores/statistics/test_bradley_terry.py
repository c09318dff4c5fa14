import dataclasses
import json

import numpy as np
import pytest

from alpaca_jax.scores.statistics import Vote, bradley_terry, last_votes


def elos(ranking):
    return {model.name: model.elo.value for model in ranking.models}


def test_human_votes_give_the_reference_strengths(judged):
    expected = judged.expected["human_votes"]
    votes = judged.votes()
    assert len(votes) == expected["votes"] and len(judged.rows) == expected["votes_in_file"]
    counts = [sum(vote.outcome == outcome for vote in votes) for outcome in (1, 0, 0.5)]
    assert counts == [expected["first_wins"], expected["second_wins"], expected["ties"]]
    ranking = bradley_terry(votes, "chatgpt", position=False, clusters=("prompt",))
    assert elos(ranking) == pytest.approx(expected["bradley_terry_elo_chatgpt_0"], abs=0.01)
    errors = {model.name: model.elo.standard_error for model in ranking.models if model.name != "chatgpt"}
    assert errors == pytest.approx(expected["clustered_by_prompt_se_elo"], abs=0.01)
    assert [model.ranks for model in ranking.models] == [(1, 2), (1, 2), (3, 4), (3, 4)]


def test_human_votes_give_the_reference_position(judged):
    expected = judged.expected["human_votes"]["with_position_term"]
    ranking = bradley_terry(judged.votes(), "chatgpt", clusters=("prompt",))
    assert elos(ranking) == pytest.approx({"chatgpt": 0} | expected["elo"], abs=0.01)
    assert ranking.position.value == pytest.approx(expected["position_logit_first"], abs=1e-4)
    assert ranking.position.standard_error == pytest.approx(expected["position_se_clustered_by_prompt"], abs=1e-4)


def test_the_order_of_votes_changes_nothing(judged):
    votes = judged.votes()
    shuffled = [votes[place] for place in np.random.default_rng(0).permutation(len(votes))]
    assert bradley_terry(shuffled, "chatgpt") == bradley_terry(votes, "chatgpt")


def test_voters_cluster_too_and_never_make_an_error_smaller(judged):
    by_prompt, by_both = (bradley_terry(judged.votes(), "chatgpt", clusters=each) for each in (("prompt",), ("prompt", "voter")))
    assert by_both.clustered == ("prompt", "voter") and by_both.voters == 16
    pairs = list(zip(by_prompt.models, by_both.models, strict=True))
    assert all(ours.elo.standard_error >= theirs.elo.standard_error for theirs, ours in pairs if theirs.name != "chatgpt")
    two = [dataclasses.replace(vote, voter=str(len(vote.prompt) % 2)) for vote in judged.votes()]
    assert bradley_terry(two, "chatgpt").clustered == ("prompt",), "two voters are too few to cluster by"


def test_the_anchor_only_moves_the_zero(judged):
    ours, theirs = (elos(bradley_terry(judged.votes(), anchor)) for anchor in ("chatgpt", "tulu_7B"))
    assert {name: value - theirs["chatgpt"] for name, value in theirs.items()} == pytest.approx(ours)
    with pytest.raises(ValueError, match="nobody is in no vote; there are votes on chatgpt"):
        bradley_terry(judged.votes(), "nobody")


def votes_of(table):
    """Votes from `(first, second): (won by the first, won by the second, ties)`."""
    return [
        Vote(first, second, outcome, str(number))
        for (first, second), counts in table.items()
        for outcome, count in zip((1.0, 0.0, 0.5), counts, strict=True)
        for number in range(count)
    ]


BOTH = {("a", "b"): (12, 8, 2), ("b", "a"): (9, 11, 3)}


def test_twenty_to_nothing_is_named_and_not_ranked():
    ranking = bradley_terry(votes_of(BOTH | {("c", "a"): (20, 0, 0), ("b", "d"): (7, 0, 0)}), "a")
    assert [model.name for model in ranking.models] == ["a", "b"]
    assert {(each.names, each.reason) for each in ranking.apart} == {(("c",), "won every comparison"), (("d",), "lost every comparison")}
    assert ranking.apart[0].sentence == "c: won 20:0 against a, so how much better than a can't be bounded."
    assert ranking.models == bradley_terry(votes_of(BOTH), "a").models


def test_groups_that_never_met_are_named():
    ranking = bradley_terry(votes_of(BOTH | {("x", "y"): (3, 2, 0)}), "a")
    assert [(each.names, each.reason) for each in ranking.apart] == [(("x", "y"), "never met")]


def test_two_that_beat_the_same_third_are_not_linked():
    ranking = bradley_terry(votes_of({("a", "c"): (5, 0, 0), ("b", "c"): (5, 0, 0)}), "a")
    assert {(each.names, each.reason) for each in ranking.apart} == {(("b",), "not linked"), (("c",), "lost every comparison")}
    assert len(ranking.models) == 1 and ranking.position is None


def test_one_tie_links_two_models():
    assert bradley_terry(votes_of({("a", "b"): (9, 0, 1)}), "a").apart == ()


def test_a_first_place_that_can_t_be_told_is_said():
    one_way = bradley_terry(votes_of({("a", "b"): (9, 4, 0)}), "a")
    assert one_way.position is None and "shown in both orders" in one_way.position_note
    always = bradley_terry(votes_of({("a", "b"): (9, 0, 0), ("b", "a"): (9, 0, 0)}), "a")
    assert always.position is None and "the first place decides" in always.position_note


def test_known_strengths_are_found_and_covered():
    strengths, position, covered, found = {"a": 0.0, "b": 0.5, "c": -0.7}, 0.4, np.zeros(3), []
    pairs = [(x, y) for x in strengths for y in strengths if x != y]
    for seed in range(120):
        rng = np.random.default_rng(seed)
        chance = [1 / (1 + np.exp(strengths[y] - strengths[x] - position)) for x, y in pairs]
        votes = [Vote(x, y, float(rng.random() < p), str(n)) for n in range(25) for (x, y), p in zip(pairs, chance, strict=True)]
        ranking = bradley_terry(votes, "a")
        logits = {model.name: model.logit for model in ranking.models}
        estimates = [logits["b"], logits["c"], ranking.position]
        covered += [each.low <= true <= each.high for each, true in zip(estimates, (0.5, -0.7, position), strict=True)]
        found.append([each.value for each in estimates])
    assert np.mean(found, axis=0) == pytest.approx([0.5, -0.7, 0.4], abs=0.05)
    assert (covered / 120 >= 0.91).all() and (covered / 120 <= 0.985).all()


def test_the_last_of_a_voters_votes_counts():
    first, changed = Vote("a", "b", 1, "p", "v"), Vote("b", "a", 1, "p", "v")
    assert last_votes([first, changed]) == [changed]


def test_a_result_is_plain_json(judged):
    found = dataclasses.asdict(bradley_terry(judged.votes(), "chatgpt"))
    assert json.loads(json.dumps(found, allow_nan=False))["anchor"] == "chatgpt"
