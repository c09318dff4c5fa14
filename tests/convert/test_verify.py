"""Logits layer by layer: those of the whole model; and a conversion that went wrong is found."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import random_models

from alpaca_jax.config import parse
from alpaca_jax.convert import run as convert
from alpaca_jax.convert import verify
from alpaca_jax.convert.config import Config
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import Pretrained, in_memory
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture, RopeScaling

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
KINDS = {
    "plain": {},
    "tied and scaled": {"tie_embeddings": True, "rope_scaling": RopeScaling(kind="linear", factor=4.0)},
    "some slide": {"family": "qwen3", "qk_norm": True, "sliding_window": 5, "sliding_layers": (1, 3)},
    "some without RoPE": {"family": "smollm3", "nope_layers": (3,)},
    "biases": {"family": "qwen2", "qkv_bias": True},
}


@pytest.fixture
def make() -> Any:
    def make(seed: int = 0, **changes: Any) -> Pretrained:
        tokenizer = random_models.byte_level()
        architecture = Architecture(vocab_size=tokenizer.vocab_size, **SIZES, **changes)
        params = llama.init(architecture, jax.random.key(seed))
        noise = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(jax.random.key(1), leaf.shape), params)
        return in_memory(architecture, tokenizer, noise)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_layer_by_layer_is_all_at_once(kind: str, make: Any) -> None:
    model = make(**KINDS[kind])
    tokens = np.random.default_rng(0).integers(0, 96, (2, 12)).astype(np.int32)
    segments = np.array([[1] * 12, [1] * 9 + [0] * 3], np.int32)
    positions = np.broadcast_to(np.arange(12, dtype=np.int32), tokens.shape)
    params = pretrained.load_params(model)
    expected = np.asarray(llama.logits(params, llama.forward(model.architecture, params, tokens, segments, positions)))
    found = verify.logits(model, tokens, segments, positions)
    np.testing.assert_allclose(found[segments > 0], expected[segments > 0], atol=2e-5, rtol=0)


def _convert(source: Path, target: Path, **changes: Any) -> Path:
    return convert.run(parse(Config, {"dir": str(target.parent), "source": str(source), "target": str(target), "verify": True, **changes}))


@pytest.mark.parametrize("target", ["hf", "model.gguf", "model.orbax"])
def test_a_conversion_is_compared(target: str, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huggingface_export.export(tmp_path / "source", make())
    _convert(tmp_path / "source", tmp_path / target)
    shown = capsys.readouterr().out
    assert "0.00e+00" in shown
    assert ("by transformers" in shown) == (target != "model.orbax")


def test_a_result_that_is_another_model_is_refused(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_export.export(tmp_path / "source", make())
    huggingface_export.export(tmp_path / "other", make(seed=1))
    config = parse(Config, {"dir": str(tmp_path), "source": str(tmp_path / "source"), "target": str(tmp_path / "other")})
    source = pretrained.open(tmp_path / "source")
    with pytest.raises(UserError, match="gives other logits"):
        verify.compare(config, source, tmp_path / "other")
    verify.compare(dataclasses.replace(config, dtype="float16"), source, tmp_path / "source")


def test_rounding_is_shown_and_allowed(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    huggingface_export.export(tmp_path / "source", make())
    _convert(tmp_path / "source", tmp_path / "half", dtype="bfloat16")
    row = next(line for line in capsys.readouterr().out.splitlines() if "source" in line and "e-" in line)
    assert 0 < float(row.split("│")[2]) < 1.0
