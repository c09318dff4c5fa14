"""The table of what the layers of a model do."""

import dataclasses
import io

import pytest
from random_models import SIZES, byte_level, model_of, random_weights

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.formats.huggingface import export
from alpaca_jax.inspect.config import Config
from alpaca_jax.inspect.run import run
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.terminal import Console


def config(folder, **model):
    return parse(Config, {"dir": str(folder), "model": model, "data": {}, "batch": {"examples": 4}, "influence": True})


def test_layers_that_do_nothing_have_no_influence_and_are_the_best_block(tmp_path):
    architecture = Architecture(**SIZES | {"tie_embeddings": True})
    weights = random_weights(architecture)
    weights[("layers", "attention", "out")][1:3] = weights[("layers", "mlp", "down")][1:3] = 0.0
    export.export(tmp_path / "model", model_of(weights, architecture, dataclasses.replace(byte_level(), chat_template=None)))
    out = Console(file=io.StringIO(), width=80)
    figures = run(config(tmp_path, source=str(tmp_path / "model"), keep_layers="drop 1, chosen"), out)
    layers, blocks = figures["influence"]["layers"], figures["influence"]["blocks"]
    assert len(layers) == 4 and max(layers[1:3]) < 1e-6 < 1e-2 < min(layers[0], layers[3])
    assert [block[:2] for block in blocks] == [(1, 1), (2, 1)] and blocks[1][2] < 1e-3
    assert "1-2" in out.file.getvalue() and "What the layers do" in (tmp_path / "influence.html").read_text()


def test_random_weights_have_no_influence_to_show(tmp_path):
    with pytest.raises(UserError, match="give model.source=NAME"):
        run(config(tmp_path), Console(file=io.StringIO()))
