"""Meta's own files, in one part and in several, against the same model as transformers holds it and against Meta's way to compute it."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from alpaca_jax.errors import UserError
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.meta import params as meta_params
from alpaca_jax.formats.meta import reader as meta
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.formats.pretrained import load_params
from alpaca_jax.model import llama
from alpaca_jax.tokenizer import Tokenizer

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore")  # of torch and transformers

LLAMA_2 = {"dim": 32, "multiple_of": 16, "n_heads": 4, "n_kv_heads": 2, "n_layers": 3, "norm_eps": 1e-5, "vocab_size": -1}
LLAMA_3 = {**LLAMA_2, "vocab_size": 96, "ffn_dim_multiplier": 1.3, "rope_theta": 500000.0}
SIZES = {"head_dim": 8, "rms_norm_eps": 1e-5}
INSIDE = {
    "input_layernorm": "attention_norm",
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
OUTSIDE = {"model.embed_tokens.weight": "tok_embeddings.weight", "model.norm.weight": "norm.weight", "lm_head.weight": "output.weight"}


def _as_meta(model: Any, head_dim: int = 8) -> dict[str, Any]:
    """The tensors of a model of transformers in Meta's names and layout."""
    made = {}
    for name, tensor in model.state_dict().items():
        if name in OUTSIDE:
            made[OUTSIDE[name]] = tensor.clone()
            continue
        _, _, layer, inside = name.removesuffix(".weight").split(".", 3)
        if INSIDE[inside].endswith(("wq", "wk")):
            tensor = tensor.reshape(-1, 2, head_dim // 2, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        made[f"layers.{layer}.{INSIDE[inside]}.weight"] = tensor.clone()
    return made


def _split(tensors: dict[str, Any], count: int, embed_axis: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, tensor in tensors.items():
        axis = {"tok_embeddings": embed_axis, "wo": 1, "w2": 1}.get(name.split(".")[-2], 0)
        pieces = [tensor] * count if tensor.ndim == 1 else tensor.chunk(count, axis)
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    return parts


def _write(folder: Path, params: dict[str, Any], *parts: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    for number, part in enumerate(parts):
        torch.save({**part, "rope.freqs": torch.zeros(4)}, folder / f"consolidated.{number:02}.pth")
    return folder


@pytest.fixture(scope="module")
def source(make_llama: Any) -> tuple[Path, Any]:
    return make_llama(**SIZES)


@pytest.fixture(scope="module")
def tensors(source: tuple[Path, Any]) -> dict[str, Any]:
    return _as_meta(source[1])


@pytest.fixture
def tokenizer(tiny_tokenizer: Path) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizer)


def _check_same(model: Pretrained, expected: Pretrained) -> None:
    for path, weight in weights(expected.architecture).items():
        whole = expected.read(path)
        np.testing.assert_array_equal(model.read(path), whole)
        first = weight.shape[0]
        for rows in (slice(1, 2), slice(first // 3, first - 1), slice(first, first)):
            if rows.stop > rows.start or path[0] != "layers":
                np.testing.assert_array_equal(model.read(path, (rows,)), whole[rows])
        if whole.ndim > 2:
            index = (slice(0, 2), slice(3, 17), slice(1, 3))
            np.testing.assert_array_equal(model.read(path, index), whole[index])


@pytest.mark.parametrize(("count", "embed_axis", "params"), [(1, 1, LLAMA_2), (2, 1, LLAMA_2), (2, 0, LLAMA_3)])
def test_weights_equal_those_of_transformers(
    count: int, embed_axis: int, params: Any, source: Any, tensors: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    folder = _write(tmp_path / "7B", params, *_split(tensors, count, embed_axis))
    model = meta.open_folder(folder, tokenizer)
    expected = huggingface.open_folder(source[0])
    _check_same(model, expected)
    a, b = model.architecture, expected.architecture
    assert (a.vocab_size, a.intermediate_size, a.head_dim, a.num_kv_heads, a.norm_eps) == (96, 48, 8, 2, b.norm_eps)
    assert (a.rope_theta, a.max_positions) == ((500000.0, 8192) if params is LLAMA_3 else (10000.0, 4096))
    assert not a.tie_embeddings and a.rope_scaling is None and a.family == "llama"
    assert len(model.files) == count and model.dtype == "float32" and "Meta" in model.format
    assert any(str(a.max_positions) in note and "Llama" in note for note in model.notes)
    assert meta.open_folder(folder, tokenizer, max_positions=100).architecture.max_positions == 100


def _reference(tensors: dict[str, Any], params: dict[str, Any], tokens: Any, factor: float | None) -> np.ndarray:
    """Logits as Meta computes them: RoPE turns neighbouring pairs, seen as complex numbers."""
    heads, groups, width = params["n_heads"], params["n_kv_heads"], params["dim"] // params["n_heads"]
    frequencies = params.get("rope_theta", 10000.0) ** -(torch.arange(0, width, 2).double() / width)
    if factor is not None:
        waves = 2 * math.pi / frequencies
        smooth = ((8192 / waves - 1) / (4 - 1)).clamp(0, 1)
        frequencies = frequencies * (smooth + (1 - smooth) / factor)
    angles = torch.outer(torch.arange(tokens.shape[1]).double(), frequencies)
    turn = torch.polar(torch.ones_like(angles), angles)[:, None]
    mask = torch.full((tokens.shape[1],) * 2, -math.inf).triu(1)
    values = {name: tensor.double() for name, tensor in tensors.items()}

    def norm(x: Any, name: str) -> Any:
        return x * (x.square().mean(-1, keepdim=True) + params["norm_eps"]).rsqrt() * values[f"{name}.weight"]

    def rotated(x: Any) -> Any:
        return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * turn).flatten(-2)

    hidden = values["tok_embeddings.weight"][tokens]
    for layer in range(params["n_layers"]):
        weight = lambda name, layer=layer: values[f"layers.{layer}.{name}.weight"]  # noqa: E731
        x = norm(hidden, f"layers.{layer}.attention_norm")
        q, k, v = ((x @ weight(f"attention.{name}").T).unflatten(-1, (-1, width)) for name in ("wq", "wk", "wv"))
        q, k, v = rotated(q), rotated(k).repeat_interleave(heads // groups, 2), v.repeat_interleave(heads // groups, 2)
        scores = torch.einsum("bqhk,bthk->bhqt", q, k) / width**0.5 + mask
        hidden = hidden + torch.einsum("bhqt,bthk->bqhk", scores.softmax(-1), v).flatten(-2) @ weight("attention.wo").T
        x = norm(hidden, f"layers.{layer}.ffn_norm")
        gated = torch.nn.functional.silu(x @ weight("feed_forward.w1").T) * (x @ weight("feed_forward.w3").T)
        hidden = hidden + gated @ weight("feed_forward.w2").T
    output = values.get("output.weight", values["tok_embeddings.weight"])
    return (norm(hidden, "norm") @ output.T).numpy()


def _logits(model: Pretrained, tokens: np.ndarray) -> np.ndarray:
    ones = np.ones(tokens.shape, np.int32)
    positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
    params = load_params(model)
    return np.asarray(llama.logits(params, llama.forward(model.architecture, params, tokens, ones, positions)))


SCALED = {**LLAMA_3, "use_scaled_rope": True, "rope_theta": 1e6}


@pytest.mark.parametrize(
    ("params", "factor", "tied", "positions"),
    [
        (LLAMA_2, None, False, 4096),
        (SCALED, 8.0, False, 131072),
        (SCALED, 32.0, True, 131072),
        ({**SCALED, "rope_scaling_factor": 4}, 4.0, False, 131072),
    ],
)
def test_logits_as_meta_computes_them(
    params: Any, factor: float | None, tied: bool, positions: int, tensors: Any, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    if tied:  # as in Llama 3.2: the embedding is stored a second time
        tensors = {**tensors, "output.weight": tensors["tok_embeddings.weight"].clone()}
    model = meta.open_folder(_write(tmp_path / "m", params, *_split(tensors, 2, 0)), tokenizer)
    assert model.architecture.tie_embeddings == tied
    assert model.architecture.max_positions == positions
    assert any(f"assumed to be {factor or 0:.0f}" in note and "RoPE" in note for note in model.notes) == (factor in (8.0, 32.0))
    assert any("output.weight" in note for note in model.notes) == tied
    tokens = np.random.default_rng(1).integers(0, 96, (2, 30)).astype(np.int32)
    expected = _reference(tensors, params, torch.from_numpy(tokens.astype(np.int64)), factor)
    np.testing.assert_allclose(_logits(model, tokens), expected, atol=1e-4, rtol=0)


def test_tied_without_a_table_of_the_output(tensors: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    del (tensors := dict(tensors))["output.weight"]
    model = meta.open_folder(_write(tmp_path / "m", LLAMA_3, tensors), tokenizer)
    assert model.architecture.tie_embeddings
    np.testing.assert_array_equal(model.read(("embed", "weight")), tensors["tok_embeddings.weight"].numpy())


def test_bfloat16(tensors: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    parts = _split({name: tensor.bfloat16() for name, tensor in tensors.items()}, 2, 1)
    model = meta.open_folder(_write(tmp_path / "m", LLAMA_2, *parts), tokenizer)
    assert model.dtype == model.read(("embed", "weight")).dtype.name == "bfloat16"
    expected = tensors["tok_embeddings.weight"].bfloat16().float().numpy()
    np.testing.assert_array_equal(model.read(("embed", "weight")).astype(np.float32), expected)


def test_a_piece_reads_only_the_parts_that_hold_it(
    tensors: Any, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    plain = meta.pickled.read
    monkeypatch.setattr(meta.pickled, "read", lambda tensor, index: read.append((tensor.file.path.name, index)) or plain(tensor, index))
    model = meta.open_folder(_write(tmp_path / "m", LLAMA_2, *_split(tensors, 2, 1)), tokenizer)
    read.clear()
    model.read(("layers", "mlp", "gate"), (slice(1, 2), slice(None), slice(30, 40)))
    assert read == [("consolidated.01.pth", (slice(6, 16), slice(0, 32)))]


def test_files_of_mistral(make_llama: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder, model = make_llama(head_dim=12, rms_norm_eps=1e-5)
    params = {"dim": 32, "n_layers": 3, "head_dim": 12, "hidden_dim": 48, "n_heads": 4, "n_kv_heads": 2, "norm_eps": 1e-5}
    (tmp_path / "params.json").write_text(json.dumps({**params, "vocab_size": 96, "rope_theta": 1e6, "sliding_window": 16}))
    save_file({name: tensor.numpy() for name, tensor in _as_meta(model, 12).items()}, tmp_path / "consolidated.safetensors")
    found = meta.open_folder(tmp_path, tokenizer)
    _check_same(found, huggingface.open_folder(folder))
    a = found.architecture
    assert (a.family, a.sliding_window, a.head_dim, a.rope_theta, a.max_positions) == ("mistral", 16, 12, 1e6, 32768)
    assert "Mistral" in found.format


@pytest.mark.parametrize(
    ("params", "positions"),
    [
        ({**LLAMA_2, "norm_eps": 1e-6, "n_kv_heads": None}, 2048),
        ({**LLAMA_2, "rope_theta": 1e6}, 16384),
        ({**LLAMA_2, "max_seq_len": 77}, 77),
    ],
)
def test_the_longest_text(params: Any, positions: int, make_llama: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    tensors = _as_meta(make_llama(**SIZES, num_key_value_heads=params["n_kv_heads"] or 4)[1])
    model = meta.open_folder(_write(tmp_path / "m", {"model": params}, tensors), tokenizer)
    assert model.architecture.max_positions == positions
    assert bool(model.notes) == (positions != 77)


def test_tokenizer_of_llama_3_beside_the_folder(make_llama: Any, tmp_path: Path) -> None:
    lines = (base64.b64encode(bytes([byte])) + b" %d" % byte for byte in range(256))
    (tmp_path / "tokenizer.model").write_bytes(b"\n".join(lines))
    tensors = _as_meta(make_llama(**SIZES, vocab_size=512)[1])
    model = meta.open_folder(_write(tmp_path / "8B", {**LLAMA_3, "vocab_size": 512}, tensors))
    assert model.tokenizer.encode("Aa") == [65, 97]
    assert model.eos_ids == (257, 264, 265)  # end_of_text, eom_id, eot_id


def test_bad_folders(tensors: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    parts = _split(tensors, 2, 1)
    folder = tmp_path / "m"

    def problem(params: dict[str, Any], *parts: dict[str, Any], without: str | None = None) -> str:
        for file in folder.glob("*.pth"):
            file.unlink()
        _write(folder, params, *parts)
        if without is not None:
            (folder / without).unlink()
        with pytest.raises(UserError) as caught:
            meta.open_folder(folder, None if without == "tokenizer" else tokenizer)
        return str(caught.value)

    assert "lacks consolidated.00.pth" in problem(LLAMA_2, *parts, without="consolidated.00.pth")
    message = problem(LLAMA_2, *parts, without="consolidated.01.pth")
    assert "1 of 2 parts: consolidated.01.pth" in message
    other = {**parts[1], "layers.1.attention.wq.weight": torch.zeros(8, 32), "norm.weight": parts[1]["norm.weight"].half()}
    message = problem(LLAMA_2, parts[0], other)
    assert "layers.1.attention.wq.weight is float32 [16, 32] in consolidated.00.pth, float32 [8, 32] in consolidated.01.pth" in message
    assert "norm.weight is float32 [32] in consolidated.00.pth, float16 [32]" in message
    lacking = {name: tensor for name, tensor in parts[1].items() if "ffn_norm" not in name}
    assert "consolidated.01.pth lacks layers.{0-2}.ffn_norm.weight" in problem(LLAMA_2, parts[0], lacking)
    assert "layers.0.attention.extra" in problem(LLAMA_2, {**tensors, "layers.0.attention.extra": torch.zeros(3)})
    assert "holds no LLaMA" in problem(LLAMA_2, {"a": torch.zeros(3)})
    assert "holds params.json but no weights" in problem(LLAMA_2)
    assert "no number for n_layers" in problem({key: value for key, value in LLAMA_2.items() if key != "n_layers"}, tensors)
    message = problem({**LLAMA_2, "moe": {"num_experts": 8}, "quantization_args": None}, tensors)
    assert "has moe ({'num_experts': 8})" in message and "quantization_args" not in message
    assert "multiple of num_kv_heads" in problem({**LLAMA_2, "n_kv_heads": 3}, tensors)
    _write(folder, LLAMA_2, tensors)
    with pytest.raises(UserError, match=r"holds no tokenizer\.model"):
        meta.open_folder(folder)


WRONG = {
    "dim": ["32", 0, -1, 32.5, True, 1 << 40, "=NaN"],
    "n_layers": [[], 0, 10**9],
    "n_heads": [0, 0.5, 10**9],
    "n_kv_heads": [0, -1, "2"],
    "norm_eps": ["1e-5", 0, -1e-5, "=NaN", "=Infinity", "=1e400"],
    "rope_theta": [{}, 0, -1.0, 1.0, "=NaN", "=1e400"],
    "vocab_size": ["96", 1.5, 1 << 63],
    "use_scaled_rope": [1, "yes"],
    "max_seq_len": ["2048", 1 << 63],
    "rope_scaling_factor": [0, "=NaN"],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_a_value_that_is_none_of_its_key_is_refused_by_file_and_key(key: str, value: Any, tmp_path: Path) -> None:
    params = {"dim": 32, "n_layers": 2, "n_heads": 4, "norm_eps": 1e-5, "use_scaled_rope": True, key: "HERE"}
    raw = isinstance(value, str) and value.startswith("=")  # JSON that Python's own doesn't write
    (tmp_path / "params.json").write_text(json.dumps(params).replace('"HERE"', value[1:] if raw else json.dumps(value)))
    with pytest.raises(UserError) as caught:
        meta_params.architecture(tmp_path, meta_params.read(tmp_path), meta_params.Sizes(96, 48), False, None)
    assert str(tmp_path / "params.json") in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize("content", [b"[" * 5000, b"[]", b'{"model": []}', b'{"dim": "\xff"}', b"{}", b" " * (2 << 20)])
def test_what_is_no_params(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "params.json").write_bytes(content)
    with pytest.raises(UserError, match=r"params\.json"):
        meta_params.read(tmp_path)


def test_a_claim_of_a_billion_parts_is_refused_at_once(tmp_path: Path) -> None:
    params = {"dim": 32, "n_layers": 2, "n_heads": 1 << 14, "head_dim": 1 << 14, "norm_eps": 1e-5}
    (tmp_path / "params.json").write_text(json.dumps(params))
    torch.save({"layers.0.attention.wq.weight": torch.zeros(1, 32)}, tmp_path / "consolidated.00.pth")
    with pytest.raises(UserError, match=r"holds 1 of 268,435,456 parts: consolidated\.01\.pth and what follows it"):
        meta.open_folder(tmp_path)
    (tmp_path / "consolidated.999999999.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"lacks consolidated\.01\.pth, but has consolidated\.999999999\.pth"):
        meta.open_folder(tmp_path)
    (tmp_path / "consolidated.999999999.pth").unlink()
    torch.save({"layers.0.attention.wq.weight": torch.zeros(())}, tmp_path / "consolidated.00.pth")
    with pytest.raises(UserError, match="and should be a matrix"):
        meta.open_folder(tmp_path)
