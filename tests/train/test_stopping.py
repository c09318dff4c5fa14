"""Early stopping: what counts as better, when a run ends, that a resumed one decides alike, and which checkpoints stay."""

import json
import math

import pytest
from training import config

from alpaca_jax import checkpoint, metrics
from alpaca_jax.errors import Restart, UserError
from alpaca_jax.train import run as verb
from alpaca_jax.train.evaluation import Evaluation
from alpaca_jax.train.run import run
from alpaca_jax.train.stopping import Best, Stopping, StoppingConfig

BEST = {"metric": "heldout_loss", "mode": "min", "value": 2.0, "step": 4, "waited": 2, "seen": 8}
SUMMARY = {"steps": 8, "best_step": 4, "best_value": 2.0, "stopped_early": True, "heldout_loss": 1.99, "heldout_step": 8, "best": BEST}
LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 1.99, 10: 2.1, 12: 1.0}  # with min_delta=0.1 the best is step 4, and 8 is the second without a gain


ENDING = (SUMMARY, {step: LOSSES[step] for step in (2, 4, 6, 8)}, [4, 8])


def follow(values, **settings):
    """The steps (from 1) that were the best as they came, and the one after which the run ends, None if it doesn't."""
    stopping, best = Stopping(StoppingConfig(**settings), None), []
    for step, value in enumerate(values, start=1):
        best += [step] if stopping.heard(step, {stopping.best.metric: value}) else []
        if stopping.over:
            return best, step
    return best, None


def test_the_run_ends_after_so_many_evaluations_without_an_improvement():
    assert follow([3, 2, 2, 2.5, 1.5, 1.6, 1.7], patience=3) == ([1, 2, 5], None)
    assert follow([3, 2, 2, 2.5, 1.5, 1.6, 1.7], patience=2) == ([1, 2], 4)
    assert follow([3, 2.95, 2.91, 2.8], patience=2, min_delta=0.1) == ([1], 3)
    assert follow([3, 2, 1], patience=None) == ([1, 2, 3], None)
    assert follow([1, math.nan, math.nan], patience=2) == ([1], 3)


def test_a_score_is_maximized_and_a_loss_minimized_unless_told_otherwise():
    assert follow([10, 12, 11, 9], metric="suites/basics/score", patience=2) == ([1, 2], 4)
    assert follow([10, 12, 11, 9], metric="suites/basics/score", mode="min", patience=3) == ([1, 4], None)
    with pytest.raises(ValueError, match=r"metric=odd: whether less or more.*mode=min or mode=max"):
        StoppingConfig(metric="odd")


def test_an_evaluation_that_was_seen_before_changes_nothing():
    stopping = Stopping(StoppingConfig(), Best(metric="heldout_loss", mode="min", value=2.0, step=4, waited=1, seen=6))
    assert not stopping.heard(6, {"heldout_loss": 1.0}) and stopping.best.waited == 1
    assert stopping.heard(8, {"heldout_loss": 1.0}) and stopping.best.waited == 0


def test_a_metric_that_the_run_does_not_measure_is_refused(files, tmp_path):
    with pytest.raises(UserError, match=r"early_stopping\.metric=suites/basics/score.*it measures heldout_loss"):
        config(files, tmp_path, evaluate_every=2, early_stopping={"metric": "suites/basics/score"})
    with pytest.raises(UserError, match=r"early_stopping\.metric=heldout_loss.*give evaluate_every=N"):
        config(files, tmp_path, early_stopping={})


@pytest.fixture
def scripted(monkeypatch):
    """Evaluations with known losses."""
    monkeypatch.setattr(Evaluation, "losses", lambda self, step, params, average: {"heldout_loss": LOSSES[step]})


def settings(files, folder, **changes):
    stopping = {"patience": 2, "min_delta": 0.1}
    return config(files, folder, **{"steps": 12, "evaluate_every": 2, "early_stopping": stopping, "checkpoint": {"keep": 1}} | changes)


def ending(folder):
    """What a run came to, by its files."""
    summary = json.loads((folder / "train" / "summary.json").read_text())
    names = ("steps", "best_step", "best_value", "stopped_early", "heldout_loss", "heldout_step", "best")
    lines = metrics.read(folder / "train" / "metrics.jsonl")
    heldout = {line["step"]: line["heldout_loss"] for line in lines if "heldout_loss" in line}
    return {name: summary[name] for name in names}, heldout, checkpoint.steps(folder / "train" / "checkpoints")


def test_a_run_stops_early_and_keeps_its_best_checkpoint(files, tmp_path, scripted, capsys):
    run(settings(files, tmp_path))
    assert ending(tmp_path) == ENDING
    assert f"the best heldout_loss was 2.0000 at step 4; take it with source={tmp_path}/train/checkpoints/4" in capsys.readouterr().err
    run(settings(files, tmp_path))  # again: nothing is left to do
    assert ending(tmp_path) == ENDING
    assert "had taken all its 8 steps before" in capsys.readouterr().err


@pytest.mark.parametrize("at", [6, *(pytest.param(at, marks=pytest.mark.prove) for at in (3, 4, 5, 7, 8))])
def test_a_run_that_is_stopped_anywhere_decides_as_an_undisturbed_one(files, tmp_path, scripted, monkeypatch, at):
    class Stop:
        """Asks for a stop after a step."""

        why, interrupted, loop = "a test", False, None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def now(self):
            return Stop.loop.step == at

    class Loop(verb.Loop):
        def __init__(self, *given, **named):
            super().__init__(*given, **named)
            Stop.loop = self

    with monkeypatch.context() as patch:
        patch.setattr(verb, "StopSignals", Stop)
        patch.setattr(verb, "Loop", Loop)
        with pytest.raises(Restart):
            run(settings(files, tmp_path / "stopped"))
    run(settings(files, tmp_path / "stopped"))
    assert ending(tmp_path / "stopped") == ENDING
