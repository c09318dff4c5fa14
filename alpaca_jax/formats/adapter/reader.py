"""LoRA adapters as PEFT saves them, merged into their base model while it is read."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.adapter import peft as pefts
from alpaca_jax.formats.adapter.lora import Lora
from alpaca_jax.formats.adapter.peft import PREFIX, Peft
from alpaca_jax.formats.dtypes import numpy_dtype
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, Weight, weights, whole
from alpaca_jax.formats.tensors import Read, StoredTensor, abbreviated, listed, shortened
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.tokenizer import Tokenizer

FILE = adapter_config.FILE
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PARTS = re.compile(r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B|lora_magnitude_vector(?:\.weight)?)")
_ROWS = 1 << 12  # rows of a table that are compared at a time


def base_of(folder: Path) -> str:
    """Returns the base model that the adapter in `folder` names; a UserError where it names none."""
    base: str | None = adapter_config.read(folder).get("base_model_name_or_path")
    if not base:
        raise UserError(f"{folder / FILE} has no base_model_name_or_path; give the model that it was trained on as model.base")
    return base


def merge(folder: Path, base: Pretrained) -> Pretrained:
    """Returns `base` with the adapter in `folder`, which is merged as weights are read, and with the folder's tokenizer if it has one.

    A UserError names every tensor that doesn't exist in the base or has another size there.
    """
    merged = over(base, pefts.open_folder(folder))
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        tokenizer = Tokenizer.load(folder)
        eos_ids = tuple(dict.fromkeys((tokenizer.eos_id, *base.eos_ids)))
        merged = dataclasses.replace(merged, tokenizer=tokenizer, eos_ids=eos_ids)
    return dataclasses.replace(merged, source=str(folder), format=f"{base.format}, with a LoRA adapter")


def over(base: Pretrained, peft: Peft) -> Pretrained:
    """Returns `base` with an adapter, which is merged as weights are read; a UserError as in `merge`."""
    changes = _changes(peft, base)
    return dataclasses.replace(
        base,
        architecture=changes.architecture,
        read=changes.reader(),
        files=(*base.files, *peft.files),
        notes=(*base.notes, *changes.notes()),
        adapted=None,
    )


@dataclasses.dataclass(frozen=True)
class _Changes:
    """The changes to a base: `loras` and `replaced` tensors by their name at Hugging Face, the latter with their name in the file."""

    base: Pretrained
    architecture: Architecture
    loras: Mapping[str, Lora]
    replaced: Mapping[str, str]
    load: Callable[[str, Index], np.ndarray]
    missing: tuple[str, ...] = ()  # what the config names and the file lacks

    def reader(self) -> Read:
        known = weights(self.architecture)

        def read(path: tuple[str, ...], index: Index = ()) -> np.ndarray:
            return self._piece(path, known[path], whole(index, known[path].shape))

        return read

    def notes(self) -> Iterator[str]:
        if self.loras:
            kinds = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in self.loras})
            yield f"merged into {len(self.loras)} matrices: {', '.join(kinds)}"
        zeros = [name.removesuffix(".weight") for name, change in self.loras.items() if change.changes_nothing()]
        if zeros and len(zeros) == len(self.loras) and not self.replaced:
            yield "the adapter changes nothing: every lora_B is zero, as before its training; the result is the base"
        elif zeros:
            yield f"changes nothing, since its lora_B is zero: {listed(abbreviated(zeros))}"
        if self.missing:
            yield f"{FILE} names more than the adapter holds; left as in the base: {listed(abbreviated(self.missing))}"
        if self.replaced:
            yield f"replaced by the adapter: {', '.join(abbreviated(self.replaced))}"
        before, now = self.base.architecture, self.architecture
        if now.vocab_size > before.vocab_size:
            yield f"the adapter extends the vocabulary from {before.vocab_size:,} to {now.vocab_size:,} tokens"
        if before.tie_embeddings and not now.tie_embeddings:
            yield "the base ties its output to the embedding, but the adapter changes only one of them: they are no longer tied"

    def _piece(self, path: tuple[str, ...], weight: Weight, index: Index) -> np.ndarray:
        names = [name for name, _ in weight.tensors("huggingface")]
        if not weight.name.stacked:
            return self._layer(path, weight, names[0], None, index)
        layers = range(index[0].start, index[0].stop)
        if not any(names[layer] in self.loras or names[layer] in self.replaced for layer in layers):
            return self.base.read(path, index)
        if len(layers) == 1:
            return self._layer(path, weight, names[layers[0]], layers[0], index[1:])[None]
        stacked = None
        for number, layer in enumerate(layers):
            one = self._layer(path, weight, names[layer], layer, index[1:])
            stacked = np.empty((len(layers), *one.shape), one.dtype) if stacked is None else stacked
            stacked[number] = one
        assert stacked is not None
        return stacked

    def _layer(self, path: tuple[str, ...], weight: Weight, name: str, layer: int | None, index: Index) -> np.ndarray:
        """The piece `index` of one tensor, in our layout."""

        def plain(index: Index) -> np.ndarray:
            if name in self.replaced:
                own = weight.name.read(lambda theirs: self.load(self.replaced[name], theirs), weight.layer_shape, index)
                return own.astype(numpy_dtype(self.base.dtype), copy=False)
            if layer is not None:
                return self.base.read(path, (slice(layer, layer + 1), *index))[0]
            tied = name == HEAD and self.base.architecture.tie_embeddings
            return self.base.read(("embed", "weight") if tied else path, index)

        return self.loras[name].merged(plain, weight.name, weight.layer_shape, index) if name in self.loras else plain(index)


def _changes(peft: Peft, base: Pretrained) -> _Changes:
    config, stored, load = peft.config, peft.stored, peft.load
    shapes = {name: shape for weight in weights(base.architecture).values() for name, shape in weight.tensors("huggingface")}
    shapes.setdefault(HEAD, shapes[EMBED])  # where the base ties it, an adapter may still change it alone
    parts, replaced, unknown = _sorted(stored, shapes)
    larger = {tensor: rows for tensor in (EMBED, HEAD) if tensor in replaced and (rows := stored[replaced[tensor]].shape) > shapes[tensor]}
    problems = [f"not part of {base.source}: {listed(abbreviated(unknown))}"] if unknown else []
    if len(larger) == 2 and larger[EMBED] == larger[HEAD] and larger[EMBED][1:] == shapes[EMBED][1:]:
        shapes |= larger
    elif larger:
        problems.append(f"it extends the vocabulary, so it must hold both {EMBED} and {HEAD}, with the same number of rows")
    problems += [
        f"{name} has the shape {list(stored[name].shape)}, the base {list(shapes[tensor])}"
        for tensor, name in replaced.items()
        if stored[name].shape != shapes[tensor]
    ]
    loras = {}
    for tensor, names in parts.items():
        rank, scale = adapter_config.rank_and_scale(config, tensor.removesuffix(".weight"))
        problems += _misfits(tensor, names, stored, shapes[tensor], rank)
        down, up = (names.get(part) or names.get(f"lora_embedding_{part[-1]}", "") for part in ("lora_A", "lora_B"))
        loras[tensor] = Lora(
            load, down, up, scale, names.get("lora_magnitude_vector"), "lora_embedding_A" in names, (*stored[up].shape, 0)[0] if up else 0
        )
    if problems:
        raise UserError(
            f"{peft.where} does not fit the model {base.source}; give the one that it was trained on as model.base:\n  "
            + "\n  ".join([*problems[:1], *shortened(problems[1:])])  # the first lists names, and is cut already
        )
    architecture = dataclasses.replace(base.architecture, vocab_size=shapes[EMBED][0])
    if base.architecture.tie_embeddings and not _still_tied(loras, replaced, load, architecture.vocab_size):
        architecture = dataclasses.replace(architecture, tie_embeddings=False)
    return _Changes(base, architecture, loras, replaced, load, _missing(config, shapes, loras, replaced))


def _missing(
    config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], loras: Mapping[str, Lora], replaced: Mapping[str, str]
) -> tuple[str, ...]:
    """The modules that the config says are changed, and of which the file holds nothing."""
    matrices = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2]
    saved = [name.rpartition(".")[2] for name in config.get("modules_to_save") or ()]
    wanted = dict.fromkeys(adapter_config.targets(config, matrices))
    wanted |= dict.fromkeys(module for name in shapes if (module := name.removesuffix(".weight")).rpartition(".")[2] in saved)
    return tuple(module for module in wanted if f"{module}.weight" not in loras and f"{module}.weight" not in replaced)


def _sorted(
    stored: Mapping[str, StoredTensor], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, dict[str, str]], dict[str, str], list[str]]:
    """By tensor, the names in the file of the parts of its low-rank change, and of its replacement; and the unknown names."""
    parts: dict[str, dict[str, str]] = {}
    replaced, unknown = {}, []
    for name in stored:
        bare = name.removeprefix(PREFIX)
        match = PARTS.fullmatch(bare)
        tensor = f"{match[1]}.weight" if match else bare.replace(".base_layer.", ".")
        if bare == name or tensor not in shapes or (match and len(shapes[tensor]) != 2):
            unknown.append(name)
        elif match:
            parts.setdefault(tensor, {})[match[2].removesuffix(".weight")] = name
        else:
            replaced[tensor] = name
    return parts, replaced, unknown


def _misfits(tensor: str, names: Mapping[str, str], stored: Mapping[str, StoredTensor], shape: tuple[int, ...], rank: int) -> list[str]:
    """In words, what is wrong with the low-rank change of one tensor."""
    outputs, inputs = shape
    wanted: dict[str, tuple[int, ...]] = {"lora_A": (rank, inputs), "lora_B": (outputs, rank)}
    if tensor == EMBED:
        wanted = {"lora_embedding_A": (rank, outputs), "lora_embedding_B": (inputs, rank)}
    elif "lora_magnitude_vector" in names:
        wanted["lora_magnitude_vector"] = (outputs,)
    where = tensor.removesuffix(".weight")
    return [
        *(f"{where}: {part} is missing" for part in wanted if part not in names),
        *(f"{where}: {part} doesn't belong there" for part in names if part not in wanted),
        *(
            f"{names[part]} has the shape {list(stored[names[part]].shape)}; the rank of {rank} and the base need {list(size)}"
            for part, size in wanted.items()
            if part in names and stored[names[part]].shape != size
        ),
    ]


def _still_tied(loras: Mapping[str, Lora], replaced: Mapping[str, str], load: Callable[[str, Index], np.ndarray], vocab_size: int) -> bool:
    """Whether the output still equals the embedding: neither is changed, or both are replaced by equal tensors."""
    if EMBED in loras or HEAD in loras:
        return False
    if EMBED not in replaced or HEAD not in replaced:
        return EMBED not in replaced and HEAD not in replaced
    blocks = ((slice(start, min(start + _ROWS, vocab_size)), slice(None)) for start in range(0, vocab_size, _ROWS))
    return all(np.array_equal(load(replaced[EMBED], block), load(replaced[HEAD], block)) for block in blocks)
