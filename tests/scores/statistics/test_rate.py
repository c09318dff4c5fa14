import numpy as np
import pytest

from alpaca_jax.scores.statistics import by_prompt, from_alpaca_eval, outcomes, wilson, win_rate


def test_every_annotation_gives_the_published_win_rate(judged):
    assert len(judged.annotated) == 15
    for each in judged.annotated:
        rate = win_rate(from_alpaca_eval(each.coded))
        assert rate.estimate.value == pytest.approx(each.published["win_rate"], abs=1e-8), each.model
        assert rate.estimate.standard_error == pytest.approx(each.published["standard_error"], abs=1e-8), each.model
        counts = (rate.wins, rate.losses, rate.ties, rate.prompts)
        assert counts == tuple(each.published[name] for name in ("n_wins", "n_wins_base", "n_draws", "n_total")), each.model


def test_draws_are_coded_in_two_ways_and_a_verdict_may_be_missing():
    assert from_alpaca_eval([1, 2, 0, 1.5, 1.25, None]).tolist()[:5] == [0, 1, 0.5, 0.5, 0.25]
    rate = win_rate(from_alpaca_eval([0, 1.5, None, float("nan")]))
    assert (rate.estimate.value, rate.ties, rate.missing) == (50, 2, 2)


def test_a_model_against_itself_is_50(judged):
    itself = win_rate(from_alpaca_eval(judged.one("gpt4_1106_preview").coded))
    assert (itself.estimate.value, itself.estimate.standard_error, itself.of_decided) == (50, 0, None)


def test_the_two_sides_of_a_comparison_sum_to_100(judged):
    for each in judged.annotated:
        ours = from_alpaca_eval(each.coded)
        there, back = win_rate(ours), win_rate(1 - ours)
        assert there.estimate.value + back.estimate.value == pytest.approx(100, abs=1e-10)
        assert (there.wins, there.losses) == (back.losses, back.wins)


def test_verdicts_of_a_prompt_are_averaged_before_prompts_are(judged):
    pair = judged.expected["human_votes"]["pairs"]
    for name, expected in pair.items():
        first = expected["first_named"]
        votes = [vote for vote in judged.votes() if {vote.first, vote.second} == set(name.split(" vs "))]
        values = [vote.outcome if vote.first == first else 1 - vote.outcome for vote in votes]
        rate = win_rate(values, [vote.prompt for vote in votes])
        assert (rate.votes, rate.prompts) == (expected["votes"], expected["prompts"])
        assert rate.estimate.value == pytest.approx(expected["win_rate_mean_of_prompts"], abs=1e-4)
        assert rate.estimate.standard_error == pytest.approx(expected["se_over_prompts"], abs=1e-4)


def test_the_order_of_rows_changes_not_even_the_last_bit(judged):
    votes = judged.votes()
    shuffled = [votes[place] for place in np.random.default_rng(0).permutation(len(votes))]
    rates = [win_rate([vote.outcome for vote in each], [vote.prompt for vote in each]) for each in (votes, shuffled)]
    assert rates[0] == rates[1]


def test_wilson_is_the_reference_of_the_252_and_of_stanfords_90_to_89(judged):
    found = judged.expected["alpaca_7b_vs_text_davinci_003_on_the_252"]
    share = wilson(found["wins"], found["wins"] + found["losses"])
    assert [share.low, share.high] == pytest.approx(found["wilson_of_decided"], abs=1e-3)
    assert [wilson(90, 179).low, wilson(90, 179).high] == pytest.approx([43.026, 57.521], abs=1e-3)
    assert wilson(3, 3).high == pytest.approx(100) and 40 < wilson(3, 3).low < 50


def test_a_preference_outside_0_to_1_is_refused_by_its_place():
    with pytest.raises(ValueError, match="preference 2 of 2 is 1.5"):
        win_rate([0.5, 1.5])


def test_no_verdict_at_all_is_no_rate():
    rate = win_rate([None, None], ["a", "b"])
    assert (rate.estimate, rate.prompts, rate.missing) == (None, 0, 2)
    assert win_rate([1.0]).estimate.low is None, "one prompt has no standard error"


def test_outcomes_and_means_by_prompt():
    assert outcomes([0.2, 0.5, 0.9]).tolist() == [0, 0.5, 1]
    assert by_prompt([1, 0, None, 0.5, None], ["a", "a", "a", "b", "c"]) == {"a": 0.5, "b": 0.5}
