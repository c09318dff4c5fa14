"""Reads a GGUF file, quantised or not: architecture, weights, tokenizer and chat template."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import widest
from alpaca_jax.formats.files import WeightFile
from alpaca_jax.formats.gguf import header as gguf_header
from alpaca_jax.formats.gguf import rope as gguf_rope
from alpaca_jax.formats.gguf import tokenizer as gguf_tokenizer
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, whole
from alpaca_jax.formats.tensors import Tensors
from alpaca_jax.tokenizer import Tokenizer

PLAIN = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
RECEIPT = "alpaca_jax.conversion"  # the header key for the plan of an export of ours
_PIECE = 1 << 18  # values that are dequantised at a time; the gguf package makes several copies of them, which should fit a cache


class GGUFTensor(NamedTuple):
    """A tensor and its `offset` in bytes from the beginning of the file."""

    offset: int
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    nbytes: int

    @property
    def dtype(self) -> str:
        """bfloat16, Q8_0, ..."""
        return PLAIN[self.kind].name if self.kind in PLAIN else self.kind.name


def open_file(path: Path, tokenizer: Tokenizer | None = None) -> Pretrained:
    """Returns the model in a GGUF file (with `tokenizer` where it has none); a UserError where it is damaged or unsupported.

    Quantised weights are read as float32.
    """
    header, stored = _parts(path)
    _check_kinds(path, stored)
    file = WeightFile(path)
    load = lambda name, index: read(file, stored[name], index)  # noqa: E731
    try:
        divisors = load(gguf_rope.FACTORS, ()).astype(np.float32) if gguf_rope.FACTORS in stored else None
        architecture = gguf_header.architecture(header, stored, divisors)
        if tokenizer is None or "tokenizer.ggml.tokens" in header:
            tokenizer = gguf_tokenizer.build(header)
    except KeyError as error:
        raise UserError(f"{path}: its header lacks {error.args[0]}; download it again, or give another model.source") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{path}: its header is invalid ({error}); download it again") from error
    tensors = Tensors(path, "gguf", stored, load, header["general.architecture"] in gguf_header.INTERLEAVED)
    return Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=tensors.reader(architecture),
        eos_ids=gguf_tokenizer.eos_ids(header, tokenizer),
        source=str(path),
        files=(path,),
        format=f"GGUF ({_most(stored)})",
        dtype=widest([tensor.dtype for tensor in stored.values()]),
        stored=stored,
        notes=tensors.notes(architecture),
    )


def receipt(path: Path) -> Any:
    """Returns the `plan` of an export of ours; None for any other file."""
    try:
        return json.loads(_parts(path)[0][RECEIPT])
    except (UserError, KeyError, OSError):
        return None


def read(file: WeightFile, tensor: GGUFTensor, index: Index = ()) -> np.ndarray:
    """Returns the piece `index` of a tensor, as float32 where it is quantised; reads only its rows, some at a time."""
    shape = (1, *tensor.shape)[-2:]  # one dimension is one row
    rows, columns = whole(index if len(tensor.shape) == 2 else (slice(None), *index), shape)
    plain = PLAIN.get(tensor.kind)
    piece = np.empty((rows.stop - rows.start, columns.stop - columns.start), plain or np.float32)
    row, first = tensor.nbytes // shape[0], tensor.offset + rows.start * (tensor.nbytes // shape[0])
    if plain is not None and piece.shape[1] == shape[1]:
        file.fill(first, piece)
    else:
        step = max(1, _PIECE // shape[1])
        for start in range(0, len(piece), step):
            block = piece[start : start + step]
            raw = file.read(first + start * row, (len(block), row), np.dtype(np.uint8))
            block[:] = (raw.view(plain) if plain is not None else _dequantized(raw, tensor.kind))[:, columns]
    return piece if len(tensor.shape) == 2 else piece[0]


def _dequantized(raw: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    # As a single row: the package processes 16 rows at a time, which is slow for short rows.
    return dequantize(raw.reshape(1, -1), kind).reshape(len(raw), -1)


def _parts(path: Path) -> tuple[dict[str, Any], dict[str, GGUFTensor]]:
    """The header and the places of the tensors. Nothing of the file stays mapped: touched pages of a map count as memory."""
    try:
        reader = _Reader(path)
        header = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole GGUF file ({error}); download it again") from error
    return header, {
        tensor.name: GGUFTensor(
            int(tensor.data_offset), tuple(int(size) for size in reversed(tensor.shape)), tensor.tensor_type, int(tensor.n_bytes)
        )
        for tensor in reader.tensors
    }


class _Reader(GGUFReader):
    """The reader of the `gguf` package, ten times as fast, and strict about the file's end.

    It slices plain arrays instead of a memmap, and reads the values of an array, such as a vocabulary, at once instead of one by one.
    """

    @property  # type: ignore[override]
    def data(self) -> np.ndarray:
        return self._data

    @data.setter
    def data(self, mapped: np.memmap) -> None:
        self._data = mapped.view(np.ndarray)

    def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> np.ndarray:
        dtype = np.dtype(dtype)
        end = int(offset) + dtype.itemsize * int(count)
        self._check_end(end)
        return self._data[int(offset) : end].view(dtype)

    def _check_end(self, end: int) -> None:
        if end > self._data.size:  # a slice would be too short: garbage for a tensor, an endless loop for an array
            raise ValueError(f"it ends at byte {self._data.size:,}, and its header points to byte {end:,}")

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, count, start = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64), orig_offs + 12
        types = [GGUFValueType.ARRAY, GGUFValueType(kind[0])]
        if (number := self.gguf_scalar_to_np.get(types[1])) is not None:
            values = self._get(start, number, count[0])
            return 12 + values.nbytes, [kind, count, values], [2], types
        if types[1] != GGUFValueType.STRING:
            return super()._get_field_parts(orig_offs, raw_type)
        content, end = self._data.data, start
        texts = []
        for _ in range(count[0]):
            self._check_end(end + 8)
            first = end + 8
            end = first + int.from_bytes(content[end:first], "little")
            self._check_end(end)
            texts.append(content[first:end])
        return end - orig_offs, [kind, count, *texts], list(range(2, 2 + len(texts))), types


def _check_kinds(path: Path, stored: Mapping[str, GGUFTensor]) -> None:
    for kind in {tensor.kind for tensor in stored.values()} - set(PLAIN):
        try:
            with np.errstate(all="ignore"):
                dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError as error:
            name = next(name for name, tensor in stored.items() if tensor.kind == kind)
            raise UserError(
                f"{path}: {name} is stored as {kind.name}, which the gguf package can't read; give a file of another quantisation"
            ) from error


def _most(stored: Mapping[str, GGUFTensor]) -> str:
    """The type of most values."""
    counts: dict[str, int] = {}
    for tensor in stored.values():
        counts[tensor.kind.name] = counts.get(tensor.kind.name, 0) + int(np.prod(tensor.shape))
    return max(counts, key=lambda kind: counts[kind]) if counts else "no tensors"
