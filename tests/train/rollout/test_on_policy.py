"""On-policy distillation through the verb's own path: the student of a run learns from another run on its own answers."""

import json

import pytest
from training import config

from alpaca_jax import metrics
from alpaca_jax.train.run import run


def settings(files, folder, **changes):
    batch = {"examples": 4, "sequence_length": 256}
    data = {"records": str(files / "records.jsonl"), "cache": str(files / "cache"), "heldout": 4, "max_length": 256}
    return config(files, folder, **({"steps": 3, "batch": batch, "data": data} | changes))


@pytest.fixture(scope="module")
def teacher(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    run(settings(files, folder, steps=2))
    return str(folder / "train")


@pytest.mark.prove
def test_the_student_learns_from_the_teacher_on_its_own_answers(files, tmp_path, teacher):
    objective = {"name": "on_policy", "teacher": teacher, "max_new_tokens": 8, "share": 0.5}
    summary = run(settings(files, tmp_path, objective=objective, evaluate_every=3))
    found = [line for line in metrics.read(tmp_path / "train" / "metrics.jsonl") if "loss" in line]
    assert [line["step"] for line in found] == [1, 2, 3] and all(line["divergence"] > 0 for line in found)
    assert summary["heldout_kl"] > 0
    kept = sorted((tmp_path / "train" / "rollouts").glob("*.jsonl"))
    head, *lines = map(json.loads, kept[0].read_text().splitlines())
    assert 1 <= len(lines) < 4  # the records answer the others
    assert head["objective"]["share"] == 0.5 and all(0 < len(line["ids"]) <= 8 for line in lines)
    losses = [line["loss"] for line in found]
    again = tmp_path / "again"
    run(settings(files, again, objective=objective, evaluate_every=3))
    assert [line["loss"] for line in metrics.read(again / "train" / "metrics.jsonl") if "loss" in line] == losses


def test_a_student_that_is_its_own_teacher_has_nothing_to_learn(files, tmp_path, teacher):
    model = {"source": teacher}
    run(settings(files, tmp_path, steps=1, model=model, objective={"name": "on_policy", "teacher": teacher, "max_new_tokens": 8}))
    [line] = metrics.read(tmp_path / "train" / "metrics.jsonl")
    assert line["loss"] == pytest.approx(0, abs=1e-6) and line["agreement"] == 1
