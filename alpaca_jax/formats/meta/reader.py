"""Reads the files that Meta (and Mistral) publish: params.json, and weights in one file or one for each model-parallel rank."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pickled, safetensors
from alpaca_jax.formats.dtypes import numpy_dtype, widest
from alpaca_jax.formats.meta import params as meta_params
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, whole
from alpaca_jax.formats.tensors import StoredTensor, Tensors, abbreviated
from alpaca_jax.tokenizer import Tokenizer, tiktoken

EMBED, HEAD = "tok_embeddings.weight", "output.weight"
# How fairscale splits a matrix between ranks. Every part has all norms, and RoPE's frequencies, which are not read.
BY_ROWS = re.compile(r"layers\.\d+\.(attention\.w[qkv]|feed_forward\.w[13])\.weight|output\.weight")
BY_COLUMNS = re.compile(r"layers\.\d+\.(attention\.wo|feed_forward\.w2)\.weight")
PART = re.compile(r"consolidated\.([0-9]{2,9})\.pth")
_ROWS = 1 << 12  # rows of a table that are compared at a time


class Joined(NamedTuple):
    """A tensor that is the concatenation of its `parts` along `axis`."""

    parts: tuple[Any, ...]
    axis: int
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


def open_folder(folder: Path, tokenizer: Tokenizer | None = None, max_positions: int | None = None) -> Pretrained:
    """Returns the model in a folder (with `tokenizer` where it has none); a UserError where a part is missing or does not fit.

    `notes` say what params.json leaves out and was inferred, such as `max_positions` where it is not given.
    """
    params = meta_params.read(folder)
    files, load_part, headers = _parts(folder)
    _check_matrices(files, headers)
    _check_count(folder, headers, params)
    stored = _joined(folder, files, headers, params)

    def load(name: str, index: Index) -> np.ndarray:
        return _read(stored[name], index, load_part)

    tied = HEAD not in stored or _same(stored, load)
    architecture, inferred = meta_params.architecture(folder, params, _sizes(folder, stored), tied, max_positions)
    tensors = Tensors(folder, "meta", stored, load, interleaved=True)
    read = tensors.reader(architecture)
    tokenizer = _tokenizer(folder, tokenizer)
    ends = [tokenizer.backend.specials[token] for token in tiktoken.ENDS if token in tokenizer.backend.specials]
    return Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=read,
        eos_ids=tuple(dict.fromkeys((tokenizer.eos_id, *ends))),
        source=str(folder),
        files=tuple(files),
        format=f"{'Mistral' if architecture.family == 'mistral' else 'Meta'}'s own files ({files[0].suffix[1:]}, parts: {len(files)})",
        dtype=widest([tensor.dtype for tensor in stored.values()]),
        stored=stored,
        notes=(*inferred, *tensors.notes(architecture)),
    )


def _parts(folder: Path) -> tuple[list[Path], Callable[[Any, Index], np.ndarray], list[Mapping[str, StoredTensor]]]:
    """The files of weights in order, a function that reads a piece of a tensor, and the tensors of each file."""
    numbers = {int(match[1]): path for path in folder.glob("consolidated.*.pth") if (match := PART.fullmatch(path.name))}
    if numbers:
        files = [numbers[number] for number in sorted(numbers)]
        first_missing = next(number for number in range(len(numbers) + 1) if number not in numbers)
        if first_missing < max(numbers):
            raise UserError(f"{folder} lacks consolidated.{first_missing:02}.pth, but has {files[-1].name}; download all parts again")
        return files, pickled.read, [pickled.header(file) for file in files]
    if (folder / "consolidated.safetensors").is_file():
        file = folder / "consolidated.safetensors"
        return [file], safetensors.read, [safetensors.header(file)]
    raise UserError(
        f"{folder} holds params.json but no weights: neither consolidated.00.pth nor consolidated.safetensors; download it again"
    )


def _check_matrices(files: list[Path], headers: list[Mapping[str, StoredTensor]]) -> None:
    for file, header in zip(files, headers, strict=True):
        for name, tensor in header.items():
            matrix = name in (EMBED, HEAD) or BY_ROWS.fullmatch(name) or BY_COLUMNS.fullmatch(name)
            if matrix and (len(tensor.shape) != 2 or 0 in tensor.shape):
                raise UserError(f"{file}: {name} has the shape {list(tensor.shape)}, and should be a matrix; download it again")


def _check_count(folder: Path, headers: list[Mapping[str, StoredTensor]], params: Mapping[str, Any]) -> None:
    queries = headers[0].get("layers.0.attention.wq.weight")
    wanted = params["n_heads"] * meta_params.head_dim(params) // queries.shape[0] if queries is not None and queries.shape[0] else 1
    if len(headers) < wanted:
        missing = f"consolidated.{len(headers):02}.pth" + (" and what follows it" if wanted > len(headers) + 1 else "")
        raise UserError(f"{folder} holds {len(headers)} of {wanted:,} parts: {missing} is missing; download it again")


def _joined(folder: Path, files: list[Path], headers: list[Mapping[str, StoredTensor]], params: Mapping[str, Any]) -> dict[str, Joined]:
    first = headers[0]
    problems = []
    for file, header in zip(files[1:], headers[1:], strict=True):
        missing = abbreviated(name for name in first if name not in header)
        extra = abbreviated(name for name in header if name not in first)
        other = [name for name in first.keys() & header.keys() if (first[name].shape, first[name].dtype) != _kind(header[name])]
        problems += [f"{file.name} lacks {name}" for name in missing] + [f"{files[0].name} lacks {name} of {file.name}" for name in extra]
        problems += [
            f"{name} is {first[name].dtype} {list(first[name].shape)} in {files[0].name}, "
            f"{header[name].dtype} {list(header[name].shape)} in {file.name}"
            for name in sorted(other)
        ]
    if problems:
        text = "\n  ".join(problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else []))
        raise UserError(f"{folder}: its parts are not of one model; download it again:\n  {text}")
    return {name: _join(name, [header[name] for header in headers], params["dim"]) for name in first}


def _kind(tensor: StoredTensor) -> tuple[tuple[int, ...], str]:
    return tensor.shape, tensor.dtype


def _join(name: str, parts: list[StoredTensor], width: int) -> Joined:
    shape = parts[0].shape
    if name == EMBED:
        axis = 0 if shape[-1] == width else 1  # LLaMA 1 and 2 split the embedding by width, Llama 3 by vocabulary
    elif BY_ROWS.fullmatch(name) or BY_COLUMNS.fullmatch(name):
        axis = 0 if BY_ROWS.fullmatch(name) else 1
    else:
        return Joined((parts[0],), 0, shape, parts[0].dtype, parts[0].nbytes)
    whole_shape = tuple(size * len(parts) if number == axis else size for number, size in enumerate(shape))
    return Joined(tuple(parts), axis, whole_shape, parts[0].dtype, sum(part.nbytes for part in parts))


def _read(tensor: Joined, index: Index, load: Callable[[Any, Index], np.ndarray]) -> np.ndarray:
    """A piece of a joined tensor; reads only the parts that contain some of it."""
    if len(tensor.parts) == 1:
        return load(tensor.parts[0], index)
    index, axis = whole(index, tensor.shape), tensor.axis
    size, start, stop = tensor.parts[0].shape[axis], index[axis].start, index[axis].stop
    first = min(start // size, len(tensor.parts) - 1)
    last = max(-(-stop // size), first + 1)  # also for an empty piece
    joined = np.empty([part.stop - part.start for part in index], numpy_dtype(tensor.dtype))
    for number in range(first, last):
        local = slice(max(start - number * size, 0), min(stop - number * size, size))
        piece = load(tensor.parts[number], (*index[:axis], local, *index[axis + 1 :]))
        if last - first == 1:
            return piece
        offset = number * size - start
        joined[(slice(None),) * axis + (slice(local.start + offset, local.stop + offset),)] = piece
    return joined


def _sizes(folder: Path, stored: Mapping[str, Joined]) -> meta_params.Sizes:
    missing = [name for name in (EMBED, "layers.0.feed_forward.w1.weight") if name not in stored]
    if missing:
        raise UserError(f"{folder} holds no LLaMA: {' and '.join(missing)} is missing; download it again")
    rows, columns = (stored[name].shape[0] for name in (EMBED, "layers.0.feed_forward.w1.weight"))
    return meta_params.Sizes(rows, columns)


def _same(stored: Mapping[str, Joined], load: Callable[[str, Index], np.ndarray]) -> bool:
    """Whether the output equals the embedding, as in Llama 3.2; otherwise the first rows differ already."""
    rows = stored[HEAD].shape[0]
    if EMBED not in stored or stored[EMBED].shape != stored[HEAD].shape:
        return False
    blocks = ((slice(start, min(start + _ROWS, rows)),) for start in range(0, rows, _ROWS))
    return all(np.array_equal(load(EMBED, block), load(HEAD, block)) for block in blocks)


def _tokenizer(folder: Path, given: Tokenizer | None) -> Tokenizer:
    """The tokenizer in the folder or beside it (as in downloads of LLaMA 1), otherwise the given one."""
    for place in (folder, folder.parent):
        if (place / "tokenizer.json").is_file():
            return Tokenizer.load(place)
        for file in sorted(place.glob("tokenizer.model*")):  # Mistral's have a version: tokenizer.model.v3
            return Tokenizer.load(file)
    if given is None:
        raise UserError(f"{folder} holds no tokenizer.model, nor does {folder.parent}; give model.tokenizer=FOLDER_OR_FILE")
    return given
