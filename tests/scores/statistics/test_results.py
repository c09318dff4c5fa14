import dataclasses
import json

import pytest

from alpaca_jax.scores import statistics as s
from alpaca_jax.scores.statistics import Vote

PREFERENCES = {
    "none": [],
    "one": [1.0],
    "equal": [0.5, 0.5, 0.5],
    "won": [1.0] * 4,
    "graded": [0.9, 0.2, 0.6, 0.7],
    "missing": [None, 1.0, None, 0.0],
}


@pytest.mark.parametrize("values", PREFERENCES.values(), ids=PREFERENCES)
def test_every_result_is_plain_json_whatever_the_data(values):
    names = [str(row) for row in range(len(values))]
    mine = s.by_prompt(values, names)
    rate, place = s.win_rate(values, names), s.position([*values, *values[::-1]], names * 2, [True] * len(values) + [False] * len(values))
    results = [rate, place, s.verdict_of_rate(rate), s.verdict_of_rate(place), s.agreement(values, values[::-1], names)]
    results.append(s.length_controlled(mine, {name: (row, 3 - row * row) for row, name in enumerate(names)}))
    results.append(s.length_controlled(mine, dict.fromkeys(names, (7, 7))))
    if mine:
        difference = s.paired(mine, {name: 1 - value for name, value in mine.items()})
        results += [difference, s.verdict(difference)]
        results.append(s.bradley_terry([Vote("a", "b", value, name) for name, value in mine.items()], "a"))
    for result in results:
        assert json.loads(json.dumps(dataclasses.asdict(result), allow_nan=False))
