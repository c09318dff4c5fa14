"""Nothing outside our own list of launchers and sweepers is called, however it comes into Hydra's settings."""

import pytest

from alpaca_jax import __main__ as cli
from alpaca_jax.composition.plugins import BASIC_SWEEPER, OUR_LAUNCHER, SAMPLERS, SWEEPERS, check_settings, check_word
from alpaca_jax.errors import UserError

SOUND = {"launcher": {"_target_": OUR_LAUNCHER, "options": {}}, "sweeper": {"_target_": BASIC_SWEEPER, "params": None}, "callbacks": {}}


def test_our_own_pass():
    check_settings(SOUND)
    for name in SAMPLERS.values():
        check_settings(SOUND | {"sweeper": {"_target_": SWEEPERS["optuna"], "sampler": {"_target_": f"optuna.samplers.{name}"}}})


@pytest.mark.parametrize(
    "changed",
    [
        {"callbacks": {"x": {"_target_": "os.system"}}},
        {"launcher": {"_target_": "os.system"}},
        {"launcher": {"_target_": BASIC_SWEEPER}},
        {"launcher": {"_target_": OUR_LAUNCHER, "options": {"x": [{"_target_": "os.system"}]}}},
        {"launcher": {"_target_": OUR_LAUNCHER, "_args_": [1]}},
        {"launcher": {"_target_": "${dir}"}},
        {"sweeper": {"_target_": "os.system"}},
        {"sweeper": {"_target_": SWEEPERS["optuna"], "custom_search_space": "os.system"}},
        {"sweeper": {"_target_": SWEEPERS["optuna"], "sampler": {"_target_": "optuna.load_study"}}},
        {"sweeper": {"_target_": SWEEPERS["optuna"], "storage": {"_target_": "os.system"}}},
        {"job_logging": {"handlers": {"x": {"_target_": "os.system"}}}},
    ],
)
def test_anything_else_is_refused(changed):
    with pytest.raises(UserError, match="^hydra."):
        check_settings(SOUND | changed)


def test_words_of_a_sweep_pass():
    for word in ("hydra/launcher=slurm", "hydra/sweeper=optuna", "hydra.launcher.options.partition=gpu", "hydra.sweeper.sampler.seed=1"):
        check_word(*word.split("="), ["slurm"])


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=evil"],
        ["hydra.launcher.options={_target_: posix.mkdir, path: PROOF}"],
        ["hydra.launcher={_target_: posix.mkdir, path: PROOF}"],
        ["hydra.sweeper.params={'hydra.callbacks.x._target_': posix.mkdir}"],
        ["hydra/launcher=evil"],
    ],
)
def test_a_sweep_calls_nothing_of_a_strangers_file_or_word(tmp_path, monkeypatch, capsys, words):
    monkeypatch.setenv(cli.CONFIG_DIR, "")
    proof, own = tmp_path / "proof", tmp_path / "own"
    files = {
        "experiment/evil/train.yaml": f"# @package _global_\nhydra: {{callbacks: {{x: {{_target_: posix.mkdir, path: {proof}}}}}}}\n",
        "hydra/launcher/evil.yaml": f"_target_: {OUR_LAUNCHER}\nbackend: local\noptions: {{x: {{_target_: posix.mkdir, path: {proof}}}}}\n",
    }
    for name, text in files.items():
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(text)
    given = [word.replace("PROOF", str(proof)) for word in words]
    assert (
        cli.main(["train", "-m", "--config-dir", str(own), f"dir={tmp_path}/sweep", "seed=0,1", "optimizer.learning_rate=x", *given]) == 2
    )
    assert not proof.exists()
    assert "Traceback" not in capsys.readouterr().err
