"""What a sweep is ranked by: which figures a run has, which way they get better, and what the sweeper is told."""

import types

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.launcher.config import LauncherConfig
from alpaca_jax.launcher.objective import Objective
from alpaca_jax.launcher.sweeper import directed

RUN = types.SimpleNamespace(objectives=["heldout_loss", "suites/mmlu/", "suites/basics/score", "final_loss", "goodput."])


def objective(name, mode=None):
    return Objective.of(LauncherConfig(backend="local", objective=name, mode=mode))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("heldout_loss", "min"),
        ("suites/basics/score", "max"),
        ("suites/wikitext/word_perplexity", "min"),
        ("compare/win_rate", "max"),
        ("seconds", "min"),
        ("tokens_per_second", "max"),
    ],
)
def test_the_name_says_which_way_is_better(name, mode):
    assert objective(name).mode == mode
    assert objective(name, "min").mode == "min" and objective(name, "max").mode == "max"


def test_a_name_that_does_not_say_it_needs_a_mode():
    with pytest.raises(UserError, match=r"objective=goodput\.step: .*mode=min or hydra\.launcher\.mode=max"):
        objective("goodput.step")


@pytest.mark.parametrize("name", ["heldout_loss", "suites/mmlu/acc", "suites/basics/score", "final_loss"])
def test_figures_that_a_run_has(name):
    objective(name).check("train", RUN, needed=True)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("final_los", "no such figure.*final_loss.*it has heldout_loss, "),
        ("suites/basics/scor", "no such figure"),
        ("heldout_loss_ema", "don't measure it; give evaluate_every=N, and data.heldout=N"),
    ],
)
def test_figures_that_it_has_not(name, told):
    with pytest.raises(UserError, match=told):
        objective(name, "min").check("train", RUN, needed=False)


def test_the_default_may_be_missing_unless_the_sweeper_needs_it():
    nothing = types.SimpleNamespace()
    objective("heldout_loss").check("convert", nothing, needed=False)
    with pytest.raises(UserError, match="convert measures nothing"):
        objective("heldout_loss").check("convert", nothing, needed=True)
    with pytest.raises(UserError, match="convert measures nothing"):
        objective("final_loss").check("convert", nothing, needed=False)


def test_optuna_is_told_the_direction():
    key, score = "hydra.sweeper.direction", objective("suites/basics/score")
    assert directed(["seed=1,2"], score) == [f"{key}=maximize"] and directed([], objective("loss")) == [f"{key}=minimize"]
    assert directed([f"{key}=maximize"], score) == []
    with pytest.raises(UserError, match="direction=minimize, but suites/basics/score gets better the other way"):
        directed([f"{key}=minimize"], score)
