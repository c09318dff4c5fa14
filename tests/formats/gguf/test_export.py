"""GGUF files written here: read again bit by bit, by `transformers` with equal logits, whole or not at all."""

import dataclasses
import errno
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf.quants import dequantize, quantize
from random_models import FAMILIES, SIZES, byte_level, logits, model_of, random_weights

from alpaca_jax.errors import UserError
from alpaca_jax.formats import names
from alpaca_jax.formats.gguf import export as gguf_export
from alpaca_jax.formats.gguf import reader
from alpaca_jax.formats.gguf import rope as gguf_rope
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model.architecture import Architecture, RopeScaling

TOKENS = list(range(5, 45))
LLAMA3 = RopeScaling(kind="llama3", factor=8.0, original_max_positions=64)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_positions=64)


def _model(**changes: Any) -> Pretrained:
    architecture = Architecture(**{**SIZES, **changes})
    return model_of(random_weights(architecture), architecture, byte_level())


def _export(path: Path, model: Pretrained, dtype: gguf_export.Dtype = "float32", **rest: Any) -> Pretrained:
    gguf_export.export(path, model, dtype, **rest)
    return reader.open_file(path)


# --- what is written is what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_as_it_was(family: str, tmp_path: Path) -> None:
    model = _model(**FAMILIES[family])
    back = _export(tmp_path / "tiny.gguf", model)
    assert back.architecture == model.architecture
    assert (back.format, back.dtype, back.notes, back.eos_ids) == ("GGUF (F32)", "float32", (), (1, 2))
    for path in names.weights(model.architecture):
        np.testing.assert_array_equal(back.read(path), model.read(path), err_msg=str(path))


@pytest.mark.parametrize("family", ["qwen2", "smollm3"])
def test_pieces_are_pieces_of_the_whole(family: str, tmp_path: Path) -> None:
    back = _export(tmp_path / "tiny.gguf", _model(**FAMILIES[family]), "q8_0")
    for path, weight in names.weights(back.architecture).items():
        index = tuple(slice(size // 4, max(size // 2, size // 4 + 1)) for size in weight.shape)
        np.testing.assert_array_equal(back.read(path, index), back.read(path)[index], err_msg=str(path))


def test_biases_of_every_matrix_come_back(tmp_path: Path) -> None:
    model = _model(qkv_bias=True, out_bias=True, mlp_bias=True)
    back = _export(tmp_path / "tiny.gguf", model)
    assert back.architecture == model.architecture
    for path in names.weights(model.architecture):
        np.testing.assert_array_equal(back.read(path), model.read(path), err_msg=str(path))
    names_there = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    assert names_there >= {f"blk.1.ffn_{name}.bias" for name in ("gate", "up", "down")}  # as llama.cpp calls them


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(dtype: gguf_export.Dtype, tmp_path: Path) -> None:
    model = _model(**FAMILIES["qwen2"])
    back = _export(tmp_path / "tiny.gguf", model, dtype)
    assert back.dtype == dtype
    for path in names.weights(model.architecture):
        flat = path[-1] == "scale" or path[-1].endswith("bias")  # llama.cpp wants these in float32
        kind = np.float32 if flat else ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
        found = back.read(path)
        assert found.dtype == kind, path
        np.testing.assert_array_equal(found, model.read(path).astype(kind), err_msg=str(path))


def test_q8_0_is_that_of_the_gguf_package(tmp_path: Path) -> None:
    model = _model(intermediate_size=80)  # not a whole number of blocks: its rows become float16
    back = _export(tmp_path / "tiny.gguf", model, "q8_0")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    assert stored["blk.1.ffn_down.weight"].tensor_type.name == "F16"
    assert stored["blk.1.ffn_norm.weight"].tensor_type.name == "F32"
    theirs = np.ascontiguousarray(model.read(("layers", "mlp", "up"))[1].T)
    blocks = quantize(theirs, gguf.GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(stored["blk.1.ffn_up.weight"].data, blocks)
    np.testing.assert_array_equal(
        back.read(("layers", "mlp", "up"), (slice(1, 2),))[0].T, dequantize(blocks, gguf.GGMLQuantizationType.Q8_0)
    )
    assert (back.format, back.dtype) == ("GGUF (Q8_0)", "float32")


def test_the_listing_is_the_file(tmp_path: Path) -> None:
    model = _model(rope_scaling=LLAMA3)
    _export(tmp_path / "tiny.gguf", model, "q8_0")
    listed = gguf_export.listing(model, "q8_0")
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "tiny.gguf").tensors}
    assert [tensor.name for tensor in listed] == list(stored)
    for tensor in listed:
        assert (tensor.shape, tensor.nbytes) == (tuple(reversed(stored[tensor.name].shape.tolist())), stored[tensor.name].n_bytes)
    assert gguf_export.size(model, "q8_0") == (tmp_path / "tiny.gguf").stat().st_size
    assert listed[0] == (gguf_rope.FACTORS, (8,), "float32", 32)


# --- RoPE -----------------------------------------------------------------------------------------------------------------------------

WIDE = {"head_dim": 64, "rope_theta": 500000.0}
SCALINGS = {
    "linear": RopeScaling(kind="linear", factor=4.0),
    "llama3": dataclasses.replace(LLAMA3, original_max_positions=8192),
    "another llama3": RopeScaling(kind="llama3", factor=12.5, low_freq_factor=0.5, high_freq_factor=6.0, original_max_positions=4096),
    "yarn": YARN,
    "yarn with its own factor": dataclasses.replace(YARN, attention_factor=1.25),
}


@pytest.mark.parametrize("name", SCALINGS)
def test_scaled_frequencies_come_back(name: str, tmp_path: Path) -> None:
    model = _model(**WIDE, rope_scaling=SCALINGS[name], max_positions=32768)
    assert _export(tmp_path / "tiny.gguf", model).architecture == model.architecture


def test_two_factors_of_yarn_become_one(tmp_path: Path) -> None:
    model = _model(rope_scaling=dataclasses.replace(YARN, mscale=0.707, mscale_all_dim=0.5))
    back = _export(tmp_path / "tiny.gguf", model)
    np.testing.assert_allclose(logits(back, TOKENS), logits(model, TOKENS), atol=1e-5)


def test_llama3_factors_without_the_original_context() -> None:
    plain = Architecture(**{**SIZES, **WIDE})
    for published in (8.0, 32.0):  # Llama 3.1 and 3.3; Llama 3.2
        scaling = RopeScaling(kind="llama3", factor=published, original_max_positions=8192)
        divisors = gguf_rope.factors(dataclasses.replace(plain, rope_scaling=scaling))
        assert gguf_rope.read({}, "llama", plain, divisors) == scaling
    other = RopeScaling(kind="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0, original_max_positions=2048)
    divisors = gguf_rope.factors(dataclasses.replace(plain, rope_scaling=other))
    assert gguf_rope.read({}, "llama", plain, divisors) == other
    assert gguf_rope.read({}, "llama", plain, np.ones(32, np.float32)) is None
    with pytest.raises(UserError, match="does not scale RoPE's frequencies as Llama 3.1"):
        gguf_rope.read({}, "llama", plain, np.linspace(1, 8, 32, dtype=np.float32))
    with pytest.raises(UserError, match="does not scale RoPE's frequencies as Llama 3.1"):
        gguf_rope.read({}, "llama", plain, np.full(16, 8, np.float32))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"type": "longrope"}, "'longrope'"),
        ({"type": "yarn", "factor": 4.0, "yarn_ext_factor": 0.5}, "yarn_ext_factor"),
        ({"type": "yarn", "factor": 4.0, "yarn_log_multiplier": 0.1}, "yarn_log_multiplier"),
    ],
)
def test_scalings_that_are_not_read(header: dict[str, Any], message: str) -> None:
    keys = {f"llama.rope.scaling.{key}": value for key, value in header.items()}
    with pytest.raises(UserError, match=message):
        gguf_rope.read(keys, "llama", Architecture(**SIZES), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": RopeScaling(kind="dynamic", factor=2.0)}, "no dynamic scaling"),
        ({"rope_scaling": dataclasses.replace(YARN, beta_fast=16.0)}, "YaRN has beta_fast 32"),
        ({"family": "smollm3", "nope_layers": (3,), "rope_scaling": LLAMA3}, "Llama 3.1's scaling of RoPE in a smollm3"),
        ({"family": "smollm3", "nope_layers": (1,)}, r"whose layers without RoPE \(\[1\]\) are not every 4th"),
        ({"family": "qwen3", "qk_norm": True, "qkv_bias": True, "out_bias": True}, "a bias after the attention of a qwen3"),
        ({"family": "smollm3", "nope_layers": (3,), "mlp_bias": True}, "biases in the MLP of a smollm3"),
        ({"family": "qwen2", "qkv_bias": True, "head_dim": 32}, "not its hidden size 64"),
    ],
)
def test_models_that_llama_cpp_does_not_know(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = _model(**changes)
    for attempt in (lambda: gguf_export.export(tmp_path / "tiny.gguf", model, "float32"), lambda: gguf_export.listing(model, "float32")):
        with pytest.raises(UserError, match=f"{message}.*Hugging Face"):
            attempt()
    assert not list(tmp_path.iterdir())


# --- transformers ---------------------------------------------------------------------------------------------------------------------


def _theirs(path: Path) -> np.ndarray:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits.numpy()[0]


@pytest.mark.filterwarnings("ignore")  # of torch and transformers
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])  # transformers reads no smollm3
def test_transformers_gives_the_logits_of_the_source(family: str, tmp_path: Path) -> None:
    model = _model(**FAMILIES[family])
    _export(tmp_path / "tiny.gguf", model)
    np.testing.assert_allclose(_theirs(tmp_path / "tiny.gguf"), logits(model, TOKENS), atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "q8_0"])
def test_transformers_reads_the_same_rounded_weights(dtype: gguf_export.Dtype, tmp_path: Path) -> None:
    back = _export(tmp_path / "tiny.gguf", _model(**FAMILIES["llama"]), dtype)
    np.testing.assert_allclose(_theirs(tmp_path / "tiny.gguf"), logits(back, TOKENS), atol=1e-4)


# --- whole or not at all --------------------------------------------------------------------------------------------------------------


class _Killed(BaseException):
    """What no handler of the program catches, as a SIGKILL would not be."""


def _counting(model: Pretrained, fail_at: int | None = None, error: BaseException | None = None) -> tuple[Pretrained, list[Any]]:
    calls: list[Any] = []

    def read(path: tuple[str, ...], index: Any = ()) -> np.ndarray:
        calls.append(path)
        if fail_at is not None and len(calls) > fail_at:
            assert error is not None
            raise error
        return model.read(path, index)

    return dataclasses.replace(model, read=read), calls


@pytest.mark.parametrize("error", [_Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_killed_export_goes_on_behind_the_last_whole_tensor(error: BaseException, tmp_path: Path) -> None:
    model = _model()
    gguf_export.export(tmp_path / "straight.gguf", model, "q8_0", name="tiny", plan={"source": "a"})
    target = tmp_path / "tiny.gguf"
    failing, _ = _counting(model, 12, error)
    with pytest.raises(_Killed if isinstance(error, _Killed) else UserError, match=None if isinstance(error, _Killed) else "disk is full"):
        gguf_export.export(target, failing, "q8_0", plan={"source": "a"})
    assert not target.exists()
    (unfinished,) = (tmp_path / ".tiny.gguf.partial").glob("*.gguf")
    with unfinished.open("ab") as file:
        file.write(b"half a tensor")
    counted, calls = _counting(model)
    told: list[str] = []
    gguf_export.export(target, counted, "q8_0", plan={"source": "a"}, progress=told.append)
    listed = gguf_export.listing(model, "q8_0")
    assert len(calls) == len(listed) - 12
    assert told == [tensor.name for tensor in listed]
    assert target.read_bytes() == (tmp_path / "straight.gguf").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"straight.gguf", "tiny.gguf"}


def test_another_source_starts_anew(tmp_path: Path) -> None:
    model = _model()
    failing, _ = _counting(model, 12, _Killed())
    with pytest.raises(_Killed):
        gguf_export.export(tmp_path / "tiny.gguf", failing, "float32", plan={"source": "a"})
    counted, calls = _counting(model)
    gguf_export.export(tmp_path / "tiny.gguf", counted, "float32", plan={"source": "b"})
    assert len(calls) == len(gguf_export.listing(model, "float32"))


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("float32", np.nan, "holds NaN"),
        ("float16", np.inf, "holds NaN"),
        ("bfloat16", -np.inf, "holds NaN"),
        ("q8_0", np.nan, "holds NaN"),
        ("float16", 1e5, "too large for float16"),
        ("q8_0", 1e8, "too large for Q8_0"),
    ],
)
def test_values_that_a_dtype_does_not_hold(dtype: gguf_export.Dtype, value: float, message: str, tmp_path: Path) -> None:
    architecture = Architecture(**SIZES)
    weights = random_weights(architecture)
    weights["layers", "mlp", "gate"][2, 5, 7] = value
    model = model_of(weights, architecture, byte_level())
    with pytest.raises(UserError, match=rf"tiny: blk\.2\.ffn_gate\.weight .*{message}"):
        gguf_export.export(tmp_path / "tiny.gguf", model, dtype)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match="make room"):
        gguf_export.export(tmp_path / "tiny.gguf", _model(), "float32")
