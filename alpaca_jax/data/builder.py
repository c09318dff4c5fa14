"""Builds each dataset once: a TFDS dataset of the records, and a token store of their examples.

The TFDS dataset is for everybody: `tfds.builder_from_directory` opens it. Batches are read from the token store. Its key covers all that
decides a token (records, tokenizer, template, lengths), so that nothing is tokenized twice.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from alpaca_jax import records
from alpaca_jax.data import example, instructions, origin, store, template
from alpaca_jax.data.built import atomic_folder, cache_folders, fetch_copy, naming_damage, store_copy
from alpaca_jax.data.config import DataConfig, SourceConfig
from alpaca_jax.data.example import ExampleStore
from alpaca_jax.data.instructions import InstructionRecords
from alpaca_jax.data.mixture import Concatenated, Mixture
from alpaca_jax.data.origin import Files, Origin
from alpaca_jax.errors import UserError
from alpaca_jax.progress import track
from alpaca_jax.rundir import read_json, write_json
from alpaca_jax.tokenizer import Tokenizer

COUNTS = "counts.json"
VERSION = 1  # of the token store; a new number rebuilds all of them


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits `train` and, if records are held out, `heldout`, with what became of the records."""

    examples: Mapping[str, ExampleStore]
    counts: Mapping[str, example.Counts]  # by split, summed over the sources
    skipped: int  # broken records, under data.on_error=skip
    shortened: int  # conversations that lost an incomplete turn
    fingerprint: str  # of the records, the tokenizer and the settings that made them examples
    folders: Mapping[str, Path]  # of the token stores, by source
    mixture: Mixture | None = None  # of several sources; then it is examples["train"]


@dataclasses.dataclass(frozen=True)
class _Source:
    stores: dict[str, example.Examples]
    counts: dict[str, example.Counts]
    counted: dict[str, int]
    folder: Path


def load_examples(config: DataConfig, path: str | Path, tokenizer: Tokenizer) -> Dataset:
    """Returns the examples of the records at `path` (or of `config.sources`); builds them in `config.cache` where they are absent.

    A cache on an object store holds copies only; examples are read from this machine's own cache.
    """
    configured = config.sources or {"records": SourceConfig(records=str(path), epochs=1)}
    sources = {name: _load(config, source, tokenizer) for name, source in configured.items()}
    fingerprint = origin.digest([[name, source.folder.name] for name, source in sources.items()])
    trained = {name: source.stores["train"] for name, source in sources.items()}
    mixture = Mixture.configured(trained, config.sources) if config.sources else None
    examples: dict[str, ExampleStore] = {"train": mixture or trained["records"]}
    held = [source.stores["heldout"] for source in sources.values() if "heldout" in source.stores]
    if held:
        examples["heldout"] = Concatenated(held) if len(held) > 1 else held[0]
    counts = {split: _sum([source.counts[split] for source in sources.values() if split in source.counts]) for split in examples}
    skipped, shortened = (sum(source.counted.get(kind, 0) for source in sources.values()) for kind in ("skipped", "shortened"))
    folders = {name: source.folder for name, source in sources.items()}
    return Dataset(examples, counts, skipped, shortened, fingerprint, folders, mixture)


def _load(config: DataConfig, source: SourceConfig, tokenizer: Tokenizer) -> _Source:
    """The examples of one source; builds them first where they are absent."""
    cache, copies = cache_folders(config.cache)
    source_records = origin.find(source.records, config.on_error)
    recipe = _recipe(config, source, tokenizer)
    of_records = {"records": source_records.fingerprint, "heldout": config.heldout, "version": str(InstructionRecords.VERSION)}
    of_tokens = of_records | {
        "version": VERSION,
        "tokenizer": tokenizer.fingerprint,
        "template": recipe.template.chat_template(),
        "max_length": recipe.max_length,
        "truncation": recipe.truncation,
    }
    name = f"examples/{origin.digest(of_tokens)}"
    folder, copy = cache / name, copies and copies / name
    if not folder.is_dir() and not fetch_copy(copy, folder, COUNTS):
        heldout = origin.held_out(source_records, config.heldout) if config.heldout else None
        if isinstance(source_records, Files):  # a prepared TFDS dataset needs no second one
            name = f"records/{origin.digest(of_records)}"
            _build_records(cache / name, source_records, heldout)
            store_copy(cache / name, copies and copies / name, instructions.LAST)
        with atomic_folder(folder) as building:
            _build_tokens(building, source_records, heldout, recipe)
    store_copy(folder, copy, COUNTS)
    with naming_damage(folder):
        described = read_json(folder / COUNTS)
        counts = {split: example.Counts(**counted) for split, counted in described["splits"].items()}
        stores = {split: store.read(folder, split) for split in counts}
    return _Source(stores, counts, described["records"], folder)


def _recipe(config: DataConfig, source: SourceConfig, tokenizer: Tokenizer) -> example.Recipe:
    name = source.template or config.template
    return example.Recipe(template.get(name, tokenizer), tokenizer, config.max_length, source.truncation or config.truncation)


def _build_records(folder: Path, source: Origin, heldout: np.ndarray | None) -> None:
    if not folder.is_dir():
        with atomic_folder(folder) as building:
            instructions.prepare(InstructionRecords(source, heldout, data_dir=str(building)))


def _build_tokens(building: Path, source: Origin, heldout: np.ndarray | None, recipe: example.Recipe) -> None:
    splits, counted = {}, Counter[str]()
    for split in ("train",) if heldout is None else ("train", "heldout"):
        counts, counted = Counter[str](), Counter[str]()
        chosen = _chosen(source.stream(counted), heldout, split)
        total = None if heldout is None else int((heldout == (split == "heldout")).sum())
        if not store.write(building, split, example.stream(track(chosen, f"tokenizing ({split})", total), recipe, counts)):
            raise UserError(
                f"none of the {counts['records']} records ({split}) makes an example of at most {recipe.max_length} tokens: "
                f"{counts['no_target']} prompts leave no room for a target, {counts['dropped']} records are too long and dropped; "
                "give a larger data.max_length"
            )
        splits[split] = counts
    write_json(building / COUNTS, {"splits": splits, "records": counted})


def _chosen(stream: Iterator[records.Record], heldout: np.ndarray | None, split: str) -> Iterator[records.Record]:
    return stream if heldout is None else itertools.compress(stream, heldout if split == "heldout" else ~heldout)


def _sum(counts: list[example.Counts]) -> example.Counts:
    total = Counter[str]()
    for each in counts:
        total.update(dataclasses.asdict(each))
    return example.Counts(**total)
