"""Opens a model of any format as one thing, and loads its weights one at a time."""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.formats import gguf, huggingface, names, native
from alpaca_jax.formats import source as sources
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.tensors import Read
from alpaca_jax.model.architecture import Architecture

PROBE = 'The 3 quick foxes\n\tjumped over "12" lazy dogs: naïve café, 北京!'
AVERAGE = "#ema"  # behind the folder of a training run: the average of its weights


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model that lies on disk: `read(path)` gives one weight in our layout, layers stacked, in the dtype it is stored in."""

    architecture: Architecture
    tokenizer: Tokenizer
    read: Read
    eos_ids: tuple[int, ...]  # any of them ends an answer
    source: str
    files: tuple[Path, ...]  # those that hold the weights
    origin: str | None = None  # the source that a model trained here started from

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 (hex) over the names and contents of the files of the weights; reads all of them."""
        lines = "".join(f"{sources.sha256(file)}  {file.name}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def first_layers(self, count: int) -> "Pretrained":
        """Returns the same model with its first `count` layers only."""
        if not 1 <= count <= self.architecture.num_layers:
            raise UserError(f"model.keep_layers={count}: {self.source} has {self.architecture.num_layers} layers")
        kept = dataclasses.replace(self.architecture, num_layers=count)
        return dataclasses.replace(self, architecture=kept, read=lambda path: _first(self.read(path), path, count))


def open(model: ModelConfig | str | os.PathLike[str]) -> Pretrained:
    """Returns the model that `model.source` (or a bare source) names: a GGUF file, a Hugging Face folder, or a run that was trained here.

    Reads headers and the tokenizer only. Where `model.architecture` stands in place of a source there are no weights to read.
    A UserError says what is wrong with the source and what helps.
    """
    config = model if isinstance(model, ModelConfig) else ModelConfig(source=os.fspath(model))
    tokenizer = Tokenizer.load(Path(config.tokenizer).expanduser()) if config.tokenizer is not None else None
    if config.source is None:
        pretrained = _random(config.architecture, tokenizer)
    else:
        pretrained = _open(config.source, config.cache, tokenizer)
    if pretrained.tokenizer.vocab_size > pretrained.architecture.vocab_size:
        sizes = f"{pretrained.tokenizer.vocab_size} tokens, the model {pretrained.architecture.vocab_size} rows for them"
        raise UserError(f"{pretrained.source}: the tokenizer has {sizes}; give the model.tokenizer that it was trained with")
    return pretrained if config.keep_layers is None else pretrained.first_layers(config.keep_layers)


def load_params(
    pretrained: Pretrained,
    dtype: Any = np.float32,
    put: Callable[[tuple[str, ...], np.ndarray], Any] | None = None,
    keep_layers: int | None = None,
    stored_vocab: int | None = None,
) -> dict[str, Any]:
    """Returns the nested params of the model in `dtype`, each weight placed by `put(path, array)` before the next one is read.

    `put` defaults to `jax.device_put`. `stored_vocab` appends rows of zeros to the vocabulary of the embedding and the output.
    """
    if keep_layers is not None:
        pretrained = pretrained.first_layers(keep_layers)
    if put is None:
        import jax

        put = lambda path, array: jax.device_put(array)  # noqa: E731
    params: dict[str, Any] = {}
    for path in names.weights(pretrained.architecture):
        weight = pretrained.read(path).astype(np.dtype(dtype), copy=False)
        if path[0] in ("embed", "head") and stored_vocab is not None:
            weight = np.pad(weight, ((0, stored_vocab - len(weight)), (0, 0)))
        *parents, last = path
        functools.reduce(lambda tree, key: tree.setdefault(key, {}), parents, params)[last] = put(path, weight)
    return params


def _random(architecture: Architecture | None, tokenizer: Tokenizer | None) -> Pretrained:
    if architecture is None:
        raise UserError("neither model.source nor model.architecture is set: give a model, for example model.source=smollm2-135m-instruct")
    if tokenizer is None:
        raise UserError("model.architecture gives sizes only: name the tokenizer too, model.tokenizer=FOLDER_OR_FILE")

    def read(path: tuple[str, ...]) -> np.ndarray:
        raise UserError("model.source is not set, so there are no weights to read: only train starts from random ones")

    return Pretrained(architecture, tokenizer, read, (tokenizer.eos_id,), "model.architecture", ())


def _open(source: str, cache: str | None, tokenizer: Tokenizer | None) -> Pretrained:
    place, averaged = source.removesuffix(AVERAGE), source.endswith(AVERAGE)
    path = sources.resolve(place, cache)
    if path.is_dir():
        if (folder := native.find(path)) is not None:
            trained = native.open(folder, "ema" if averaged else "params")
            chosen = _belonging(tokenizer, trained.tokenizer, source)
            return Pretrained(trained.architecture, chosen, trained.read, trained.eos_ids, source, trained.files, trained.origin)
        if tokenizer is not None and any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
            _belonging(tokenizer, Tokenizer.load(path), source)
        found = huggingface.open(path, tokenizer)
        return Pretrained(found.architecture, found.tokenizer, found.read, found.eos_ids, source, found.files)
    if path.suffix == ".gguf" or _magic(path) == b"GGUF":
        file = gguf.open(path)
        return Pretrained(file.architecture, _belonging(tokenizer, file.tokenizer, source), file.read, file.eos_ids, source, (path,))
    raise UserError(f"{path} is no GGUF file; give a .gguf file, a Hugging Face folder, or the folder of a run")


def _belonging(given: Tokenizer | None, own: Tokenizer, source: str) -> Tokenizer:
    """The given tokenizer, else the model's own; a UserError where they give other ids: the model would read another text."""
    if given is not None and given.encode(PROBE) != own.encode(PROBE):
        raise UserError(f"{source}: model.tokenizer gives other ids than the tokenizer that came with the model; give model.tokenizer=null")
    return given or own


def _magic(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _first(weight: np.ndarray, path: tuple[str, ...], count: int) -> np.ndarray:
    return weight[:count] if path[0] == "layers" else weight
