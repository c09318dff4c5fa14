"""Reads a GGUF file, quantised or not: a LLaMA's sizes, weights, tokenizer and chat template."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from alpaca_jax.config import parse
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.formats import gguf_tokenizer
from alpaca_jax.formats.tensors import Read, Tensors
from alpaca_jax.model.architecture import Architecture


@dataclasses.dataclass(frozen=True)
class GGUF:
    """An open GGUF file; `read` dequantises one stacked weight as it is asked for."""

    architecture: Architecture
    tokenizer: Tokenizer
    eos_ids: tuple[int, ...]
    read: Read


def open(path: Path) -> GGUF:
    """Returns the LLaMA in a GGUF file; a UserError where it is truncated, damaged or of another architecture."""
    try:
        reader = _Reader(path)
        header = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}); fetch it again") from error
    try:
        architecture = _architecture(header, reader)
        tokenizer = gguf_tokenizer.build(header)
    except KeyError as error:
        raise UserError(f"{path}: its header lacks {error.args[0]}; fetch it again, or give another model.source") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{path}: its header makes no sense ({error}); fetch it again") from error
    return GGUF(architecture, tokenizer, _eos_ids(header, tokenizer), _tensors(path, reader, architecture).reader(architecture))


class _Reader(GGUFReader):
    """The reader of the `gguf` package, three times as fast (plain arrays instead of memmap slices) and strict about the file's end."""

    @property
    def data(self) -> np.ndarray:
        return self._data

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        self._data = mapped.view(np.ndarray)

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> np.ndarray:
        dtype = np.dtype(dtype)
        end = int(offset) + dtype.itemsize * int(count)
        if end > self._data.size:  # a slice would come back short: rubbish for a tensor, an endless loop for an array
            raise ValueError(f"it ends at byte {self._data.size:,}, and its header points to byte {end:,}")
        return self._data[int(offset) : end].view(dtype)


def _architecture(header: dict[str, Any], reader: GGUFReader) -> Architecture:
    family = header["general.architecture"]
    if family != "llama":
        raise UserError(f"a model of the architecture {family!r}; only llama is read")
    if header.get("llama.expert_count"):
        raise UserError("a mixture of experts; only dense LLaMA models are read")
    if header.get("llama.rope.scaling.type", "none") != "none" or any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        raise UserError("its RoPE frequencies are scaled, which is not supported; give a model with plain RoPE")
    heads, width = header["llama.attention.head_count"], header["llama.embedding_length"]
    head_dim = header.get("llama.attention.key_length", width // heads)
    if header.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise UserError("RoPE turns only a part of each head, which is not supported; give another model.source")
    sizes = {
        "vocab_size": header.get("llama.vocab_size", len(header["tokenizer.ggml.tokens"])),
        "hidden_size": width,
        "intermediate_size": header["llama.feed_forward_length"],
        "num_layers": header["llama.block_count"],
        "num_heads": heads,
        "num_kv_heads": header.get("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rope_theta": _exact(header.get("llama.rope.freq_base", 10000.0)),
        "norm_eps": _exact(header["llama.attention.layer_norm_rms_epsilon"]),
        "max_positions": header["llama.context_length"],
        "tie_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
    }
    return parse(Architecture, sizes)


def _exact(value: float) -> float:
    """The decimal number that was meant by a float32: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _eos_ids(header: dict[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    turn = header.get("tokenizer.ggml.eot_token_id", tokenizer.eos_id)
    return tuple(dict.fromkeys((tokenizer.eos_id, turn)))


def _tensors(path: Path, reader: GGUFReader, architecture: Architecture) -> Tensors:
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def load(name: str) -> np.ndarray:
        tensor = tensors[name]
        try:
            weight = dequantize(tensor.data, tensor.tensor_type)
        except NotImplementedError as error:
            raise UserError(f"{path}: {name} is stored as {tensor.tensor_type.name}, which the gguf package can't read") from error
        if name.endswith("attn_q.weight"):
            return _unpermuted(weight, architecture.num_heads)
        return _unpermuted(weight, architecture.num_kv_heads) if name.endswith("attn_k.weight") else weight

    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    return Tensors(path, "gguf", shapes, load)


def _unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    # GGUF interleaves the two halves of each head's rows that RoPE turns together; Hugging Face and we keep the halves whole.
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
