import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_judge import KnownJudge

from alpaca_jax.scores.statistics import from_alpaca_eval, normal_prompts, one_order, position

PROMPTS = 252


def simulated(judge, verdicts, seeds, prompts=PROMPTS, repeats=1):
    """What `position` makes of each seed's verdicts, on new prompts each time."""
    names, first = [str(row) for row in range(prompts)] * (2 * repeats), [True] * (prompts * repeats) + [False] * (prompts * repeats)
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        strength, _ = judge.draw(prompts, rng)
        ask = judge.verdict if verdicts else judge.probability
        orders = [True] * repeats + [False] * repeats
        found.append(position(np.concatenate([ask(strength, order, rng) for order in orders]), names, first))
    return found


def coverage(found, truth):
    return 100 * np.mean([each.corrected.low <= truth <= each.corrected.high for each in found])


def test_the_known_truth_is_69_7_and_averaging_shows_61_7():
    judge = KnownJudge(quality=1, spread=1, position=2)
    assert judge.truth() == pytest.approx(69.7, abs=0.05)
    assert np.mean([each.plain.value for each in simulated(judge, False, 50)]) == pytest.approx(61.7, abs=0.2)


@pytest.mark.parametrize("verdicts", [False, True], ids=["probabilities", "verdicts"])
def test_the_corrected_rate_finds_the_truth_and_its_interval_covers_it(verdicts):
    judge = KnownJudge(quality=1, spread=1, position=2, length=0.5, noise=0.5)
    found, truth = simulated(judge, verdicts, 200), judge.truth()
    assert all(each.kind == ("verdicts" if verdicts else "probabilities") for each in found)
    assert abs(np.mean([each.plain.value for each in found]) - truth) > 6, "the plain average is far off"
    assert np.mean([each.corrected.value for each in found]) == pytest.approx(truth, abs=1.5)
    assert 93 <= coverage(found, truth) <= 97


@pytest.mark.prove
@pytest.mark.parametrize("verdicts", [False, True], ids=["probabilities", "verdicts"])
@pytest.mark.parametrize(
    "judge",
    [
        KnownJudge(),
        KnownJudge(spread=1.25, length=1, noise=0.5),
        KnownJudge(length=1, noise=0.5, ties=0.5),
        KnownJudge(quality=2, spread=2),
        KnownJudge(quality=0),
        KnownJudge(position=0),
        KnownJudge(spread=2, position=-1),
    ],
    ids=lambda judge: ",".join(f"{name}={value:g}" for name, value in dataclasses.asdict(judge).items()),
)
def test_so_it_does_for_every_judge(judge, verdicts):
    found, truth = simulated(judge, verdicts, 1000), judge.truth()
    assert np.mean([each.corrected.value for each in found]) == pytest.approx(truth, abs=0.7)
    assert 93 <= coverage(found, truth) <= 97
    if not judge.noise:  # noise flattens the curve, and the position logit is that of the flatter one
        covered = np.mean([each.logit.low - 1e-6 <= judge.position <= each.logit.high + 1e-6 for each in found])
        assert 0.93 <= covered <= 0.985 or not verdicts


def test_a_judge_of_probabilities_without_noise_gives_its_position_away_exactly():
    [found] = simulated(KnownJudge(), False, 1)
    assert found.logit.value == pytest.approx(2, abs=1e-9)


def test_a_skewed_spread_of_prompts_stays_within_the_bounds_and_near_the_truth():
    # Verdicts alone can't say how prompts are spread; where it isn't normal the corrected rate is off by little, and the bounds hold.
    rng = np.random.default_rng(0)
    strength = rng.gamma(2, 1, 400_000) - 1
    first, second = (rng.random(len(strength)) < 1 / (1 + np.exp(-strength - sign * 2)) for sign in (1, -1))
    cells, truth = normal_prompts.table(first.astype(float), second.astype(float)), np.mean(1 / (1 + np.exp(-strength)))
    least, most = normal_prompts.bounds(cells)
    assert least < truth < most
    assert normal_prompts.corrected(cells).rate == pytest.approx(truth, abs=0.02)


def rows(first, second, **more):
    names = [str(row) for row in range(len(first))]
    return position([*first, *second], names * 2, [True] * len(first) + [False] * len(second), **more)


def test_a_judge_that_always_prefers_the_first_says_nothing():
    for first, second, place in (([1] * 9, [0] * 9, "first"), ([0] * 9, [1] * 9, "second")):
        found = rows(first, second)
        assert found.logit is None and found.corrected is None and found.plain.value == 50
        assert found.reason == f"the judge always prefers the answer that is shown {place}: its verdicts say nothing about the answers"


def test_a_judge_that_never_minds_the_order_leaves_the_plain_rate():
    found = rows([1] * 7 + [0] * 3, [1] * 7 + [0] * 3)
    assert found.plain.value == 70 and found.corrected is None and found.consistent == 100
    assert "the plain win rate stands" in found.reason


def test_without_position_verdicts_correct_to_the_plain_average():
    found = rows([1] * 40 + [0] * 20 + [1] * 10 + [0] * 10, [1] * 40 + [0] * 20 + [0] * 10 + [1] * 10)
    assert found.logit.value == 0 and found.corrected.value == pytest.approx(found.plain.value, abs=0.5)


def test_swapping_the_sides_swaps_the_rate():
    rng = np.random.default_rng(0)
    for values in (rng.random((2, 80)), rng.choice([0, 0.5, 1.0], (2, 80), p=[0.3, 0.2, 0.5])):
        ours, theirs = rows(*values), rows(1 - values[1], 1 - values[0])
        assert ours.corrected.value + theirs.corrected.value == pytest.approx(100, abs=1e-6)
        assert ours.logit.value == pytest.approx(theirs.logit.value, abs=1e-8)


def test_equal_answers_are_ties_that_say_nothing_about_position():
    first, second = [0.9] * 10 + [0.8] * 10, [0.4] * 10 + [0.5] * 10
    alone = rows(first, second)
    names, shown = [str(row) for row in range(20)] * 2 + ["same"] * 20, [True] * 20 + [False] * 20 + [True] * 20
    names[40:] = [f"same{row}" for row in range(20)]
    found = position([*first, *second, *[0.5] * 20], names, shown, [True] * 40 + [False] * 20)
    assert found.logit == alone.logit and (found.prompts, found.incomplete) == (40, 0)
    assert found.corrected.value == pytest.approx((alone.corrected.value + 50) / 2)
    seeds = position(
        [*first, *second, *[0.5] * 40],
        [str(row) for row in range(20)] * 4,
        [True] * 20 + [False] * 20 + [True] * 40,
        [True] * 40 + [False] * 40,
    )
    assert seeds.corrected.value == found.corrected.value, "one of two seeds of each prompt has equal answers"
    assert seeds.plain.value == found.plain.value and seeds.prompts == 20
    assert rows([0.5], [0.5], asked=[False, False]).reason == "all answers are equal: the judge was never asked"


def test_a_prompt_with_one_readable_order_is_counted_apart():
    found = position([0.9, 0.4, 0.7, None, 0.6], ["a", "a", "b", "b", "c"], [True, False, True, False, False])
    assert (found.prompts, found.incomplete) == (1, 2) and found.corrected.standard_error is None
    none = position([0.9], ["a"], [True])
    assert none.plain is None and none.reason == "no prompt has a readable verdict in both orders"


def test_more_verdicts_an_order_are_taken_as_they_are():
    judge = KnownJudge(noise=0.5)
    thrice, once = simulated(judge, True, 40, repeats=3), simulated(judge, True, 40)
    assert np.mean([each.corrected.value for each in thrice]) == pytest.approx(judge.truth(), abs=1.2)
    assert np.mean([each.corrected.standard_error for each in thrice]) < 0.8 * np.mean([each.corrected.standard_error for each in once])


def test_the_order_of_rows_changes_not_even_the_last_bit():
    rng = np.random.default_rng(0)
    values, names, first = rng.random(400), [str(row % 50) for row in range(400)], rng.random(400) < 0.5
    for numbers in (values, np.round(values)):
        order = rng.permutation(400)
        assert position(numbers, names, first) == position(numbers[order], [names[row] for row in order], first[order])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 2), min_size=2, max_size=60))
def test_any_verdicts_give_a_rate_within_its_bounds(pairs):
    first, second = map(np.array, zip(*pairs, strict=True))
    cells = normal_prompts.table(first, second)
    found, (least, most) = normal_prompts.corrected(cells), normal_prompts.bounds(cells)
    assert least - 1e-6 <= found.rate <= most + 1e-6 and np.isfinite([found.rate_error, found.logit_error, found.logit]).all()


def test_one_order_a_prompt_gives_the_reference_difference(judged):
    for model, expected in judged.expected["position"].items():
        found = one_order(from_alpaca_eval(judged.one(model).coded), judged.shown_first)
        assert found.value == pytest.approx(expected["difference"], abs=1e-4)
        assert found.standard_error == pytest.approx(expected["se"], abs=1e-4)
