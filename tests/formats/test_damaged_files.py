"""Files of a model with random faults: each is read, or refused with a UserError, and costs little memory and time."""

import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from random_models import SIZES, byte_level, model_of, random_weights
from safetensors.numpy import load_file, save_file

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.gguf import export as gguf_export
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.names import TABLE
from alpaca_jax.model.architecture import Architecture, RopeScaling
from tools.prove.fuzz.mutate import damaged

Damage = Callable[[bytes, random.Random], bytes]


def _safetensors_header(content: bytes, chance: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    header = damaged(content[8 : 8 + length], chance)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _gguf_header(content: bytes, chance: random.Random) -> bytes:
    end = content.index(b"output_norm.weight") + 64
    return damaged(content[:end], chance) + content[end:] if chance.random() < 0.8 else content[:end]


FILES: dict[str, tuple[str, Damage, int]] = {
    "hf/config.json": ("hf", damaged, 60),
    "hf/generation_config.json": ("hf", damaged, 10),
    "hf/model.safetensors.index.json": ("hf", damaged, 15),
    "hf/model-00001-of-00003.safetensors": ("hf", _safetensors_header, 30),
    "lora/adapter_config.json": ("lora", damaged, 25),
    "lora/adapter_model.safetensors": ("lora", _safetensors_header, 10),
    "meta/params.json": ("meta", damaged, 15),
    "model.gguf": ("model.gguf", _gguf_header, 35),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in each format, and an adapter."""
    root = tmp_path_factory.mktemp("whole")
    yarn = RopeScaling(kind="yarn", factor=4.0, original_max_positions=64)
    architecture = Architecture(**{**SIZES, "rope_scaling": yarn, "num_layers": 1})
    model = model_of(random_weights(architecture), architecture, byte_level())
    huggingface_export.export(root / "hf", model, shard_bytes=150_000)
    gguf_export.export(root / "model.gguf", model, "float32")
    (root / "lora").mkdir()
    lora = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}}
    (root / "lora" / "adapter_config.json").write_text(json.dumps(lora | {"base_model_name_or_path": str(root / "hf")}))
    a = architecture
    parts = {"A": (2, a.hidden_size), "B": (a.num_heads * a.head_dim, 2)}
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file({name.format(part): np.ones(shape, np.float32) for part, shape in parts.items()}, root / "lora" / "adapter_model.safetensors")
    (root / "meta").mkdir()
    sizes = {"dim": a.hidden_size, "n_layers": 1, "n_heads": a.num_heads, "n_kv_heads": a.num_kv_heads, "head_dim": a.head_dim}
    (root / "meta" / "params.json").write_text(json.dumps({**sizes, "norm_eps": 1e-5, "rope_theta": 5e5, "use_scaled_rope": True}))
    held = {name: tensor for file in (root / "hf").glob("*.safetensors") for name, tensor in load_file(file).items()}
    theirs = {each.huggingface.format(layer=0): each.meta.format(layer=0) for each in TABLE}
    save_file({theirs[name]: tensor for name, tensor in held.items()}, root / "meta" / "consolidated.safetensors")
    shutil.copy(root / "hf" / "tokenizer.json", root / "meta")
    shutil.copy(root / "hf" / "tokenizer_config.json", root / "meta")
    return root


def ends(whole: Path, folder: Path, file: str, seed: int) -> str:
    """How the reading of a damaged copy of `file` ends: "read" or "refused"; any other error is raised."""
    source, damage, _ = FILES[file]
    copy = folder / f"{seed}"
    shutil.copytree(whole, copy, symlinks=True)
    try:
        (copy / file).write_bytes(damage((copy / file).read_bytes(), random.Random(seed)))
        base = str(copy / "hf") if source == "lora" else None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = pretrained.open(ModelConfig(source=str(copy / source), base=base))
            model.read(("norm", "scale"))
            model.read(("layers", "attention", "query"))
    except UserError as error:
        return "refused" if len(str(error)) < 4000 else f"a page of {len(str(error))} characters, which nobody reads"
    finally:
        shutil.rmtree(copy)
    return "read"


def test_the_whole_files_are_read(whole: Path) -> None:
    for source, _, _ in FILES.values():
        model = pretrained.open(ModelConfig(source=str(whole / source)))
        assert model.read(("norm", "scale")).shape == (model.architecture.hidden_size,)


@pytest.mark.parametrize("file", FILES)
def test_damaged_files_are_read_or_refused(file: str, whole: Path, tmp_path: Path) -> None:
    found = {seed: ends(whole, tmp_path, file, seed) for seed in range(FILES[file][2])}
    assert set(found.values()) in ({"read", "refused"}, {"refused"}), found
