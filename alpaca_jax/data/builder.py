"""Records become examples, once: a TFDS dataset of the records, and a token store keyed by all that decides a token.

The records are the door, for everybody: `tfds.builder_from_directory` opens them. The token store is the room that batches are read
from; it is keyed by the records, the tokenizer, the template and the lengths, so that nothing is tokenized twice.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from alpaca_jax import records
from alpaca_jax.data import example, instructions, origin, store, template
from alpaca_jax.data.built import aside, damage_named, fetched, keep, place
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
VERSION = 1  # of the token store; another number has all of them built again


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What `load_examples` returns: the splits `train` and, if records are held out, `heldout`, and what became of the records."""

    examples: Mapping[str, ExampleStore]
    counts: Mapping[str, example.Counts]  # by split; of several sources together
    skipped: int  # broken records, under data.on_error=skip
    shortened: int  # conversations of which something was left out
    fingerprint: str  # of the records, the tokenizer and the settings that made them examples
    folders: Mapping[str, Path]  # of the token stores, by source
    mixture: Mixture | None = None  # of several sources; it is then examples["train"]


@dataclasses.dataclass(frozen=True)
class _Source:
    stores: dict[str, example.Examples]
    counts: dict[str, example.Counts]
    counted: dict[str, int]
    folder: Path


def load_examples(config: DataConfig, path: str | Path, tokenizer: Tokenizer) -> Dataset:
    """Returns the examples of the records at `path` (or of `config.sources`), built in `config.cache` where they are absent.

    A cache on an object store holds copies; what is read lies in the cache of the machine.
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
    """The examples of one source: opened, or built first."""
    cache, copies = place(config.cache)
    found = origin.find(source.records, config.on_error)
    recipe = _recipe(config, source, tokenizer)
    of_records = {"records": found.fingerprint, "heldout": config.heldout, "version": str(InstructionRecords.VERSION)}
    of_tokens = of_records | {
        "version": VERSION,
        "tokenizer": tokenizer.fingerprint,
        "template": recipe.template.chat_template(),
        "max_length": recipe.max_length,
        "truncation": recipe.truncation,
    }
    name = f"examples/{origin.digest(of_tokens)}"
    folder, copy = cache / name, copies and copies / name
    if not folder.is_dir() and not fetched(copy, folder, COUNTS):
        heldout = origin.held_out(found, config.heldout) if config.heldout else None
        if isinstance(found, Files):  # what TFDS has prepared is a dataset of its own already
            name = f"records/{origin.digest(of_records)}"
            _build_records(cache / name, found, heldout)
            keep(cache / name, copies and copies / name, instructions.LAST)
        with aside(folder) as building:
            _build_tokens(building, found, heldout, recipe)
    keep(folder, copy, COUNTS)
    with damage_named(folder):
        described = read_json(folder / COUNTS)
        counts = {split: example.Counts(**counted) for split, counted in described["splits"].items()}
        stores = {split: store.read(folder, split) for split in counts}
    return _Source(stores, counts, described["records"], folder)


def _recipe(config: DataConfig, source: SourceConfig, tokenizer: Tokenizer) -> example.Recipe:
    name = source.template or config.template
    return example.Recipe(template.get(name, tokenizer), tokenizer, config.max_length, source.truncation or config.truncation)


def _build_records(folder: Path, found: Origin, heldout: np.ndarray | None) -> None:
    if not folder.is_dir():
        with aside(folder) as building:
            instructions.prepare(InstructionRecords(found, heldout, data_dir=str(building)))


def _build_tokens(building: Path, found: Origin, heldout: np.ndarray | None, recipe: example.Recipe) -> None:
    splits, counted = {}, Counter[str]()
    for split in ("train",) if heldout is None else ("train", "heldout"):
        counts, counted = Counter[str](), Counter[str]()
        chosen = _chosen(found.stream(counted), heldout, split)
        total = None if heldout is None else int((heldout == (split == "heldout")).sum())
        if not store.write(building, split, example.stream(track(chosen, f"tokenizing ({split})", total), recipe, counts)):
            raise UserError(
                f"none of the {counts['records']} records ({split}) gives an example of at most {recipe.max_length} tokens: "
                f"{counts['no_target']} prompts leave no room for a target, {counts['dropped']} are dropped as too long; "
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
