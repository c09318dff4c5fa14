"""What Hydra's sweeper is told is checked before it starts."""

import pytest

from alpaca_jax import __main__ as cli


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hydra.sweeper.max_batch_size=0"], "max_batch_size=0: give 1 or more"),
        (["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=0"], "n_jobs=0: give 1 or more"),
        (["hydra/sweeper=optuna", "hydra.sweeper.n_trials=-1"], "n_trials=-1: give 1 or more"),
        (["hydra/sweeper=optuna", "hydra.sweeper.max_failure_rate=nan"], "max_failure_rate=nan: give 0 to 1"),
        (["hydra/sweeper=optuna", "hydra.sweeper.direction=x"], "direction"),
        (["hydra.launcher.folder=/proc/x"], "/proc/x can't be made"),
        (["hydra.launcher=3"], "hydra.launcher=3: has settings, and is none itself"),
        (["seed=range(0,3,0)"], "seed: range(START, STOP, STEP) takes numbers, and a STEP other than 0"),
        (["seed=range(0,1e9)"], "seed: with it, the sweep has more than 10,000 combinations"),
        (["seed=range(0,nan)"], "seed: range(START, STOP, STEP) takes numbers"),
        (["seed=range(0,200)", "epochs=range(1,200)"], "epochs: with it, the sweep has more than 10,000 combinations"),
    ],
)
def test_settings_that_cannot_be_meant(words, said, tmp_path, monkeypatch, capsys):
    if "hydra/sweeper=optuna" in words:
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "-m", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error
