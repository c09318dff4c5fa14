import numpy as np
import pytest

from alpaca_jax.scores.statistics import holm, needed, paired


def test_paired_differences_are_the_reference(judged):
    for expected in judged.expected["paired"]:
        a, b = (judged.one(expected[side], expected["judge"]).preferences for side in "ab")
        found = paired(a, b)
        assert found.prompts == expected["n"]
        assert found.estimate.value == pytest.approx(expected["difference"], abs=1e-4)
        assert found.estimate.standard_error == pytest.approx(expected["paired_se"], abs=1e-4)
        assert found.unpaired_error == pytest.approx(expected["unpaired_se"], abs=1e-4)
        assert found.correlation == pytest.approx(expected["correlation"], abs=1e-4)
        assert found.p_value == pytest.approx(expected["p_paired_normal"], rel=1e-6)
        assert found.p_unpaired == pytest.approx(expected["p_unpaired_normal"], rel=1e-6)
        assert needed(found.deviation, 2) == expected["prompts_for_2_points_80_percent"]
        assert found.bootstrap == pytest.approx([found.estimate.low, found.estimate.high], abs=0.25), "805 prompts are many"


def test_prompts_are_matched_by_name_and_those_of_one_side_counted(judged):
    a, b = (judged.one(name).preferences for name in ("alpaca-7b", "vicuna-7b"))
    shuffled = {row: b[row] for row in map(str, np.random.default_rng(1).permutation(805))}
    assert paired(a, shuffled) == paired(a, b)
    fewer = paired({row: a[row] for row in list(a)[:100]}, b)
    assert (fewer.prompts, fewer.left_out) == (100, 705)
    with pytest.raises(ValueError, match="no prompt"):
        paired({"a": 1}, {"b": 1})


def test_a_model_and_itself_don_t_differ():
    found = paired({"a": 0.2, "b": 0.9}, {"a": 0.2, "b": 0.9})
    assert (found.estimate.value, found.p_value, found.sign.p_value, found.bootstrap) == (0, 1, 1, (0, 0))


def test_the_sign_test_is_exact():
    # 9 of 10 that differ: 2 * (1 + 10) / 2^10.
    a, b = (
        {str(row): float(row != 0) for row in range(10)} | {"tie": 0.5},
        {str(row): float(row == 0) for row in range(10)} | {"tie": 0.5},
    )
    sign = paired(a, b).sign
    assert (sign.better, sign.worse, sign.ties) == (9, 1, 1) and sign.p_value == pytest.approx(22 / 1024)


def test_the_bootstrap_covers_a_skewed_difference():
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        a = {str(row): value for row, value in enumerate((rng.random(60) < 0.9).astype(float))}
        low, high = paired(a, dict.fromkeys(a, 0.5)).bootstrap
        covered += low <= 40 <= high
    assert 0.88 <= covered / 100 <= 0.98


def test_holm_multiplies_by_how_many_are_left_and_never_falls():
    assert holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert holm([]) == [] and holm([0.9, 0.8]) == [1, 1]


def test_the_prompts_needed_give_the_power_they_promise():
    deviation, difference = 40.0, 5.0
    prompts = needed(deviation, difference)
    rng = np.random.default_rng(0)
    means = rng.normal(difference, deviation / np.sqrt(prompts), 20000)
    assert np.mean(np.abs(means) > 1.959964 * deviation / np.sqrt(prompts)) == pytest.approx(0.8, abs=0.01)
    with pytest.raises(ValueError, match="can't be found"):
        needed(40, 0)
