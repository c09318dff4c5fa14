"""SmolLM2's own file against `transformers`, small GGUF files written by the `gguf` package, and files that aren't what they should be."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.formats import names, pretrained
from alpaca_jax.formats.files import WeightFile
from alpaca_jax.formats.gguf import header as gguf_header
from alpaca_jax.formats.gguf import layout, reader
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture

PROMPTS = (
    "The capital of France is",
    "def fibonacci(n):\n    ",
    "In 1969, 2 men walked on",
    "Übermut tut selten gut, 你好",
    "<|im_start|>user\nGive three tips for staying healthy.<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def smol(smollm2: Path) -> Iterator[tuple[pretrained.Pretrained, dict[str, Any], Any]]:
    """SmolLM2 opened here, its params, and a jitted function from tokens [1, T] to logits [1, T, V]."""
    yield opened(smollm2)
    jax.clear_caches()


def opened(file: Path) -> tuple[pretrained.Pretrained, dict[str, Any], Any]:
    model = pretrained.open(file)
    params = pretrained.load_params(model)

    @jax.jit
    def logits(params: dict[str, Any], tokens_BT: jax.Array) -> jax.Array:
        segments_BT = jax.numpy.ones_like(tokens_BT)
        positions_BT = jax.numpy.arange(tokens_BT.shape[1], dtype=np.int32)[None]
        return llama.logits(params, llama.forward(model.architecture, params, tokens_BT, segments_BT, positions_BT))

    return model, params, logits


LAYERS = 4  # of SmolLM2's 30, where transformers has to read the file: it takes as long for each


def shortened(source: Path, target: Path) -> Path:
    """A copy of a GGUF file with its first LAYERS layers: the same header, the same quantized tensors."""
    whole = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, whole.fields["general.architecture"].contents())
    for name, field in whole.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = LAYERS if name.endswith(".block_count") else field.contents()
            writer.add_key_value(name, value, field.types[0], field.types[-1] if len(field.types) > 1 else None)
    for tensor in whole.tensors:
        kind, number, *_ = tensor.name.split(".")
        if kind != "blk" or int(number) < LAYERS:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.prove
@pytest.mark.filterwarnings("ignore")  # of torch and transformers
def test_logits_and_greedy_tokens_equal_transformers(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_against_transformers(shortened(smollm2, tmp_path / "short.gguf"), monkeypatch)


@pytest.mark.prove
@pytest.mark.filterwarnings("ignore")
def test_logits_and_greedy_tokens_of_all_layers_equal_transformers(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_against_transformers(smollm2, monkeypatch)


def check_against_transformers(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, params, logits = opened(file)
    for name in ("get_tensor_name_map", "GGUFReader"):  # transformers makes one for each module, and reads the header twice
        monkeypatch.setattr(gguf, name, functools.cache(getattr(gguf, name)))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    prompts = [model.tokenizer.encode(prompt, special=True) for prompt in PROMPTS]
    width = max(map(len, prompts))
    left_padded = torch.tensor([[2] * (width - len(ids)) + ids for ids in prompts])
    # Without a mask `generate` guesses one, and hides every <|im_end|>, since it is the padding as well.
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    settings = {"max_new_tokens": 32, "min_new_tokens": 32, "do_sample": False, "eos_token_id": None}
    answers = theirs.generate(left_padded, attention_mask=mask, **settings)[:, width:].tolist()
    worst = 0.0
    for ids, answer in zip(prompts, answers, strict=True):
        tokens = np.zeros((1, width + 32), np.int32)  # all prompts at one length, so that ours compiles once
        tokens[0, : len(ids) + 32] = ids + answer
        with torch.no_grad():
            expected = theirs(torch.tensor([ids + answer])).logits.numpy()[0]
        ours = np.asarray(logits(params, tokens))[0, : len(expected)]
        worst = max(worst, float(np.abs(ours - expected).max()))
        # Greedy tokens are the same where each one is our choice too behind those before it.
        assert ours[len(ids) - 1 : -1].argmax(-1).tolist() == answer
    print(f"largest difference of a logit: {worst:.2e}")
    assert worst < 2e-3


def test_smollm2_is_what_its_header_says(smol: Any) -> None:
    model, params, _ = smol
    sizes = {"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_layers": 30, "num_heads": 9, "num_kv_heads": 3}
    rest = {"head_dim": 64, "rope_theta": 100000.0, "norm_eps": 1e-5, "max_positions": 8192, "tie_embeddings": True}
    assert model.architecture == Architecture(**sizes, **rest)
    assert sum(weight.size for weight in jax.tree.leaves(params)) == model.architecture.num_parameters == 134_515_008
    assert model.eos_ids == (2,)
    assert (model.tokenizer.bos_id, model.tokenizer.eos_id, model.tokenizer.pad_id, model.tokenizer.adds_bos) == (1, 2, 2, False)


# --- small files ----------------------------------------------------------------------------------------------------------------------

SIZES = Architecture(
    vocab_size=40, hidden_size=64, intermediate_size=96, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, max_positions=64
)
BYTES = ["!", '"', "a", "b", "Ġ", "ab"]


def _write(path: Path, drop: tuple[str, ...] = (), quantised: bool = False, **changes: Any) -> dict[tuple[str, ...], np.ndarray]:
    """Writes a tiny GGUF with random weights and returns them in our layout."""
    a = SIZES
    header = {
        "llama.context_length": a.max_positions,
        "llama.embedding_length": a.hidden_size,
        "llama.block_count": a.num_layers,
        "llama.feed_forward_length": a.intermediate_size,
        "llama.attention.head_count": a.num_heads,
        "llama.attention.head_count_kv": a.num_kv_heads,
        **{key.replace("__", "."): value for key, value in changes.items() if key not in ("architecture", "pre")},
    }
    writer = gguf.GGUFWriter(path, changes.get("architecture", "llama"))
    for key, value in header.items():
        writer.add_uint32(key, value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(["<s>", "</s>", *BYTES, *(f"<unused{n}>" for n in range(a.vocab_size - len(BYTES) - 2))])
    writer.add_token_types([3, 3] + [1] * (a.vocab_size - 2))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    generator, held = np.random.default_rng(0), {}
    for path_, weight in names.weights(a).items():
        ours = generator.normal(size=weight.shape).astype(np.float32)
        held[path_] = ours
        for (name, _), layer in zip(weight.tensors("gguf"), ours if weight.name.stacked else ours[None], strict=True):
            tensor = weight.name.to_theirs(layer)
            if "attn_q" in name or "attn_k" in name:  # as llama.cpp's converter does it
                heads = a.num_heads if "attn_q" in name else a.num_kv_heads
                tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
            if name in drop:
                continue
            if quantised and tensor.ndim == 2:
                kind = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(tensor), kind), raw_dtype=kind)
            else:
                writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def test_weights_of_a_small_file(tmp_path: Path) -> None:
    held = _write(tmp_path / "tiny.gguf")
    model = pretrained.open(tmp_path / "tiny.gguf")
    assert model.architecture == SIZES
    for path, weight in held.items():
        np.testing.assert_array_equal(model.read(path), weight, err_msg=str(path))
    _write(tmp_path / "quantised.gguf", quantised=True)
    np.testing.assert_allclose(pretrained.open(tmp_path / "quantised.gguf").read(("head", "weight")), held["head", "weight"], atol=0.03)


def test_a_file_without_output_weights_is_tied(tmp_path: Path) -> None:
    _write(tmp_path / "tied.gguf", drop=("output.weight",))
    assert pretrained.open(tmp_path / "tied.gguf").architecture.tie_embeddings


@pytest.mark.parametrize("kind", sorted(set(gguf.GGMLQuantizationType) & set(gguf.quants._type_traits), key=lambda kind: kind.name))
def test_every_quantisation_that_the_gguf_package_reads(kind: gguf.GGMLQuantizationType, tmp_path: Path) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 255, (6, 2 * size), np.uint8)
    (tmp_path / "weights").write_bytes(b"before" + raw.tobytes())
    stored = reader.GGUFTensor(6, (6, 2 * block), kind, raw.nbytes)
    with np.errstate(all="ignore"):  # random bits make NaN and infinities, too
        whole = gguf.quants.dequantize(raw, kind)
        for index in ((), (slice(2, 4),), (slice(1, 2), slice(3, block + 5))):
            np.testing.assert_array_equal(reader.read(WeightFile(tmp_path / "weights"), stored, index), whole[index])


def test_a_kind_that_is_not_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "llama")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((2, 2)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"blk\.0\.attn_q\.weight is stored as F64"):
        pretrained.open(tmp_path / "other.gguf")


def test_nothing_stays_mapped(tmp_path: Path) -> None:
    _write(tmp_path / "tiny.gguf")
    model = pretrained.open(tmp_path / "tiny.gguf")
    assert model.read(("norm", "scale")).shape == (64,)
    assert "tiny.gguf" not in Path("/proc/self/maps").read_text()


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = tmp_path / "whole.gguf"
    _write(whole)
    content = whole.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 3000, 97), len(content) // 2, len(content) - 1]:
        cut.write_bytes(content[:size])
        with pytest.raises(UserError, match=r"cut\.gguf is not a whole GGUF file"):
            pretrained.open(cut)


def test_a_header_that_lies(tmp_path: Path) -> None:
    file = tmp_path / "lying.gguf"
    _write(file)
    content = bytearray(file.read_bytes())
    for offset, count in ((8, 1 << 50), (16, 1 << 50), (16, 3), (24, 1 << 60)):  # tensors, keys, the length of the first key
        changed = content.copy()
        changed[offset : offset + 8] = count.to_bytes(8, "little")
        file.write_bytes(changed)
        with pytest.raises(UserError, match=r"lying\.gguf"):
            pretrained.open(file)
    file.write_bytes(b"PK\x03\x04" + content)
    with pytest.raises(UserError, match="is not a whole GGUF file"):
        pretrained.open(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "gemma2"}, "the architecture 'gemma2'; only llama, qwen2, qwen3 and smollm3"),
        ({"llama__expert_count": 8}, "mixture of experts"),
        ({"llama__attention__head_count": 0}, r"llama\.attention\.head_count is 0, and should be at least 1"),
        ({"llama__attention__head_count_kv": 3}, "must be a multiple"),
        ({"split__count": 3}, "one of 3 parts of a split file: join them with"),
        ({"split__count": 3, "split__no": 1}, "part 2 of 3 of a split file: join them with"),
        ({"llama__block_count": 10**8}, r"llama\.block_count is 100,000,000, and should be at most 2,000"),
        ({"llama__context_length": 0}, r"llama\.context_length is 0"),
        ({"llama__attention__key_length": 0}, r"head_dim=0: .*\n.*head_dim is llama\.attention\.key_length there"),
        ({"tokenizer__ggml__padding_token_id": 40}, r"padding_token_id is 40, and should be one of the 40 tokens"),
        ({"llama__block_count": 3}, r"missing:\n +blk\.2\.attn_norm"),
        ({"llama__block_count": 1}, r"not part of a llama model of these sizes:\n +blk\.1\.attn_norm"),
        ({"llama__feed_forward_length": 100}, "of another size"),
        ({"drop": ("blk.1.ffn_up.weight", "output_norm.weight")}, r"missing:\n +blk\.1\.ffn_up\.weight\n +output_norm\.weight"),
        ({"pre": "tekken"}, "its pre-tokenizer is 'tekken'"),
        ({"llama__rope__dimension_count": 8}, "a part of each head"),
        ({"llama__attention__value_length": 8}, "values and keys differ in size"),
        ({"llama__attention__sliding_window": 8, "llama__attention__sliding_window_pattern": 2}, "one entry for each layer"),
    ],
)
def test_another_model(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    _write(tmp_path / "other.gguf", **changes)
    with pytest.raises(UserError, match=message):
        pretrained.open(tmp_path / "other.gguf")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -2.0, 0.5, 1e9])
@pytest.mark.parametrize("key", ["rope.scaling.factor", "rope.freq_base", "attention.layer_norm_rms_epsilon"])
def test_numbers_of_the_header_have_their_ranges(key: str, value: float, tmp_path: Path) -> None:
    if (key, value) in {("rope.freq_base", 1e9), ("attention.layer_norm_rms_epsilon", 0.5)}:
        return
    _write(tmp_path / "whole.gguf")
    header, stored = layout.parts(tmp_path / "whole.gguf")
    header |= {"llama.rope.scaling.type": "linear", f"llama.{key}": value}
    with pytest.raises(UserError, match=r"factor|rope\.freq_base|layer_norm_rms_epsilon"):
        gguf_header.architecture(header, stored, None)
