import numpy as np
import pytest
from judged import LEVELS

from alpaca_jax.scores.statistics import agreement, kappa, longer


def twice_judged(judged, first, second):
    """The labels of the first two people on each prompt that more than one judged, as seen from `first`."""
    gathered = {}
    for vote in judged.votes():
        if {vote.first, vote.second} == {first, second}:
            gathered.setdefault(vote.prompt, []).append(vote.outcome if vote.first == first else 1 - vote.outcome)
    pairs = [values[:2] for values in gathered.values() if len(values) > 1]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


@pytest.mark.parametrize(("first", "second"), [("chatgpt", "tulu_65B"), ("tulu_65B", "tulu_7B")])
def test_people_agree_as_in_the_reference(judged, first, second):
    expected = judged.expected["human_votes"]["pairs"][f"{first} vs {second}"]
    found = agreement(*twice_judged(judged, first, second))
    assert found.items == expected["doubly_judged"]
    assert found.agreed.value / 100 == pytest.approx(expected["agreement"], abs=1e-5)
    assert found.kappa.value == pytest.approx(expected["cohen_kappa"], abs=1e-5)


def test_kappas_interval_is_that_of_fleiss_cohen_and_everitt():
    # Worked from their formula, term by term, for one table of counts.
    counts = np.array([[20, 5, 2], [3, 12, 6], [1, 4, 9]])
    a, b = (np.repeat(which.ravel(), counts.ravel()) for which in np.indices((3, 3)))
    p = counts / counts.sum()
    rows, columns, n = p.sum(1), p.sum(0), counts.sum()
    observed, chance = np.trace(p), rows @ columns
    value = (observed - chance) / (1 - chance)
    diagonal = sum(p[i, i] * (1 - (rows[i] + columns[i]) * (1 - value)) ** 2 for i in range(3))
    others = (1 - value) ** 2 * sum(p[i, j] * (columns[i] + rows[j]) ** 2 for i in range(3) for j in range(3) if i != j)
    variance = (diagonal + others - (value - chance * (1 - value)) ** 2) / (n * (1 - chance) ** 2)
    found = kappa(a, b)
    assert found.value == pytest.approx(value) and found.standard_error == pytest.approx(np.sqrt(variance))


def test_its_interval_covers():
    truth = 0.4  # both say the item's class with probability sqrt(0.4), anything else at random
    covered = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        item = rng.integers(0, 2, 150)
        a, b = (np.where(rng.random(150) < np.sqrt(truth), item, rng.integers(0, 2, 150)) for _ in range(2))
        found = kappa(a, b)
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 400 <= 0.98


def test_items_of_a_prompt_count_together():
    a, b = [1, 0, 1, 0] * 20, [1, 0, 0, 0] * 20
    alone, repeated = agreement(a, b), agreement(a * 4, b * 4, [str(row) for row in range(80)] * 4)
    assert repeated.kappa.value == pytest.approx(alone.kappa.value)
    assert repeated.kappa.standard_error == pytest.approx(alone.kappa.standard_error), "four copies say no more than one"


def test_the_longer_one_wins_is_a_rater_too(judged):
    rows = judged.rows
    rule = longer([row["first_chars"] for row in rows], [row["second_chars"] for row in rows])
    people = [LEVELS[row["preference"]] for row in rows]
    found = agreement(rule, people, [row["prompt"] for row in rows])
    assert longer([3, 1, 2], [1, 3, 2]).tolist() == [1, 0, 0.5]
    assert found.agreed.value == pytest.approx(100 * np.mean(rule == people)) and found.agreed.low > 100 / 3
    assert found.kappa.low > 0, "people like the longer answer more than chance makes them"


def test_what_has_no_kappa():
    assert agreement([], []).agreed is None
    constant = agreement([1, 1, 1], [1, 1, 1])
    assert constant.kappa is None and constant.agreed.value == 100
