"""GRPO through the verb's own path: a tiny model learns from a reward, is stopped, and goes on as if nothing had happened."""

import json

import pytest
from training import config

from alpaca_jax import metrics
from alpaca_jax.errors import UserError
from alpaca_jax.train.rollout.grpo import GrpoTask
from alpaca_jax.train.run import run
from alpaca_jax.train.setup import prepare

GRPO = {
    "name": "grpo",
    "loss": "grpo",
    "group": 4,
    "max_new_tokens": 6,
    "rewards": {"sign": {"name": "format", "pattern": ".*[!-?].*"}},  # of random bytes about every second answer has one
}


def settings(files, folder, steps=3, objective=GRPO, **changes):
    batch = changes.pop("batch", {"examples": 2, "sequence_length": 256})
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
    assert first["gradient_norm"] > 0 and first["equal_groups"] < 1
    kept = [json.loads(line) for line in (folder / "train" / "rollouts" / "000000.jsonl").read_text().splitlines()]
    assert kept[0]["step"] == kept[0]["index"] == 0 and len(kept) == 9
    assert first["reward"] == pytest.approx(sum(line["reward"] for line in kept[1:]) / 8, rel=1e-6)
    assert first["truncated"] == pytest.approx(sum(line["truncated"] for line in kept[1:]) / 8)
    assert first["answer_tokens"] == pytest.approx(sum(len(line["ids"]) for line in kept[1:]) / 8)
    assert 0 <= summary["heldout_reward_low"] <= summary["heldout_reward"] <= summary["heldout_reward_high"]
    assert (
        summary["heldout_reward_before"] == json.loads((folder / "train" / "rollouts" / "before.json").read_text())["heldout_reward_before"]
    )


class Killed(BaseException):
    """Ends a run at once, as a kill does."""


def losses(folder):
    return [(line["step"], line["loss"], line["reward"], line["gradient_norm"]) for line in lines(folder)]


@pytest.mark.parametrize("forgotten", [pytest.param(False, marks=pytest.mark.prove), True])
def test_a_run_killed_after_sampling_takes_the_same_steps(files, tmp_path, straight, monkeypatch, forgotten):
    folder, _ = straight
    own = GrpoTask.batch

    def killed(task, index, step, batch, params):
        found = own(task, index, step, batch, params)
        if step == 1:
            raise Killed
        return found

    again = {"data": {"heldout": 4}, "evaluate_every": 3, "checkpoint": {"every_steps": 1}}
    with monkeypatch.context() as patch:
        patch.setattr(GrpoTask, "batch", killed)
        with pytest.raises(Killed):
            run(settings(files, tmp_path, **again))
    if forgotten:  # the weights of the step make the same again
        (tmp_path / "train" / "rollouts" / "000001.jsonl").unlink()
    run(settings(files, tmp_path, **again))
    assert losses(tmp_path) == losses(folder)
    for name in ("000001.jsonl", "000002.jsonl", "before.json"):
        assert (tmp_path / "train" / "rollouts" / name).read_bytes() == (folder / "train" / "rollouts" / name).read_bytes()


@pytest.mark.prove
def test_an_adapter_a_reference_and_several_steps_on_the_same_answers(files, tmp_path):
    objective = GRPO | {"beta": 0.1, "reuse": 2}
    run(settings(files, tmp_path, 4, objective, adapter={"rank": 2, "alpha": 4}, optimizer={"learning_rate": 0.1}))
    found = lines(tmp_path)
    assert found[0]["kl"] == 0.0 < found[3]["kl"]  # the adapter starts as nothing
    assert sorted(path.name for path in (tmp_path / "train" / "rollouts").glob("0*")) == ["000000.jsonl", "000002.jsonl"]
    assert found[2]["reward"] == found[3]["reward"]
    assert 10 * found[2]["sampler_distance"] < found[3]["sampler_distance"]  # they are the answers of the step before


@pytest.mark.prove
def test_rewards_that_are_all_broken_end_the_run_and_are_named(files, tmp_path):
    reward = tmp_path / "mine.py"
    reward.write_text("def reward(prompt, answer, key):\n    return float('nan')\n")
    objective = GRPO | {"rewards": {"mine": {"name": "python", "file": str(reward)}}}
    with pytest.raises(UserError, match="no answer of this step has a reward: reward mine returned nan"):
        run(settings(files, tmp_path / "run", 1, objective))
    assert not list((tmp_path / "run" / "train" / "rollouts").glob("0*"))  # a mended reward starts anew


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"objective": GRPO | {"max_new_tokens": 250}}, "don't fit batch.sequence_length=256: give a batch.sequence_length of 3"),
        ({"batch": {"examples": None, "tokens": 1024, "sequence_length": 256}}, "a step that samples takes a number of prompts"),
        ({"batch": {"examples": 4, "sequence_length": 256, "rows": 5}}, "don't hold 16 answers: give 16"),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_step(files, tmp_path, changes, why):
    with pytest.raises(UserError, match=why):
        prepare(settings(files, tmp_path, **changes))
