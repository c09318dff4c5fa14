"""Suites and a judge in the middle of a run: their figures in the metrics, and that nothing else changes."""

import json

import pytest
from training import config, losses

from alpaca_jax import metrics
from alpaca_jax.errors import UserError
from alpaca_jax.train import evaluation
from alpaca_jax.train.run import run

FIGURES = ("score", "choice", "choice_norm", "probability")
SUITE = {"own": {"categories": ["facts"], "limit": 2, "generate": False, "metric": "probability"}}


def test_a_suite_is_scored_along_the_way_and_leaves_the_training_alone(files, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(evaluation, "beat", heard.append)
    with_suite = {"evaluate_every": 1, "suites": {"basics": SUITE}, "early_stopping": {"metric": "suites/basics/score"}}
    run(config(files, tmp_path / "plain", steps=2))
    run(config(files, tmp_path / "along", steps=2, **with_suite))
    assert losses(tmp_path / "along") == losses(tmp_path / "plain")
    assert heard.count(1) == heard.count(2) > 2  # the watchdog hears of the suite before, after, and on the way
    lines = metrics.read(tmp_path / "along" / "train" / "metrics.jsonl")
    scored = {line["step"]: line for line in lines if "suites/basics/score" in line}
    assert set(scored) == {1, 2}
    assert all(
        {f"suites/basics/{name}" for name in FIGURES} <= line.keys() and 0 < line["suites/basics/score"] < 1 for line in scored.values()
    )
    summary = json.loads((tmp_path / "along" / "train" / "summary.json").read_text())
    assert summary["suites/basics/score"] == scored[2]["suites/basics/score"]
    best = max(scored, key=lambda step: scored[step]["suites/basics/score"])
    assert (summary["best_step"], summary["best_value"]) == (best, scored[best]["suites/basics/score"])
    kept = sorted((tmp_path / "along" / "train" / "suites").glob("*/basics/samples_*.jsonl"))
    assert kept and all(json.loads(line)["target"] for line in kept[0].read_text().splitlines())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"suites": {"basics": SUITE}}, "give evaluate_every=N"),
        ({"evaluate_every": 2, "compare": {"teacher": {"model": "judge"}}}, "give answers.prompts=FILE"),
        (
            {"evaluate_every": 2, "answers": {"prompts": "p.jsonl"}, "compare": {"teacher": {"model": "judge"}}},
            r"against=\['baseline'\].*one set",
        ),
    ],
)
def test_what_can_not_be_measured_is_refused(files, tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        config(files, tmp_path, **changes)
