"""The adapter in a checkpoint over its base, which may have been in four bits."""

import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from random_arrays import random_arrays
from random_models import SIZES, byte_level

from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints
from alpaca_jax.config import parse
from alpaca_jax.convert import merging
from alpaca_jax.convert import run as convert
from alpaca_jax.convert.config import Config
from alpaca_jax.errors import UserError
from alpaca_jax.formats import native, pretrained
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan
from alpaca_jax.formats.base import Base
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import Pretrained, in_memory
from alpaca_jax.formats.names import weights
from alpaca_jax.model import frozen, llama
from alpaca_jax.model.adapter import attach, merged
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree, flatten, unflatten

ARCHITECTURE = Architecture(**SIZES | {"intermediate_size": 128, "num_layers": 2})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """A random model as a Hugging Face folder."""
    folder, random = tmp_path_factory.mktemp("base") / "hf", np.random.default_rng(0)
    params = {path: random.normal(0, 0.1, spec.shape).astype(np.float32) for path, spec in flatten(llama.specs(ARCHITECTURE)).items()}
    huggingface_export.export(folder, in_memory(ARCHITECTURE, byte_level(), unflatten(params)))
    return pretrained.open(str(folder))


def checkpointed(folder: Path, base: Pretrained, settings: AdapterConfig) -> Tree:
    """Writes what a run with this adapter leaves behind, and returns the adapter's arrays."""
    arrays = random_arrays(settings, base)
    checkpoints = Checkpoints(folder / "train" / "checkpoints", CheckpointConfig(asynchronous=False))
    checkpoints.save(3, {"params": {"adapter": on_device(arrays)}}, {})
    checkpoints.close()
    stands_on = Base.of(ModelConfig(source=base.source), base, [".".join(path) for path in weights(base.architecture)])
    native.write(folder / "train" / "model", base.architecture, base.tokenizer, base.eos_ids, base.source, stands_on, settings)
    return arrays


def on_device(arrays: Tree) -> Tree:
    return unflatten({path: jnp.asarray(array) for path, array in flatten(arrays).items()})


def params_of(model: Pretrained) -> Tree:
    return unflatten({path: np.asarray(model.read(path)) for path in weights(model.architecture)})


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"base": "nf4"}, {"base": "nf4", "double_quant": False}], ids=str)
def test_a_run_is_read_as_its_step_computes_it(settings: dict[str, Any], base: Pretrained, tmp_path: Path) -> None:
    config = AdapterConfig(rank=3, targets=("q_proj", "o_proj", "up_proj"), **settings)
    arrays = checkpointed(tmp_path, base, config)
    below = params_of(base)
    if config.nf4 is not None:
        below = frozen.quantize(below, config.nf4)
    expected = flatten(merged(attach(below, plan(config, base.architecture), arrays)))
    opened = pretrained.open(str(tmp_path))
    for path in weights(base.architecture):
        np.testing.assert_allclose(opened.read(path), expected[path], rtol=1e-5, atol=1e-6, err_msg=str(path))
    piece = opened.read(("layers", "mlp", "up"), (slice(1, 2), slice(7, 30)))
    np.testing.assert_allclose(piece, opened.read(("layers", "mlp", "up"))[1:2, 7:30], rtol=1e-6, atol=1e-7)


def test_a_base_in_four_bits_is_merged_either_way(base: Pretrained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpointed(tmp_path / "run", base, AdapterConfig(rank=2, base="nf4"))

    def converted(name: str, **changes: Any) -> Pretrained:
        words = {"dir": str(tmp_path), "source": str(tmp_path / "run"), "target": str(tmp_path / name), **changes}
        return pretrained.open(str(convert.run(parse(Config, words))))

    opened, gate = pretrained.open(str(tmp_path / "run")), ("layers", "mlp", "gate")
    alone = converted("alone", verify=True)
    assert "held no records out" not in capsys.readouterr().err
    quantised, original = converted("quantised", merge=True), converted("original", merge=True, merge_into="original")
    assert "the run held no records out, so the two merges are not compared" in capsys.readouterr().err
    assert np.array_equal(quantised.read(gate), opened.read(gate))
    assert np.array_equal(original.read(gate), merging.original(opened).read(gate)) and np.array_equal(
        original.read(gate), alone.read(gate)
    )
    assert not np.allclose(quantised.read(gate), original.read(gate), atol=1e-3)


def test_a_base_that_another_model_has_taken_the_place_of_is_named(base: Pretrained, tmp_path: Path) -> None:
    shutil.copytree(base.source, tmp_path / "base")
    checkpointed(tmp_path / "run", pretrained.open(str(tmp_path / "base")), AdapterConfig(rank=2))
    pretrained.open(str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "base")
    params = unflatten({path: base.read(path) * 2 for path in weights(base.architecture)})
    huggingface_export.export(tmp_path / "base", in_memory(ARCHITECTURE, base.tokenizer, params))
    with pytest.raises(UserError, match="that is another model now"):
        pretrained.open(str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(UserError, match="which can't be read: .*no such file"):
        pretrained.open(str(tmp_path / "run"))
