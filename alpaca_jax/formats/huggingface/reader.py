"""Reads the folders of `transformers`: config.json, safetensors (or pickles, through torch), tokenizer."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pickled, safetensors
from alpaca_jax.formats.dtypes import widest
from alpaca_jax.formats.huggingface import config as huggingface_config
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index
from alpaca_jax.formats.tensors import StoredTensor, Tensors, abbreviated, listed
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.tokenizer import Tokenizer

INDEX = "model.safetensors.index.json"
KINDS = {  # the single file of weights, or with .index.json the index of several, in order of preference
    "model.safetensors": "Hugging Face safetensors",
    "pytorch_model.bin": "Hugging Face pickles",
}
MOST_INDEX, MOST_FILES = 8 << 20, 5_000  # bytes of an index, that of 50,000 tensors, and files it names
INDEX_LEFT = "since none of the files that it names is there"
OTHERS = ("*.safetensors", "pytorch_model*.bin", "*.pth", "*.gguf")  # weights that may lie beside those that are read
ROWS = 1 << 14  # rows of a table that are compared at a time


def open_folder(folder: Path, tokenizer: Tokenizer | None = None) -> Pretrained:
    """Returns the model in a folder (with `tokenizer` where it has none); a UserError where it is unsupported or incomplete."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no model: it has neither config.json (Hugging Face) nor train/model/ (a run of ours)")
    architecture = huggingface_config.architecture(folder / "config.json")
    kind, files, notes = _weight_files(folder)
    stored, load = _stored(files)
    if not any(INDEX_LEFT in note for note in notes):
        _check_index(folder / f"{kind}.index.json", stored)
    tensors = Tensors(folder, "huggingface", {name: tensor for name, (_, tensor) in stored.items()}, load)
    read = tensors.reader(architecture)
    _check_tied(folder, architecture, tensors)
    eos_ids = huggingface_config.eos_ids(folder, architecture.vocab_size)
    if tokenizer is None or any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = Tokenizer.load(folder)
    return Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=read,
        # The first configs name the ids of another tokenizer, where 1 is BOS: no answer ends with the token that begins a text.
        eos_ids=tuple(dict.fromkeys((tokenizer.eos_id, *(id for id in eos_ids if id != tokenizer.bos_id)))),
        source=str(folder),
        files=tuple(files),
        format=KINDS[kind],
        dtype=widest([tensor.dtype for _, tensor in stored.values()]),
        stored=tensors.stored,
        notes=(*notes, *huggingface_config.assumed(folder / "config.json"), *tensors.notes(architecture), *tokenizer.notes),
    )


def weight_files(folder: Path) -> list[str]:
    """Returns the names of the files that say where the weights of a folder are: a single file of weights, or an index of several."""
    return [name for kind in KINDS for name in (kind, f"{kind}.index.json") if (folder / name).is_file()]


def _weight_files(folder: Path) -> tuple[str, list[Path], list[str]]:
    """The key of KINDS, the files that hold the weights, and in words what else is there and left out.

    A single file and an index of it are one model. An index of other files that are there as well makes two of them: a UserError.
    """
    for kind in KINDS:
        single, index = folder / kind, folder / f"{kind}.index.json"
        if not single.is_file() and not index.is_file():
            continue
        names = _named(index) if index.is_file() else [kind]
        there = [name for name in names if (folder / name).is_file()]
        if single.is_file() and names != [kind]:
            if there:
                raise UserError(
                    f"{folder} holds two sets of weights: {kind}, and {', '.join(abbreviated(there[:4]))}, which {index.name} names; "
                    f"delete {kind}, or {index.name} and its files, whichever is not meant"
                )
            return kind, [single], [f"left out: {index.name}, {INDEX_LEFT}", *_left_out(folder, [single])]
        if missing := [name for name in names if name not in there]:
            raise UserError(f"{folder} lacks {listed(missing)}, which {index.name} names; download them again")
        files = [folder / name for name in names]
        return kind, files, _left_out(folder, files)
    others = sorted(path.name for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern))
    hint = f" (there are {', '.join(others[:4])}, but no index of their content)" if others else ""
    raise UserError(f"{folder} holds no weights: it has neither model.safetensors nor {INDEX}{hint}; download it again")


def _named(index: Path) -> list[str]:
    """The files that an index names; a UserError where one is outside its folder."""
    names = sorted(set(_places(index).values()))
    outside = [name for name in names if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name]
    if outside:
        raise UserError(f"{index} points outside its folder ({listed(outside)}): don't trust it; get the model elsewhere")
    if not 1 <= len(names) <= MOST_FILES:
        raise UserError(f"{index} names {len(names):,} files of weights; download it again")
    return names


def _left_out(folder: Path, files: list[Path]) -> list[str]:
    adapter = (folder / "adapter_config.json").is_file()  # merged into these weights
    there = {path.name for pattern in OTHERS for path in folder.glob(pattern) if not (adapter and path.name.startswith("adapter_model."))}
    others = sorted(there - {file.name for file in files})
    return [f"left out: {listed(others)}, which hold other weights or the same a second time"] if others else []


def _places(index: Path) -> dict[str, str]:
    places = documents.json_object(documents.read(index, MOST_INDEX), str(index)).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise UserError(f"{index} has no weight_map from tensors to files; download it again")
    return places


def _stored(files: list[Path]) -> tuple[Mapping[str, tuple[Path, StoredTensor]], Callable[[str, Index], np.ndarray]]:
    """Each tensor with its file, and a function that reads a piece of one."""
    stored: dict[str, tuple[Path, Any]] = {}
    for file in files:
        tensors = safetensors.header(file) if file.suffix == ".safetensors" else pickled.header(file)
        if twice := stored.keys() & tensors.keys():
            raise UserError(f"{file} and another file both hold {listed(abbreviated(sorted(twice)))}; download the model again")
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
        *([f"named in it, but not in the file it names: {listed(abbreviated(missing))}"] if missing else []),
        *([f"in the files, but not named in it: {listed(abbreviated(extra))}"] if extra else []),
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
