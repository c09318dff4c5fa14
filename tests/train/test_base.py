"""Frozen weights stay with the model they come from: checkpoints lack them, and every reader still sees the whole model."""

import json
import shutil

import jax
import numpy as np
import pytest
from training import config, losses, mapping

from alpaca_jax import checkpoint
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.train.run import run
from alpaca_jax.train.setup import Setup

STEPS = 4
FROZEN = ("embed.*", "layers.attention.*")
EMBED, GATE = ("embed", "weight"), ("layers", "mlp", "gate")


@pytest.fixture(scope="module")
def base(files, tmp_path_factory):
    """A model to start from: a short run's folder."""
    folder = tmp_path_factory.mktemp("base")
    run(config(files, folder, steps=2))
    return folder


def settings(files, folder, base, **changes):
    optimizer = {"learning_rate": 1e-2, "frozen": FROZEN, "ema": 0.5, "warmup": 0.0}
    model = {"source": str(base / "train")} if base else mapping(files, folder)["model"]
    return config(files, folder, **{"steps": STEPS, "model": model, "optimizer": optimizer} | changes)


@pytest.fixture(scope="module")
def tuned(files, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    run(settings(files, folder, base))
    return folder


def names(folder, step=STEPS):
    return {".".join(path) for path in checkpoint.Saved(folder / "train" / "checkpoints", step).weights}


def weights(source):
    model = pretrained.open(str(source))
    return {path: model.read(path) for path in (EMBED, GATE)}


@pytest.mark.parametrize("suffix", ["", "#ema"])
def test_the_checkpoint_lacks_frozen_weights_and_the_run_opens_as_a_whole_model(base, tuned, suffix):
    assert not {name for name in names(tuned) if name.startswith(("embed", "layers.attention."))} and "layers.mlp.gate" in names(tuned)
    before, after = weights(base / "train"), weights(f"{tuned / 'train'}{suffix}")
    assert np.array_equal(before[EMBED], after[EMBED]) and not np.array_equal(before[GATE], after[GATE])
    assert {"embed.weight", "layers.mlp.gate"} <= set(pretrained.open(str(tuned / "train")).stored)


def test_a_run_is_resumed_on_its_base(files, base, tuned, tmp_path):
    run(settings(files, tmp_path, base, checkpoint={"every_steps": 2, "keep": 9}))
    shutil.rmtree(tmp_path / "train" / "checkpoints" / str(STEPS))
    run(settings(files, tmp_path, base))
    assert losses(tmp_path) == losses(tuned)
    assert jax.tree.all(jax.tree.map(np.array_equal, weights(tmp_path / "train"), weights(tuned / "train")))


def test_another_run_starts_from_it(files, tuned, tmp_path):
    run(settings(files, tmp_path, tuned, steps=1))
    assert np.array_equal(weights(tmp_path / "train")[EMBED], weights(tuned / "train")[EMBED])


def test_random_weights_have_no_base_so_checkpoints_keep_them(files, tmp_path):
    run(settings(files, tmp_path, None, steps=2))
    assert "embed.weight" in names(tmp_path, 2) and "base" not in json.loads((tmp_path / "train/model/architecture.json").read_text())
    before = checkpoint.restore_params(tmp_path / "train" / "checkpoints", 2)
    shutil.rmtree(tmp_path / "train" / "checkpoints" / "2")
    run(settings(files, tmp_path, None, steps=2))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, checkpoint.restore_params(tmp_path / "train" / "checkpoints", 2)))


def test_a_run_whose_checkpoints_hold_frozen_weights_goes_on_keeping_them(files, base, tuned, tmp_path, monkeypatch):
    """As the runs of alpaca_jax 0.1.0 do, whose base may have changed since they began."""
    with monkeypatch.context() as patch:
        patch.setattr(Setup, "base_names", [])
        run(settings(files, tmp_path, base, checkpoint={"every_steps": 2, "keep": 9}))
    shutil.rmtree(tmp_path / "train" / "checkpoints" / str(STEPS))
    run(settings(files, tmp_path, base, checkpoint={"keep": 9}))
    assert "embed.weight" in names(tmp_path, 2) and "embed.weight" in names(tmp_path)
    assert losses(tmp_path) == losses(tuned)


def test_a_base_that_is_gone_or_another_is_named(files, base, tuned, tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    run(settings(files, tmp_path / "run", copy, steps=1))
    assert np.array_equal(weights(tmp_path / "run" / "train")[EMBED], weights(base / "train")[EMBED])
    run(config(files, copy, steps=2, seed=1, dir=str(tmp_path / "other")))
    shutil.rmtree(copy / "train")
    shutil.copytree(tmp_path / "other" / "train", copy / "train")
    for attempt in (lambda: weights(tmp_path / "run" / "train"), lambda: run(settings(files, tmp_path / "run", copy, steps=1))):
        with pytest.raises(UserError, match=r"stands on the frozen weights of .*base/train, and that is another model now"):
            attempt()
    shutil.rmtree(copy)
    with pytest.raises(UserError, match=r"run/train stands on the frozen weights of .*base/train, which can't be read: .*no such file"):
        weights(tmp_path / "run" / "train")
