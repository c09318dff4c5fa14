"""GRPO through the verb's own path: a tiny model learns from a reward, is stopped, and goes on as if nothing had happened."""

import json

import pytest
from training import config, make_files

from alpaca_jax import metrics
from alpaca_jax.train.run import run

GRPO = {
    "name": "grpo",
    "loss": "grpo",
    "group": 4,
    "max_new_tokens": 6,
    "rewards": {"short": {"name": "length", "unit": "characters", "most": 3, "slack": 6}},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"))


def settings(files, folder, steps=3, objective=GRPO, **changes):
    batch = {"examples": 2, "sequence_length": 256}
    data = {"records": str(files / "records.jsonl"), "cache": str(files / "cache"), "max_length": 256} | changes.pop("data", {})
    return config(files, folder, **({"steps": steps, "objective": objective, "batch": batch, "data": data} | changes))


def lines(folder):
    return [line for line in metrics.read(folder / "train" / "metrics.jsonl") if "loss" in line]


@pytest.fixture(scope="module")
def straight(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    summary = run(settings(files, folder, data={"heldout": 4}, evaluate_every=3))
    return folder, summary


def test_it_reports_what_was_sampled(straight):
    folder, summary = straight
    found = lines(folder)
    assert [line["step"] for line in found] == [1, 2, 3]
    first = found[0]
    assert first["answers"] == pytest.approx(8) and 0 <= first["reward"] <= 1 and first["reward_problems"] == 0
    assert first["sampler_distance"] < 1e-4 and first["clipped"] == 0
    kept = [json.loads(line) for line in (folder / "train" / "rollouts" / "000000.jsonl").read_text().splitlines()]
    assert kept[0]["step"] == kept[0]["index"] == 0 and len(kept) == 9
    assert first["reward"] == pytest.approx(sum(line["reward"] for line in kept[1:]) / 8, rel=1e-6)
    assert first["truncated"] == pytest.approx(sum(line["truncated"] for line in kept[1:]) / 8)
    assert first["answer_tokens"] == pytest.approx(sum(len(line["ids"]) for line in kept[1:]) / 8)
    assert summary["heldout"]["heldout_reward_before"] != summary["heldout"]["heldout_reward"] if "heldout" in summary else True
