"""A model on disk in any format, as one type."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.formats.adapter.peft import Peft
from alpaca_jax.formats.dtypes import Dtype, widest
from alpaca_jax.formats.pruning.kept import Kept
from alpaca_jax.formats.source import sha256
from alpaca_jax.formats.tensors import Read, StoredTensor, held
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree, flatten
from alpaca_jax.tokenizer import Tokenizer

PROBE = 'The 3 quick foxes\n\tjumped over "12" lazy dogs: naïve café, 北京!'

SMALL = 4 * 10**6  # bytes of a file whose content is hashed
SAMPLE, SAMPLES = 1 << 14, 256  # bytes of a sample, and about how many are taken of a file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model on disk: headers and tokenizer are read already, weights by `read(path, index)`."""

    architecture: Architecture
    tokenizer: Tokenizer
    read: Read
    eos_ids: tuple[int, ...]  # each of them ends an answer
    source: str
    files: tuple[Path, ...]  # those that hold the weights
    format: str  # in words: "Hugging Face safetensors", "GGUF (Q8_0)", ...
    dtype: Dtype = "float32"  # of most weights as stored; quantised weights are read as float32
    origin: str | None = None  # the source that a model trained here started from
    stored: Mapping[str, StoredTensor] = dataclasses.field(default_factory=dict)  # its tensors as stored
    notes: tuple[str, ...] = ()  # in words, what was left out or guessed
    adapted: "Adapted | None" = None  # the two that it is made of, where a run trained an adapter
    kept: Kept | None = None  # the parts of it that this smaller model consists of

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 (hex) over names and contents of the files of weights; reads all of them."""
        lines = "".join(f"{sha256(file)}  {file.name}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """The sha256 (hex) over names, sizes and times of the files of weights; for small files over their contents."""
        states: list[tuple] = []
        for file in self.files:
            if storage.is_remote(file):  # the small manifest of a checkpoint
                states.append((file.name, sha256(file)))
                continue
            state = file.stat()
            states.append((file.name, state.st_size, sha256(file) if state.st_size < SMALL else state.st_mtime_ns))
        return hashlib.sha256(repr(states).encode()).hexdigest()

    @functools.cached_property
    def likeness(self) -> str:
        """The sha256 (hex) over the files of weights, of large ones over their size and samples: enough to know a model again, in no time.

        Neither names nor times count, so that a copy is the same; any training changes the samples.
        """
        digest = hashlib.sha256()
        for file in self.files:
            if storage.is_remote(file) or file.stat().st_size < SMALL:
                digest.update(sha256(file).encode())
                continue
            size = file.stat().st_size
            digest.update(size.to_bytes(8))
            with open(file, "rb") as opened:
                for place in range(0, size, max(SAMPLE, size // SAMPLES)):
                    opened.seek(place)
                    digest.update(opened.read(SAMPLE))
        return digest.hexdigest()

    def named(self, source: str) -> "Pretrained":
        """Returns the same model, with the source that the user gave as its name."""
        return dataclasses.replace(self, source=source)

    def with_tokenizer(self, given: Tokenizer) -> "Pretrained":
        """Returns the same model with the tokenizer `given`; a UserError where it gives other ids than the model's own."""
        if given.encode(PROBE) != self.tokenizer.encode(PROBE):
            raise UserError(f"{self.source}: model.tokenizer gives other ids than the model's own tokenizer; give model.tokenizer=null")
        return dataclasses.replace(self, tokenizer=given)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A base as its files have it, and the adapter that a run trained on it; `quantised`: in four bits, so that both belong together."""

    base: Pretrained
    peft: Peft
    quantised: bool


def in_memory(architecture: Architecture, tokenizer: Tokenizer, params: Tree, eos_ids: tuple[int, ...] = ()) -> Pretrained:
    """Returns nested params in memory as a model."""
    weights = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    return Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=held(weights),
        eos_ids=eos_ids or (tokenizer.eos_id,),
        source="params in memory",
        files=(),
        format="params in memory",
        dtype=widest([weight.dtype.name for weight in weights.values()]),
    )
