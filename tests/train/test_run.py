"""The verb train on a tiny model: it goes on from where it was killed, bit for bit, and refuses what it cannot do."""

import dataclasses
import json
import shlex
import signal

import jax
import numpy as np
import pytest
from training import SIZES, STEPS, config, finish, losses, mapping, stopped

from alpaca_jax import checkpoint, grammar, metrics
from alpaca_jax.errors import Restart, UserError
from alpaca_jax.train import outcome
from alpaca_jax.train.run import run


@pytest.fixture(scope="module")
def straight(files, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight")
    finish(files, folder)
    return folder


@pytest.mark.parametrize("signals", [[signal.SIGKILL], pytest.param([signal.SIGKILL, signal.SIGTERM], marks=pytest.mark.prove)])
def test_killed_stopped_and_started_again_equals_the_straight_run_bit_for_bit(files, straight, tmp_path, signals):
    for time, number in enumerate(signals, 1):
        assert stopped(files, tmp_path, 12 * time, number) == (200 if number == signal.SIGTERM else -number)
        assert 0 < checkpoint.steps(tmp_path / "train" / "checkpoints")[-1] < STEPS
    finish(files, tmp_path)
    assert losses(tmp_path) == losses(straight)
    expected, found = (checkpoint.restore_params(folder / "train" / "checkpoints", STEPS) for folder in (straight, tmp_path))
    assert jax.tree.all(jax.tree.map(np.array_equal, expected, found))


def test_it_learns_and_writes_down_what_it_did(files, straight):
    summary = json.loads((straight / "train" / "summary.json").read_text())
    values = [loss for _, loss in losses(straight)]
    assert [step for step, _ in losses(straight)] == list(range(1, STEPS + 1))
    assert values[-1] < values[0] - 0.5 and summary["final_loss"] == values[-1]
    assert summary["steps"] == STEPS and summary["examples"] == 32
    last = metrics.read(straight / "train" / "metrics.jsonl")[-1]
    assert last["tokens_real"] == summary["tokens_real"] > 0
    assert 0 < last["utilisation"] <= 1 and last["mfu"] > 0 and last["slots_per_second"] >= last["tokens_per_second"]


def test_started_again_when_done_it_does_nothing(files, straight):
    before = (straight / "train" / "metrics.jsonl").read_bytes()
    assert run(config(files, straight))["steps"] == STEPS
    assert (straight / "train" / "metrics.jsonl").read_bytes() == before


def test_another_config_in_the_same_folder_is_refused_by_key(files, straight):
    advice = rf"alpaca-jax train model.source={straight}/train dir=NEW"
    with pytest.raises(UserError, match=rf"optimizer.learning_rate: 0.01 there, 0.02 now(.|\n)*start from its weights .*{advice}"):
        run(config(files, straight, optimizer={"learning_rate": 2e-2}))


def test_logging_and_checkpoints_are_free_to_change(files, straight):
    changed = config(files, straight, checkpoint={"keep": 5}, log_every=3)
    assert run(changed)["steps"] == STEPS


def test_held_out_loss_is_measured_along_the_way(files, tmp_path):
    run(config(files, tmp_path, steps=2, evaluate_every=1))
    lines = metrics.read(tmp_path / "train" / "metrics.jsonl")
    assert [line["step"] for line in lines if "heldout_loss" in line] == [1, 2]


class Stop:
    """In the place of the signals: SIGTERM arrives in the step of this number."""

    why, interrupted = "SIGTERM", False

    def __init__(self, step):
        self.left = step

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def now(self):
        self.left -= 1
        return self.left == 0


def heldout(folder):
    return [(line["step"], line["heldout_loss"]) for line in metrics.read(folder / "train" / "metrics.jsonl") if "heldout_loss" in line]


@pytest.mark.parametrize("step", [2, 3])
def test_a_stop_before_an_evaluation_leaves_no_earlier_figure_in_the_summary(files, tmp_path, monkeypatch, step):
    settings = {"steps": 3, "evaluate_every": 2}
    straight = run(config(files, tmp_path / "straight", **settings))
    assert straight["heldout_step"] == straight["loss_step"] == straight["evaluated"] == 3
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr("alpaca_jax.train.run.StopSignals", lambda: Stop(step))
        with pytest.raises(Restart, match=f"stopped by SIGTERM at step {step} of 3"):
            run(config(files, folder, **settings))
    assert not (folder / "train" / "summary.json").exists()
    summary = run(config(files, folder, **settings))
    assert (summary["heldout_step"], summary["heldout_loss"]) == (3, straight["heldout_loss"])
    assert heldout(folder) == heldout(tmp_path / "straight") and [step for step, _ in heldout(folder)] == [2, 3]
    again = run(config(files, folder, **settings))  # its checkpoint doesn't know the evaluation, its summary does
    assert again["heldout_loss"] == summary["heldout_loss"] and len(heldout(folder)) == 2


def test_the_end_says_what_came_of_it_and_what_to_do_next(files, tmp_path, capsys):
    folder = tmp_path / "it's mine"
    summary = run(config(files, folder, steps=2, evaluate_every=1))
    shown = capsys.readouterr().err
    assert f"trained 2 steps; loss {summary['loss']:.4f} (step 2)\n" in shown
    assert "held-out loss (nats a response token): " + ", ".join(f"{loss:.4f} (step {step})" for step, loss in heldout(folder)) in shown
    commands = [shlex.split(line) for line in shown.splitlines() if line.startswith("  alpaca-jax ")]
    assert commands == [
        ["alpaca-jax", "evaluate", f"dir={grammar.word(str(folder))}"],
        ["alpaca-jax", "convert", f"dir={grammar.word(str(folder))}"],
        ["alpaca-jax", "serve", f"model.source={grammar.word(f'{folder}/train')}"],
    ]
    run(config(files, folder, steps=2, evaluate_every=1))
    assert "this run had taken all its 2 steps before" in capsys.readouterr().err


def test_many_held_out_losses_are_shown_in_one_line():
    lines = outcome.heldout([{"step": step, "heldout_loss": step / 10} for step in range(20)])
    assert lines[0].startswith("held-out loss (nats a response token): 0.0000 (step 0), ..., 1.3000") and "1.9000 (step 19)" in lines[0]
    assert outcome.heldout([{"step": 1, "loss": 2.0}]) == []


def test_held_out_loss_needs_held_out_records(files, tmp_path):
    data = mapping(files, tmp_path)["data"] | {"heldout": 0}
    with pytest.raises(UserError, match="give data.heldout"):
        config(files, tmp_path, data=data, evaluate_every=1)


def test_a_loss_that_is_not_finite_stops_the_run(files, tmp_path):
    optimizer = {"learning_rate": 1e30, "warmup": 0.0, "clip": None}
    with pytest.raises(UserError, match=r"step \d+ is bad .* gradient norm nan"):
        run(config(files, tmp_path, steps=5, optimizer=optimizer))


def test_random_weights_need_a_tokenizer_that_fits(files, tmp_path):
    model = mapping(files, tmp_path)["model"]
    with pytest.raises(UserError, match="model.architecture and model.tokenizer"):
        run(config(files, tmp_path, model={"architecture": SIZES}))
    with pytest.raises(UserError, match="give model.architecture.vocab_size=258"):
        run(config(files, tmp_path, model=model | {"architecture": SIZES | {"vocab_size": 100}}))


def test_a_mesh_that_does_not_fit_is_said_before_any_work(files, tmp_path):
    with pytest.raises(UserError, match="mesh.data=3"):
        run(config(files, tmp_path, mesh={"data": 3}))
    assert not (tmp_path / "train" / "model").exists()


def test_a_folder_whose_checkpoints_could_not_be_read_is_refused(files, tmp_path):
    for name in ("a[1]", "b*", "c?"):
        with pytest.raises(UserError, match="checkpoints can't be kept"):
            run(config(files, tmp_path / name / "run"))
        assert not (tmp_path / name).exists()


def test_every_setting_is_checked(files, tmp_path):
    with pytest.raises(UserError, match="epochs"):
        config(files, tmp_path, steps=None, epochs=0.0)
    with pytest.raises(UserError, match="microbatches"):
        config(files, tmp_path, microbatches=2, batch={"examples": 4, "rows": 3})
    assert dataclasses.is_dataclass(config(files, tmp_path))
