"""Writes a GGUF file in the layout of llama.cpp's own converter: header and tokenizer, then the weights, one layer at a time.

The place of every tensor is known before a weight is read, so an export that was killed continues after the last whole tensor.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT
from gguf.quants import quantize
from gguf.utility import size_label

from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import contiguous, finite
from alpaca_jax.formats.gguf import header as gguf_header
from alpaca_jax.formats.gguf import rope as gguf_rope
from alpaca_jax.formats.gguf import vocabulary as gguf_vocabulary
from alpaca_jax.formats.gguf.reader import PLAIN, RECEIPT
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Weight, weights
from alpaca_jax.formats.writing import Partial, explained, read_ahead
from alpaca_jax.model.architecture import Architecture

Dtype = Literal["float32", "float16", "bfloat16", "q8_0"]
Progress = Callable[[str], None]
KINDS = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
_PIECE = 1 << 24  # values of a table that are read and written at a time
_FILE = "model.gguf"  # its name in the partial folder


class TensorInfo(NamedTuple):
    """A tensor of the output: its shape as in the other formats, the name of its dtype (float32, Q8_0, ...) and its bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


class _Source(NamedTuple):
    """The origin of a tensor: a weight of ours (one layer of it) or, without a weight, RoPE's factors."""

    tensor: TensorInfo
    kind: GGMLQuantizationType
    weight: Weight | None = None
    layer: int = 0

    @property
    def padded_bytes(self) -> int:
        """Its bytes, including the padding after it."""
        return _padded(self.tensor.nbytes)


def listing(model: Pretrained, dtype: Dtype) -> list[TensorInfo]:
    """Returns the tensors that an export writes, in order; a UserError where llama.cpp doesn't support the model."""
    gguf_header.keys(model.architecture)
    return [source.tensor for source in _sources(model.architecture, dtype)]


def size(model: Pretrained, dtype: Dtype, name: str | None = None) -> int:
    """Returns the number of bytes of an export; a UserError where GGUF doesn't support the model or tokenizer."""
    sources = _sources(model.architecture, dtype)
    return len(_header(model, sources, dtype, name)) + sum(source.padded_bytes for source in sources)


def export(
    path: Path,
    model: Pretrained,
    dtype: Dtype,
    name: str | None = None,
    plan: Mapping[str, Any] = MappingProxyType({}),
    progress: Progress = lambda name: None,
) -> None:
    """Writes the file `path`: weights in `dtype`, one-dimensional ones in float32; `name` is for display (default: the source's).

    The file appears whole or not at all; a killed export with the same `plan` is continued. Calls `progress(name)` after each tensor.
    A UserError where a weight is not finite in `dtype`, the disk has no room, or llama.cpp doesn't support the model or tokenizer.
    """
    sources = _sources(model.architecture, dtype)
    header = _header(model, sources, dtype, name, plan)
    whole = {"dtype": dtype, "header": hashlib.sha256(header).hexdigest()}
    partial = Partial(path, whole, len(header) + sum(source.padded_bytes for source in sources))
    try:
        with explained(path), (partial.folder / _FILE).open("ab") as file:
            for source, piece, last in read_ahead(_pieces(_rest(file, header, sources, progress), model)):
                file.write(piece.reshape(-1).view(np.uint8).data)
                if last:
                    file.write(bytes(source.padded_bytes - source.tensor.nbytes))
                    progress(source.tensor.name)
            file.flush()
            os.fsync(file.fileno())
        partial.finish(_FILE)
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            partial.discard()
        raise


def _sources(architecture: Architecture, dtype: Dtype) -> list[_Source]:
    sources = []
    if (factors := gguf_rope.factors(architecture)) is not None:
        sources.append(_source(gguf_rope.FACTORS, factors.shape, dtype))
    for weight in weights(architecture).values():
        sources += [_source(name, shape, dtype, weight, layer) for layer, (name, shape) in enumerate(weight.tensors("gguf"))]
    return sources


def _source(name: str, shape: tuple[int, ...], dtype: Dtype, weight: Weight | None = None, layer: int = 0) -> _Source:
    # As in llama.cpp's converter: norms and biases stay float32; rows that are not a whole number of blocks become float16.
    kind = KINDS[dtype][0] if len(shape) > 1 else GGMLQuantizationType.F32
    kind = kind if shape[-1] % GGML_QUANT_SIZES[kind][0] == 0 else GGMLQuantizationType.F16
    block, nbytes = GGML_QUANT_SIZES[kind]
    dtype_name = PLAIN[kind].name if kind in PLAIN else kind.name
    return _Source(TensorInfo(name, shape, dtype_name, math.prod(shape) // block * nbytes), kind, weight, layer)


def _header(
    model: Pretrained, sources: list[_Source], dtype: Dtype, name: str | None, plan: Mapping[str, Any] = MappingProxyType({})
) -> bytes:
    """Everything before the first tensor."""
    architecture = model.architecture
    fields: dict[str, Any] = {
        "general.type": "model",
        "general.name": name or Path(model.source).name.removesuffix(".gguf"),
        "general.size_label": size_label(architecture.num_parameters, 0, 0, 0),
        "general.file_type": int(KINDS[dtype][1]),
        "general.quantization_version": GGML_QUANT_VERSION,
        **gguf_header.keys(architecture),
        **gguf_vocabulary.keys(model.tokenizer, architecture.vocab_size, model.eos_ids),
    }
    if plan:
        fields[RECEIPT] = json.dumps(dict(plan), ensure_ascii=False)
    writer = GGUFWriter(None, gguf_header.name(architecture))
    for key, value in fields.items():
        _adder(writer, value)(key, value)
    for source in sources:
        # The kind decides; the dtype may be any but bytes, whose shape the writer takes for that of blocks.
        writer.add_tensor_info(source.tensor.name, source.tensor.shape, np.dtype(np.float32), source.tensor.nbytes, source.kind)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "header"
        writer.write_header_to_file(file)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        header = file.read_bytes()
    return header + bytes(_padded(len(header)) - len(header))


def _adder(writer: GGUFWriter, value: Any) -> Callable[[str, Any], None]:
    match value:
        case bool():
            return writer.add_bool
        case int():
            return writer.add_uint32
        case float():
            return writer.add_float32
        case str():
            return writer.add_string
    return writer.add_array


def _padded(size: int) -> int:
    return GGUFWriter.ggml_pad(size, GGUF_DEFAULT_ALIGNMENT)


def _rest(file: BinaryIO, header: bytes, sources: list[_Source], progress: Progress) -> list[_Source]:
    """Truncates `file` after its last whole tensor, and returns the tensors still to be written."""
    written, end = file.tell(), len(header)
    if written < end:
        file.truncate(0)
        file.write(header)
        written = end
    done = 0
    while done < len(sources) and end + sources[done].padded_bytes <= written:
        end += sources[done].padded_bytes
        progress(sources[done].tensor.name)
        done += 1
    file.flush()
    file.truncate(end)
    return sources[done:]


def _pieces(sources: list[_Source], model: Pretrained) -> Iterator[tuple[_Source, np.ndarray, bool]]:
    """Yields each tensor in the layout of the file, tables in pieces of rows, and whether the piece is the tensor's last."""
    interleaved = gguf_header.name(model.architecture) in gguf_header.INTERLEAVED
    for source in sources:
        if source.weight is None:
            factors = gguf_rope.factors(model.architecture)
            assert factors is not None
            yield source, factors, True
            continue
        name, indices = source.weight.name, _indices(source)
        for number, index in enumerate(indices, start=1):
            ours = model.read(name.path, index)
            theirs = name.to_theirs(ours[0] if name.stacked else ours, interleaved)
            yield source, _encoded(contiguous(theirs, theirs.dtype), source, model.source), number == len(indices)


def _indices(source: _Source) -> list[tuple[slice, ...]]:
    assert source.weight is not None
    if source.weight.name.stacked:
        return [(slice(source.layer, source.layer + 1),)]
    shape = source.tensor.shape
    rows = max(1, _PIECE // math.prod(shape[1:]))
    return [(slice(start, min(start + rows, shape[0])),) for start in range(0, shape[0], rows)]


def _encoded(theirs: np.ndarray, source: _Source, where: str) -> np.ndarray:
    """The bytes of (some rows of) a tensor; a UserError where they can't represent its values."""
    if not finite(theirs):
        raise UserError(f"{where}: {source.tensor.name} holds NaN or infinities; give an earlier checkpoint, or download the model again")
    with np.errstate(over="ignore"):  # the error below names the tensor
        if source.kind in PLAIN:
            encoded = theirs.astype(PLAIN[source.kind], copy=False)
            fits = finite(encoded)
        else:
            rows = theirs.astype(np.float32, copy=False)
            encoded = quantize(rows, source.kind)
            fits = finite(encoded.reshape(-1, GGML_QUANT_SIZES[source.kind][1])[:, :2].copy().view(np.float16))  # the scales of the blocks
    if not fits:
        raise UserError(f"{where}: {source.tensor.name} has values that are too large for {source.tensor.dtype}; give dtype=float32")
    return encoded
