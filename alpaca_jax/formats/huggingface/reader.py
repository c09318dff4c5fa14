"""Reads the folders of `transformers`: config.json, safetensors (or pickles, through torch), tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats import pickled, safetensors
from alpaca_jax.formats.dtypes import widest
from alpaca_jax.formats.huggingface import config as huggingface_config
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index
from alpaca_jax.formats.tensors import StoredTensor, Tensors, abbreviated
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.rundir import read_json
from alpaca_jax.tokenizer import Tokenizer

INDEX = "model.safetensors.index.json"
KINDS = {  # the single file of weights, or with .index.json the index of several, in order of preference
    "model.safetensors": "Hugging Face safetensors",
    "pytorch_model.bin": "Hugging Face pickles",
}
ROWS = 1 << 14  # rows of a table that are compared at a time


def open_folder(folder: Path, tokenizer: Tokenizer | None = None) -> Pretrained:
    """Returns the model in a folder (with `tokenizer` where it has none); a UserError where it is unsupported or incomplete."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: it has neither config.json (Hugging Face) nor train/model/ (a run of ours)")
    architecture = huggingface_config.architecture(folder / "config.json")
    kind, files = _weight_files(folder)
    stored, load = _stored(files)
    _check_index(folder / f"{kind}.index.json", stored)
    tensors = Tensors(folder, "huggingface", {name: tensor for name, (_, tensor) in stored.items()}, load)
    read = tensors.reader(architecture)
    _check_tied(folder, architecture, tensors)
    if tokenizer is None or any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = Tokenizer.load(folder)
    return Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=read,
        eos_ids=tuple(dict.fromkeys((tokenizer.eos_id, *huggingface_config.eos_ids(folder)))),
        source=str(folder),
        files=tuple(files),
        format=KINDS[kind],
        dtype=widest([tensor.dtype for _, tensor in stored.values()]),
        stored=tensors.stored,
        notes=(*tensors.notes(architecture), *tokenizer.notes),
    )


def _weight_files(folder: Path) -> tuple[str, list[Path]]:
    """The key of KINDS, and the files that hold the weights."""
    for kind in KINDS:
        index = folder / f"{kind}.index.json"
        if index.is_file():
            names = sorted(set(_places(index).values()))
            if outside := [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts]:
                raise UserError(f"{index} points outside its folder ({', '.join(outside)}): don't trust it; get the model elsewhere")
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise UserError(f"{folder} lacks {', '.join(missing)}, which {index.name} names; download them again")
            return kind, [folder / name for name in names]
        if (folder / kind).is_file():
            return kind, [folder / kind]
    others = sorted(path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    hint = f" (there are {', '.join(others[:4])}, but no index of their content)" if others else ""
    raise UserError(f"{folder} holds no weights: it has neither model.safetensors nor {INDEX}{hint}; download it again")


def _places(index: Path) -> dict[str, str]:
    places = read_json(index)
    places = places.get("weight_map") if isinstance(places, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index} has no weight_map; download it again")
    return places


def _stored(files: list[Path]) -> tuple[Mapping[str, tuple[Path, StoredTensor]], Callable[[str, Index], np.ndarray]]:
    """Each tensor with its file, and a function that reads a piece of one."""
    stored: dict[str, tuple[Path, Any]] = {}
    for file in files:
        tensors = safetensors.header(file) if file.suffix == ".safetensors" else pickled.header(file)
        if twice := stored.keys() & tensors.keys():
            raise UserError(f"{file} and another file both hold {', '.join(abbreviated(sorted(twice)))}; download the model again")
        stored |= {name: (file, tensor) for name, tensor in tensors.items()}

    def load(name: str, index: Index) -> np.ndarray:
        file, tensor = stored[name]
        return safetensors.read(tensor, index) if file.suffix == ".safetensors" else pickled.read(tensor, index)

    return stored, load


def _check_index(index: Path, stored: Mapping[str, tuple[Path, StoredTensor]]) -> None:
    if not index.is_file():
        return
    places = _places(index)
    missing = [name for name, file in places.items() if name not in stored or stored[name][0].name != PurePosixPath(file).name]
    extra = [name for name in stored if name not in places]
    problems = [
        *([f"named in it, but not in the file it names: {', '.join(abbreviated(missing))}"] if missing else []),
        *([f"in the files, but not named in it: {', '.join(abbreviated(extra))}"] if extra else []),
    ]
    if problems:
        raise UserError(f"{index} does not match its files; download them again:\n  " + "\n  ".join(problems))


def _check_tied(folder: Path, architecture: Architecture, tensors: Tensors) -> None:
    """Raises a UserError where the output is tied to the embedding, but stored with other values."""
    if not architecture.tie_embeddings or "lm_head.weight" not in tensors.stored:
        return
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    for start in range(0, architecture.vocab_size, ROWS):
        rows = (slice(start, min(start + ROWS, architecture.vocab_size)),)
        embed, head = (tensors.load(name, rows) for name in tables)
        if not np.array_equal(embed, head):
            raise UserError(
                f"{folder / 'config.json'} says tie_word_embeddings, but lm_head.weight differs from model.embed_tokens.weight: "
                "set tie_word_embeddings to false there if the output was trained, or delete lm_head.weight"
            )
