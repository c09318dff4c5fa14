"""Reads a GGUF file, quantised or not: architecture, weights, tokenizer and chat template."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.formats.dtypes import widest
from alpaca_jax.formats.files import WeightFile
from alpaca_jax.formats.gguf import header as gguf_header
from alpaca_jax.formats.gguf import layout
from alpaca_jax.formats.gguf import rope as gguf_rope
from alpaca_jax.formats.gguf import tokenizer as gguf_tokenizer
from alpaca_jax.formats.gguf.layout import PLAIN, GGUFTensor
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, whole
from alpaca_jax.formats.tensors import Tensors
from alpaca_jax.model.architecture import LARGEST
from alpaca_jax.tokenizer import Tokenizer

RECEIPT = "alpaca_jax.conversion"  # the header key for the plan of an export of ours
_PIECE = 1 << 18  # values that are dequantised at a time; the gguf package makes several copies of them, which should fit a cache


def open_file(path: Path, tokenizer: Tokenizer | None = None) -> Pretrained:
    """Returns the model in a GGUF file (with `tokenizer` where it has none); a UserError where it is damaged or unsupported.

    Quantised weights are read as float32.
    """
    header, stored = _parts(path)
    _check_kinds(path, stored)
    file = WeightFile(path)
    load = lambda name, index: read(file, stored[name], index)  # noqa: E731
    try:
        gguf_header.check(header)
        architecture = gguf_header.architecture(header, stored, _divisors(stored, load))
        if tokenizer is None or "tokenizer.ggml.tokens" in header:
            gguf_tokenizer.check(header, architecture.vocab_size)
            tokenizer = gguf_tokenizer.build(header)
    except KeyError as error:
        raise UserError(f"{path}: its header lacks {error.args[0]}; give another model.source") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # tokenizers raises bare Exceptions
        raise UserError(f"{path}: its header is invalid ({str(error)[:200]}); download it again") from error
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
        return documents.json_value(_parts(path)[0][RECEIPT])
    except (ValueError, KeyError, TypeError, AttributeError, OSError):  # a UserError is a ValueError
        return None


def _divisors(stored: Mapping[str, GGUFTensor], load: Any) -> np.ndarray | None:
    """RoPE's factors, one for each pair of dimensions of a head, so that a file's own claim decides nothing about their size."""
    if gguf_rope.FACTORS not in stored:
        return None
    shape, most = stored[gguf_rope.FACTORS].shape, LARGEST["head_dim"] // 2
    if len(shape) != 1 or shape[0] > most:
        raise UserError(f"{gguf_rope.FACTORS} has the shape {list(shape)}; it should be a list of at most {most:,} factors")
    return load(gguf_rope.FACTORS, ()).astype(np.float32)


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
    try:
        return layout.parts(path)
    except ValueError as error:
        reason = str(error)
        remedy = "" if reason.startswith("a big-endian") else "; download it again"
        raise UserError(f"{path} is {reason}" if not remedy else f"{path} is not a whole GGUF file ({reason}){remedy}") from error


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
