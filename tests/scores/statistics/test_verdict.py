import numpy as np
import pytest

from alpaca_jax.scores.statistics import paired, position, verdict, verdict_of_rate, win_rate


def sides(judged, a, b):
    return paired(judged.one(a).preferences, judged.one(b).preferences)


def test_better_and_worse_are_said_with_their_interval(judged):
    found = verdict(sides(judged, "claude-instant-1.2", "gpt-3.5-turbo-0301"), ("Claude", "GPT"))
    assert found.word == "better" and found.needed is None
    assert found.sentence == "Claude is better than GPT: +6.5 points on 805 prompts (95% interval 4.6 to 8.5)."
    assert verdict(sides(judged, "alpaca-7b", "vicuna-7b")).word == "worse"


def test_what_cannot_be_told_says_what_would_tell(judged):
    found = verdict(sides(judged, "vicuna-7b", "alpaca-farm-ppo-human"), ("Vicuna", "PPO"))
    assert found.word == "can't tell" and found.needed > 805
    assert found.sentence.startswith("These data can't tell Vicuna from PPO: +0.1 points on 805 prompts")
    assert f"it would take about {found.needed:,} prompts to find it with 80% power" in found.sentence


def test_an_adjusted_p_value_decides_where_it_is_given(judged):
    difference = sides(judged, "alpaca-7b", "vicuna-7b")
    assert difference.p_value < 0.05
    assert verdict(difference, p_value=0.051).word == "can't tell"
    assert verdict(difference, p_value=0.049).word == "worse"


@pytest.mark.parametrize(("prompts", "word"), [(5, "can't tell"), (6, "better")])
def test_a_handful_of_prompts_can_t_tell_even_where_all_agree(prompts, word):
    ours = {str(row): 1.0 for row in range(prompts)}
    assert verdict(paired(ours, dict.fromkeys(ours, 0.0))).word == word
    assert verdict_of_rate(win_rate([1.0] * prompts)).word == word


def test_a_win_rate_is_told_from_50():
    found = verdict_of_rate(win_rate([1] * 90 + [0] * 89), ("Alpaca", "the teacher"))
    assert found.word == "can't tell" and found.needed > 100_000
    assert "50.3% of 179 prompts" in found.sentence
    assert verdict_of_rate(win_rate([1] * 60 + [0] * 20), ("Alpaca", "the teacher")).sentence.startswith(
        "Alpaca is better than the teacher: it wins 75.0%"
    )
    assert verdict_of_rate(win_rate([None])).word == "can't tell"


def test_the_corrected_rate_is_what_the_verdict_is_about():
    prompts = [str(row) for row in range(200)] * 2
    chances = np.concatenate([np.full(200, 0.95), np.full(200, 0.3)])
    found = position(chances + np.random.default_rng(0).uniform(-0.02, 0.02, 400), prompts, [True] * 200 + [False] * 200)
    said = verdict_of_rate(found)
    assert said.word == "better" and f"{found.corrected.value:.1f}%" in said.sentence
