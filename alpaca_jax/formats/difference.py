"""Weight differences: a tuned model as what must be added to its base, for those who hold the base and may not hand it on.

As Stanford released Alpaca-7B, but exact: floats that are subtracted and added again don't come back as they were. So the bits of each
weight are taken as an unsigned integer of the same width, and what is stored is the difference of these, modulo 2**16 or 2**32. Adding it
to the base gives the tuned model bit for bit, in float32, bfloat16 and float16. Rows and tensors that the base lacks are stored as they
are. The shards have a name of their own: a program that took the integers for weights would load them without a word.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console

from alpaca_jax.errors import UserError
from alpaca_jax.formats import safetensors
from alpaca_jax.formats.dtypes import Dtype, contiguous, finite, numpy_dtype
from alpaca_jax.formats.huggingface import config as huggingface_config
from alpaca_jax.formats.huggingface.export import SHARD_BYTES, indices, listing, to_json
from alpaca_jax.formats.huggingface.export import export as export_folder
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights, whole
from alpaca_jax.formats.tensors import VOCABULARY, Read, Tensors, abbreviated
from alpaca_jax.rundir import read_json
from alpaca_jax.tokenizer import Tokenizer

FILE = "weight_difference.json"
STEM = "weight_difference"  # .safetensors, or -00001-of-00003.safetensors
VERSION = 1
BITS = {"float32": "uint32", "bfloat16": "uint16", "float16": "uint16"}
KEYS = {"base": {"source", "dtype", "sha256", "tensors"}, "result": {"sha256"}}


def base_of(folder: Path) -> str:
    """Returns what the base was called where the difference in `folder` was made; it need not be found here under that name."""
    return _manifest(folder)["base"]["source"]


def export(
    folder: Path,
    model: Pretrained,
    base: Pretrained,
    extra: Mapping[str, str] = MappingProxyType({}),
    progress: Callable[[str], None] = lambda name: None,
    dtype: Dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    plan: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes into `folder` what must be added to `base` to get `model` in `dtype` (default: as stored), and the settings of `model`.

    Both are read once before, for their sha256. `extra`, `progress`, `shard_bytes` and `plan` are those of `huggingface_export.export`.
    A UserError where the two have other sizes, or a weight is not finite in `dtype`.
    """
    dtype = dtype or model.dtype
    tensors = _shapes(base)
    _check_shapes(f"{base.source} is no base of {model.source}", model, tensors)
    added = dataclasses.replace(model, read=_difference(model, base, dtype))
    manifest = {
        "version": VERSION,
        "dtype": dtype,
        "stored": f"{BITS[dtype]}: the bits of the result minus those of the base, modulo 2**{8 * numpy_dtype(dtype).itemsize}",
        "base": {"source": _bare(base.source), "dtype": base.dtype, "sha256": digest(base, dtype), "tensors": tensors},
        "result": {"sha256": digest(model, dtype)},
    }
    files = {FILE: to_json(manifest), **extra}
    plan = {**plan, "base": manifest["base"]["sha256"], "result": manifest["result"]["sha256"]}
    export_folder(folder, added, dtype, files, progress, shard_bytes, plan, stem=STEM, stored=BITS[dtype])


def open(folder: Path, base: Pretrained) -> Pretrained:
    """Returns the model that the difference in `folder` makes of `base`; each piece is recovered when it is read.

    Before the first of them both are read through once: a UserError where `base` is another than the difference was made from, or the
    difference is damaged. Other sizes of the base are found at once.
    """
    manifest = _manifest(folder)
    architecture = huggingface_config.architecture(folder / "config.json")
    _check_base(folder, manifest, base)
    files = _files(folder)
    stored = {name: tensor for file in files for name, tensor in safetensors.header(file).items()}
    tensors = Tensors(folder, "huggingface", stored, lambda name, index: safetensors.read(stored[name], index))
    tokenizer = Tokenizer.load(folder)
    unchecked = Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=_recovered(architecture, tensors.reader(architecture), base, manifest["dtype"]),
        eos_ids=tuple(dict.fromkeys((tokenizer.eos_id, *huggingface_config.eos_ids(folder)))),
        source=str(folder),
        files=(folder / FILE, *files, *base.files),
        format=f"a difference to {_bare(base.source)}, {base.format}",
        dtype=manifest["dtype"],
        origin=base.source,
        stored=tensors.stored,
        notes=tensors.notes(architecture),
    )

    @functools.cache
    def check() -> None:
        Console(stderr=True).print(f"checking {base.source} and the difference in {folder}", highlight=False, soft_wrap=True)
        _check_digests(folder, manifest, base, unchecked)

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        check()
        return unchecked.read(path, index)

    return dataclasses.replace(unchecked, read=read)


def digest(model: Pretrained, dtype: Dtype) -> str:
    """Returns the sha256 (hex) over the names, shapes and bytes in `dtype` of the tensors of `model`, whatever files they lie in.

    The tensors are those of a Hugging Face folder, in the order and layout that `huggingface_export` gives them.
    """
    sha256 = hashlib.sha256()
    for tensor in listing(model.architecture, dtype):
        sha256.update(f"{tensor.name} {dtype} {list(tensor.shape)}\n".encode())
        name = tensor.weight.name
        for index in indices(tensor):
            ours = _cast(model.read(name.path, index), dtype)
            theirs = name.to_theirs(ours[0] if name.stacked else ours)
            theirs = contiguous(theirs, theirs.dtype)
            sha256.update(memoryview(theirs.view(np.uint8).reshape(-1)))
    return sha256.hexdigest()


def _cast(weight: np.ndarray, dtype: str) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinities are found where the difference is made
        return weight.astype(numpy_dtype(dtype), copy=False)


def _shapes(model: Pretrained) -> dict[str, list[int]]:
    return {tensor.name: list(tensor.shape) for tensor in listing(model.architecture, "float32")}


def _difference(model: Pretrained, base: Pretrained, dtype: Dtype) -> Read:
    under = _under(model.architecture, base, dtype)

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        tuned = _cast(model.read(path, index), dtype)
        if not finite(tuned):
            raise UserError(
                f"{model.source}: {'.'.join(path)} has values that are not finite in {dtype}; give a wider dtype, or an earlier checkpoint"
            )
        return tuned.view(BITS[dtype]) - under(path, index)

    return read


def _recovered(architecture: Any, added: Read, base: Pretrained, dtype: Dtype) -> Read:
    under = _under(architecture, base, dtype)

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        return (added(path, index) + under(path, index)).view(numpy_dtype(dtype))

    return read


def _under(architecture: Any, base: Pretrained, dtype: Dtype) -> Read:
    """Reads the bits of the base's weights by the indices of the tuned model's; zeros stand for what the base lacks."""
    tuned, held = weights(architecture), weights(base.architecture)

    def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
        first, *others = whole(index, tuned[path].shape)
        rows = held[path].shape[0] if path in held else 0
        start, stop = min(first.start, rows), min(first.stop, rows)
        count = first.stop - first.start
        if stop - start == count:
            return _cast(base.read(path, (first, *others)), dtype).view(BITS[dtype])
        bits = np.zeros((count, *(part.stop - part.start for part in others)), BITS[dtype])
        if start < stop:
            bits[: stop - start] = _cast(base.read(path, (slice(start, stop), *others)), dtype).view(BITS[dtype])
        return bits

    return read


def _manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / FILE)
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        found = manifest.get("version") if isinstance(manifest, dict) else None
        raise UserError(f"{folder / FILE} is of version {found}, and only {VERSION} is read: make the difference again, or fetch it again")
    complete = all(isinstance(manifest.get(key), dict) and keys <= manifest[key].keys() for key, keys in KEYS.items())
    if not complete or manifest.get("dtype") not in BITS:
        raise UserError(f"{folder / FILE} lacks dtype, base or result, which make a difference usable; fetch it again")
    return manifest


def _files(folder: Path) -> list[Path]:
    """The shards, by their own numbering."""
    found = sorted(folder.glob(f"{STEM}*.safetensors"))
    count = next((int(match[1]) for file in found if (match := re.search(r"-of-(\d+)\.safetensors$", file.name))), 1)
    if len(found) != count:
        raise UserError(f"{folder} has {len(found)} of the {count} files {STEM}*.safetensors; fetch it again")
    return found


def _check_shapes(what: str, model: Pretrained, base: Mapping[str, list[int]]) -> None:
    """A UserError naming each tensor of the model that the base has in another size."""
    wrong = [
        f"{tensor.name} has the shape {base[tensor.name]} there, {list(tensor.shape)} in the tuned model"
        for tensor in listing(model.architecture, "float32")
        if tensor.name in base and not _laid_over(tensor.weight.name.path, tensor.shape, tuple(base[tensor.name]))
    ]
    if wrong:
        raise UserError(f"{what}:\n  " + "\n  ".join(wrong[:8]) + ("\n  ..." if wrong[8:] else "") + "\ngive the base it was tuned from")


def _laid_over(path: tuple[str, ...], tuned: tuple[int, ...], base: tuple[int, ...]) -> bool:
    return tuned == base or (path in VOCABULARY and tuned[1:] == base[1:])


def _check_base(folder: Path, manifest: Mapping[str, Any], base: Pretrained) -> None:
    """A UserError where the base has other tensors than that which the difference was made from."""
    expected, found = manifest["base"]["tensors"], _shapes(base)
    if expected == found:
        return
    lines = [
        *(f"{name} has the shape {found[name]}, not {shape}" for name, shape in expected.items() if found.get(name, shape) != shape),
        *(f"{name} is missing" for name in abbreviated(name for name in expected if name not in found)),
        *(f"{name} is one too many" for name in abbreviated(name for name in found if name not in expected)),
    ]
    raise UserError(_another(folder, manifest, base) + ":\n  " + "\n  ".join(lines[:8]) + ("\n  ..." if lines[8:] else ""))


def _check_digests(folder: Path, manifest: Mapping[str, Any], base: Pretrained, recovered: Pretrained) -> None:
    dtype, expected = manifest["dtype"], manifest["base"]
    found = digest(base, dtype)
    if found != expected["sha256"]:
        stored = f" That one was stored as {expected['dtype']}, this one is {base.dtype}." if base.dtype != expected["dtype"] else ""
        raise UserError(
            f"{_another(folder, manifest, base)}: the sizes are the same, but the sha256 of its weights in {dtype} is {found[:16]}..., "
            f"not {expected['sha256'][:16]}....{stored}"
        )
    if digest(recovered, dtype) != manifest["result"]["sha256"]:
        raise UserError(f"{folder} is damaged: with the right base it does not give the model that it was made from; fetch it again")


def _another(folder: Path, manifest: Mapping[str, Any], base: Pretrained) -> str:
    named = manifest["base"]["source"]
    return f"{base.source} is another model than {named}, the base that {folder} was made from (give that one as base=)"


def _bare(source: str) -> str:
    """A source as it may be told to others: of a path of this machine only the last part."""
    return Path(source).name if Path(source).expanduser().is_absolute() else source
