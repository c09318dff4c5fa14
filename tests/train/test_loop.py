"""What happens between two steps: bad steps under each policy, evaluations, several shapes, other meshes, figures."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from training import config, losses, mapping

from alpaca_jax import checkpoint, metrics
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native, pretrained
from alpaca_jax.train.run import run

STEPS = 8
POISONED = 4  # the index of the batch, which is the fifth step's


@pytest.fixture
def poison(monkeypatch):
    """A batch whose loss is no number, as of a file that went bad."""
    whole = Batches.batch

    def batch(self, index, rows=None):
        made = whole(self, index, rows)
        return made | {"weights": made["weights"] * np.float32("nan")} if index == POISONED else made

    monkeypatch.setattr(Batches, "batch", batch)


def params(folder, step=STEPS):
    return checkpoint.restore_params(folder / "train" / "checkpoints", step)


def equal(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_poisoned_batch_stops_the_run_and_leaves_the_checkpoint_before_it(files, tmp_path, poison):
    with pytest.raises(UserError, match=r"step 5 is bad \(loss nan, .* batch 4\).*guard\.policy=skip or rollback"):
        run(config(files, tmp_path, steps=STEPS))
    assert checkpoint.steps(tmp_path / "train" / "checkpoints")[-1] == POISONED
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params(tmp_path, POISONED)))


def test_a_poisoned_batch_is_skipped(files, tmp_path, poison):
    summary = run(config(files, tmp_path, steps=STEPS, guard={"policy": "skip"}))
    assert (summary["steps"], summary["skipped_steps"]) == (STEPS, 1)
    lines = metrics.read(tmp_path / "train" / "metrics.jsonl")
    assert [line["step"] for line in lines if line.get("bad")] == [5]
    assert sum(line["loss"] is not None for line in lines if "learning_rate" in line) == STEPS - 1
    assert np.isfinite(summary["final_loss"])


def test_a_poisoned_batch_is_gone_back_from_and_left_behind(files, tmp_path, poison):
    """The run from the last checkpoint on equals one that never had that batch."""
    summary = run(config(files, tmp_path / "back", steps=STEPS, guard={"policy": "rollback"}, checkpoint={"every_steps": 3}))
    assert (summary["steps"], summary["rollbacks"], summary["skipped_steps"]) == (STEPS, 1, 0)
    found = losses(tmp_path / "back")
    assert [step for step, _ in found] == list(range(1, STEPS + 1))
    assert all(np.isfinite(loss) for _, loss in found)
    # Skipping loses the fifth step; going back to the third takes the two between again, from other batches.
    run(config(files, tmp_path / "skip", steps=STEPS, guard={"policy": "skip"}))
    assert found[:3] == losses(tmp_path / "skip")[:3]
    assert found[3] != losses(tmp_path / "skip")[3]


def test_a_spike_is_bad_once_the_window_is_full(files, tmp_path, monkeypatch):
    whole = Batches.batch

    def batch(self, index, rows=None):
        made = whole(self, index, rows)
        return made | {"targets": made["targets"][::-1, ::-1]} if index == 20 else made

    monkeypatch.setattr(Batches, "batch", batch)
    guard = {"policy": "skip", "spike": 1.2, "window": 4}
    summary = run(config(files, tmp_path, steps=24, guard=guard))
    assert summary["skipped_steps"] == 1
    assert [line["step"] for line in metrics.read(tmp_path / "train" / "metrics.jsonl") if line.get("bad")] == [21]


def test_looking_seldom_changes_no_number(files, tmp_path):
    run(config(files, tmp_path / "often", steps=STEPS))
    run(config(files, tmp_path / "seldom", steps=STEPS, log_every=4, checkpoint={"every_steps": 4}))
    assert equal(params(tmp_path / "often"), params(tmp_path / "seldom"))
    assert losses(tmp_path / "seldom") == [losses(tmp_path / "often")[step - 1] for step in (4, 8)]


def test_padded_steps_of_several_shapes_learn_what_packed_ones_do(files, tmp_path):
    run(config(files, tmp_path / "packed", steps=4))
    padded = {"examples": 4, "sequence_length": 256, "packing": "none", "buckets": [208, 212]}
    run(config(files, tmp_path / "padded", steps=4, batch=padded))
    both = [np.array([loss for _, loss in losses(tmp_path / kind)]) for kind in ("packed", "padded")]
    np.testing.assert_allclose(*both, rtol=1e-5)


def test_answers_and_losses_along_the_way(files, tmp_path):
    settings = {"evaluate_every": 2, "samples": {"prompts": ["Say 3."], "max_tokens": 4}, "optimizer": {"learning_rate": 1e-2, "ema": 0.5}}
    run(config(files, tmp_path, steps=4, **settings))
    lines = [line for line in metrics.read(tmp_path / "train" / "metrics.jsonl") if "heldout_loss" in line]
    assert [line["step"] for line in lines] == [2, 4]
    assert all(line["heldout_loss_ema"] != line["heldout_loss"] for line in lines)
    for step in (2, 4):
        [sample] = json.loads((tmp_path / "train" / "samples" / f"{step}.json").read_text())
        assert sample["prompt"] == "Say 3." and isinstance(sample["answer"], str)


def test_the_figures_of_a_run(files, tmp_path):
    summary = run(config(files, tmp_path, steps=4, hardware={"peak_tflops": 0.1, "dollars_per_hour": 3600}))
    shares = summary["goodput"]
    assert sum(shares.values()) == pytest.approx(1) and shares["step"] > 0 and shares["compile"] > 0
    assert summary["dollars"] == pytest.approx(summary["seconds"], rel=0.01)
    assert summary["memory"]["host_peak_bytes"] > 1e8
    line = metrics.read(tmp_path / "train" / "metrics.jsonl")[-1]
    assert line["mfu_full_attention"] > line["mfu"] > 0 and 0 < line["goodput"] < 1


def test_an_unknown_device_has_no_mfu(files, tmp_path, monkeypatch):
    monkeypatch.setattr("alpaca_jax.hardware._measured_peak", lambda device: None)
    run(config(files, tmp_path, steps=1, hardware={}))
    line = metrics.read(tmp_path / "train" / "metrics.jsonl")[-1]
    assert line["mfu"] is None and line["mfu_full_attention"] is None and line["tokens_per_second"] > 0


def test_a_profile_of_the_steps_asked_for(files, tmp_path):
    run(config(files, tmp_path, steps=4, profile={"start": 2, "steps": 2}))
    assert list((tmp_path / "train" / "profile").rglob("*.xplane.pb"))


def test_records_changed_in_place_are_refused_at_the_restart(files, tmp_path):
    data = mapping(files, tmp_path)["data"] | {"records": str(tmp_path / "own.jsonl")}
    text = (files / "records.jsonl").read_text()
    (tmp_path / "own.jsonl").write_text(text)
    run(config(files, tmp_path / "run", steps=2, data=data))
    (tmp_path / "own.jsonl").write_text(text.replace("it is", "it was"))
    with pytest.raises(UserError, match=r"checkpoints/2 was trained with other data .*restore the data as before"):
        run(config(files, tmp_path / "run", steps=2, data=data))


def test_a_checkpoint_says_what_it_was_made_with(files, tmp_path):
    run(config(files, tmp_path, steps=2))
    meta = json.loads((tmp_path / "train" / "checkpoints" / "2" / checkpoint.MANIFEST).read_text())["meta"]
    assert meta["config"]["optimizer"]["learning_rate"] == 1e-2
    assert set(meta["fingerprints"]) == {"data", "tokenizer"} and set(meta["versions"]) == {"alpaca-jax", "jax"}


def test_weights_that_are_no_numbers_are_named_before_the_first_step(files, tmp_path, monkeypatch):
    run(config(files, tmp_path / "first", steps=2))
    whole = native.open_checkpoint

    def broken(*arguments):
        found = whole(*arguments)
        read = lambda path, index=(): found.read(path, index) * np.float32("nan" if path[-1] == "gate" else 1)  # noqa: E731
        return dataclasses.replace(found, read=read)

    monkeypatch.setattr(native, "open_checkpoint", broken)
    with pytest.raises(UserError, match=r"the weight layers\.mlp\.gate holds NaN or infinities"):
        run(config(files, tmp_path / "second", steps=1, model={"source": str(tmp_path / "first" / "train")}))


def test_a_tokenizer_that_does_not_belong_to_the_model_is_refused(files, tmp_path):
    run(config(files, tmp_path / "first", steps=2))
    other = tmp_path / "other"
    other.mkdir()
    text = json.loads((files / "tokenizer" / "tokenizer.json").read_text())
    letters = list(text["model"]["vocab"])
    text["model"]["vocab"] = {letter: (place + 1) % len(letters) for place, letter in enumerate(letters)}
    (other / "tokenizer.json").write_text(json.dumps(text))
    (other / "tokenizer_config.json").write_text((files / "tokenizer" / "tokenizer_config.json").read_text())
    model = {"source": str(tmp_path / "first" / "train"), "tokenizer": str(other)}
    with pytest.raises(UserError, match=r"other ids than the tokenizer that came with the model; give model\.tokenizer=null"):
        run(config(files, tmp_path / "second", steps=1, model=model))


def test_the_averaged_weights_are_a_source(files, tmp_path):
    run(config(files, tmp_path, steps=3, optimizer={"learning_rate": 1e-2, "ema": 0.5, "warmup": 0.0}))
    trained, averaged = (pretrained.open(f"{tmp_path / 'train'}{suffix}") for suffix in ("", "#ema"))
    one, other = (model.read(("layers", "mlp", "gate")) for model in (trained, averaged))
    assert 0 < np.abs(one - other).max() < 1
