"""Runs that learn from preferences: where they start, what they report, and that a resumed one goes on as before."""

import json
import math
import shutil

import numpy as np
import pytest
from training import config, make_files

from alpaca_jax import metrics
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native, pretrained
from alpaca_jax.records import Record
from alpaca_jax.scores.reward import RewardModel
from alpaca_jax.scores.rewarding import rewards
from alpaca_jax.train.run import run

BEGINS = {"dpo": math.log(2), "kto": 0.5, "reward": math.log(2)}
MORE = [pytest.param(name, marks=pytest.mark.prove) for name in ("kto", "orpo", "reward", "simpo")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = make_files(tmp_path_factory.mktemp("files"))
    records = [{"prompt": f"Say {n}.", "chosen": f"{n} it is.", "rejected": f"No, never {n % 7}!"} for n in range(24)]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def settings(files, folder, name="dpo", **changes):
    batch = {"examples": 4, "sequence_length": 512}
    return config(files, folder, **({"steps": 3, "objective": {"name": name}, "batch": batch, "evaluate_every": 3} | changes))


def lines(folder):
    return [line for line in metrics.read(folder / "train" / "metrics.jsonl") if "loss" in line]


@pytest.mark.parametrize("name", ["dpo", *MORE])
def test_a_run_begins_where_its_reference_is_and_learns(files, tmp_path, name):
    summary = run(settings(files, tmp_path, name))
    found = lines(tmp_path)
    if name in BEGINS:
        assert found[0]["loss"] == pytest.approx(BEGINS[name], abs=1e-5)
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[0]["answers" if name == "kto" else "pairs"] == 4
    assert found[0]["chosen_length"] > 1 and found[0].get("chosen_logps", -1) < 0
    assert summary["heldout_preference_loss"] < BEGINS.get(name, 1e9)
    if name != "kto":
        assert found[-1]["margin"] > found[0]["margin"] and 0 <= summary["heldout_accuracy"] <= 1


@pytest.mark.prove
def test_a_resumed_run_is_the_straight_one_without_its_cache(files, tmp_path):
    straight = run(settings(files, tmp_path / "straight"))
    stopped = settings(files, tmp_path / "stopped", checkpoint={"every_steps": 1})
    run(stopped)
    shutil.rmtree(tmp_path / "stopped" / "train" / "checkpoints" / "3")
    again = run(stopped)
    assert again["loss"] == straight["loss"]


@pytest.mark.prove
def test_the_reference_is_computed_once(files, tmp_path):
    run(settings(files, tmp_path / "first"))
    before = {path: path.stat().st_mtime_ns for path in (files / "cache" / "references").rglob("*.npy")}
    run(settings(files, tmp_path / "second", objective={"name": "dpo", "beta": 0.5}))
    after = {path: path.stat().st_mtime_ns for path in (files / "cache" / "references").rglob("*.npy")}
    assert before and before == after and {np.load(path).shape[1] for path in before} == {2}


def test_records_without_pairs_are_named(files, tmp_path):
    (tmp_path / "plain.jsonl").write_text('{"instruction": "Say 1.", "output": "1 it is."}\n' * 3)
    data = {"records": str(tmp_path / "plain.jsonl"), "cache": str(tmp_path / "cache")}
    with pytest.raises(UserError, match="none of the 3 records"):
        run(settings(files, tmp_path / "run", data=data, evaluate_every=None))


@pytest.mark.prove
def test_a_reference_that_was_lost_with_random_weights_is_named(files, tmp_path):
    data = {"records": str(files / "records.jsonl"), "cache": str(tmp_path / "cache"), "heldout": 8}
    given = settings(files, tmp_path / "run", data=data, checkpoint={"every_steps": 1})
    run(given)
    shutil.rmtree(tmp_path / "cache" / "references")
    shutil.rmtree(tmp_path / "run" / "train" / "checkpoints" / "3")
    with pytest.raises(UserError, match="reference's log-probabilities are gone"):
        run(given)


@pytest.mark.prove
def test_a_reward_model_orders_answers_as_in_its_training(files, tmp_path):
    run(settings(files, tmp_path, "reward", steps=6, evaluate_every=None))
    model = RewardModel(str(tmp_path))
    pairs = [[Record(f"Say {n}.", "", answer) for answer in (f"{n} it is.", f"No, never {n % 7}!")] for n in range(24)]
    chosen, rejected = model.rewards([record for pair in pairs for record in pair]).reshape(-1, 2).T
    assert (chosen > rejected).mean() > 0.8
    assert lines(tmp_path)[-1]["accuracy"] > 0.8
    assert native.REWARDS in pretrained.open(str(tmp_path / "train")).notes
    alone = model.rewards([pairs[3][1]])
    assert rewards(str(tmp_path), [pairs[3][1]]) == pytest.approx(alone, rel=1e-5)
    assert alone[0] == pytest.approx(rejected[3], rel=1e-4, abs=1e-5)  # whatever it is packed with


def test_another_run_is_no_reward_model(tmp_path):
    with pytest.raises(UserError, match="is no run of objective=reward"):
        RewardModel(str(tmp_path))


@pytest.mark.prove
@pytest.mark.parametrize("name", ["dpo", "reward"])
def test_an_adapter_over_a_saved_base_learns_and_resumes(files, tmp_path, name):
    run(config(files, tmp_path / "base", steps=1, objective={"name": "sft"}, batch={"examples": 4, "sequence_length": 512}))
    model = {"source": str(tmp_path / "base" / "train")}
    changes = {"model": model, "adapter": {"rank": 2}, "checkpoint": {"every_steps": 1}, "data": {
        "records": str(files / "records.jsonl"), "cache": str(tmp_path / "cache"), "heldout": 8, "max_length": 256}}  # fmt: skip
    given = settings(files, tmp_path / "run", name, **changes)
    straight = run(given)
    found = lines(tmp_path / "run")
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-5) and found[-1]["loss"] < found[0]["loss"]
    shutil.rmtree(tmp_path / "run" / "train" / "checkpoints" / "3")
    shutil.rmtree(tmp_path / "cache" / "references", ignore_errors=True)  # computed again, by the base under the adapter
    assert run(given)["loss"] == pytest.approx(straight["loss"], rel=1e-6)
    if name == "reward":
        answers = [Record(f"Say {n}.", "", answer) for n in range(24) for answer in (f"{n} it is.", f"No, never {n % 7}!")]
        chosen, rejected = RewardModel(str(tmp_path / "run")).rewards(answers).reshape(-1, 2).T
        assert chosen.mean() > rejected.mean()
