"""A run that starts from a part of a model: which part is chosen at its first start, and is the same at every later one."""

import dataclasses

import numpy as np
import pytest
from training import config, losses

from alpaca_jax import rundir
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.pruning import choice
from alpaca_jax.formats.pruning.kept import Kept
from alpaca_jax.train.run import run

STEPS = 2
GATE, EMBED = ("layers", "mlp", "gate"), ("embed", "weight")
WIDTHS = {"intermediate_size": 24}


@pytest.fixture(scope="module")
def base(files, tmp_path_factory):
    """A model to start from: a short run's folder."""
    folder = tmp_path_factory.mktemp("base")
    run(config(files, folder, steps=1))
    return folder


def settings(files, folder, base, **changes):
    model = {"source": str(base / "train"), "cache": str(folder / "models"), "keep_layers": "drop 1, chosen", "widths": WIDTHS}
    optimizer = {"learning_rate": 1e-2, "frozen": ("embed.*",)}
    return config(files, folder, **{"steps": STEPS, "model": model, "optimizer": optimizer} | changes)


@pytest.fixture(scope="module")
def pruned(files, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned")
    run(settings(files, folder, base))
    return folder


def kept(folder):
    return rundir.read_json(folder / "train" / "model" / "kept.json")


def test_the_run_says_what_it_keeps_and_opens_by_its_name(base, pruned):
    whole, student = pretrained.open(str(base / "train")), pretrained.open(str(pruned / "train"))
    assert kept(pruned)["asked"] == {"keep_layers": "drop 1, chosen", "widths": {**WIDTHS, "hidden_size": None, "num_kv_heads": None}}
    assert len(kept(pruned)["kept"]["layers"]) == student.architecture.num_layers == whole.architecture.num_layers - 1
    assert student.architecture.intermediate_size == 24 and student.read(GATE).shape[2] == 24
    # The frozen table is in no checkpoint: it is read from the base, of which the student is a part.
    assert np.array_equal(student.read(EMBED), whole.read(EMBED))


def test_a_later_start_keeps_the_same_whatever_would_be_chosen_now(files, base, pruned, tmp_path, monkeypatch):
    straight = settings(files, tmp_path, base, steps=STEPS)
    run(straight)
    assert kept(tmp_path) == kept(pruned) and losses(tmp_path) == losses(pruned)
    other = Kept(layers=(0,), neurons=(tuple(range(24)),))
    assert other != kept(pruned)["kept"]
    monkeypatch.setattr(choice, "keep", lambda *_: pytest.fail("chosen again"))
    run(straight)
    again = dataclasses.replace(straight, evaluate_every=None)
    assert run(again)["steps"] == STEPS and losses(tmp_path) == losses(pruned)


def test_another_part_of_the_model_is_another_run(files, base, pruned):
    asked = settings(files, pruned, base)
    with pytest.raises(Exception, match="keep_layers"):
        run(dataclasses.replace(asked, model=dataclasses.replace(asked.model, keep_layers=1)))
