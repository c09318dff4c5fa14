"""Builds each dataset once: a TFDS dataset of the records, and a token store of their examples.

The TFDS dataset is for everybody: `tfds.builder_from_directory` opens it. Batches are read from the token store. Its key covers all that
decides a token (records, tokenizer, template, lengths), so that nothing is tokenized twice.
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from alpaca_jax.data import example, instructions, origin, preference, sources, store, template
from alpaca_jax.data.built import atomic_folder, cache_folders, fetch_copy, naming_damage, store_copy
from alpaca_jax.data.config import DataConfig, Form
from alpaca_jax.data.example import ExampleStore, Grouped
from alpaca_jax.data.instructions import InstructionRecords
from alpaca_jax.data.mixture import Concatenated, Mixture
from alpaca_jax.data.origin import Files
from alpaca_jax.data.sources import Source
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
    fingerprint: str  # of the records, the tokenizer and the settings that made them examples
    folders: Mapping[str, Path]  # of the token stores, by source
    sources: Mapping[str, Source]
    mixture: Mixture | None = None  # of several sources; then it is examples["train"]
    form: Form = "answers"

    @property
    def skipped(self) -> int:
        """Broken records, under data.on_error=skip."""
        return self.counted("skipped")

    @property
    def shortened(self) -> int:
        """Conversations that lost an incomplete turn."""
        return self.counted("shortened")

    def counted(self, what: str) -> int:
        """Returns a count of the surveys of all sources."""
        return sum(source.survey.counted.get(what, 0) for source in self.sources.values())


@dataclasses.dataclass(frozen=True)
class _Stored:
    stores: dict[str, ExampleStore]
    counts: dict[str, example.Counts]
    folder: Path


def load_examples(config: DataConfig, path: str | Path, tokenizer: Tokenizer, form: Form = "answers") -> Dataset:
    """Returns the examples of the records at `path` (or of `config.sources`); builds them in `config.cache` where they are absent.

    `form`: see `preference.stream`; items of pairs are Groups. A cache on an object store holds copies only; examples are read from this
    machine's own cache.
    """
    found = sources.find(config, path, tokenizer)
    stored = {name: _load(config, source, tokenizer, form) for name, source in found.items()}
    fingerprint = origin.digest([[name, source.folder.name] for name, source in stored.items()])
    trained = {name: source.stores["train"] for name, source in stored.items()}
    mixture = Mixture.configured(trained, config.sources) if config.sources else None
    examples: dict[str, ExampleStore] = {"train": mixture or trained["records"]}
    held = [source.stores["heldout"] for source in stored.values() if "heldout" in source.stores]
    if held:
        examples["heldout"] = Concatenated(held) if len(held) > 1 else held[0]
    counts = {split: _sum([source.counts[split] for source in stored.values() if split in source.counts]) for split in examples}
    return Dataset(examples, counts, fingerprint, {name: source.folder for name, source in stored.items()}, found, mixture, form)


def _load(config: DataConfig, source: Source, tokenizer: Tokenizer, form: Form) -> _Stored:
    """The examples of one source; builds them first where they are absent."""
    cache, copies = cache_folders(config.cache)
    recipe = example.Recipe(
        template.get(source.template, tokenizer), tokenizer, config.max_length, source.config.truncation or config.truncation
    )
    of_records = {"records": source.origin.fingerprint, "heldout": config.heldout, "version": str(InstructionRecords.VERSION)}
    of_tokens = (of_records := of_records | source.key()) | {
        "version": VERSION,
        "tokenizer": tokenizer.fingerprint,
        "template": recipe.template.chat_template(),
        "max_length": recipe.max_length,
        "truncation": recipe.truncation,
    }
    if source.beyond is not None:
        of_tokens["limit"] = config.limit
    if form != "answers":
        of_tokens["form"] = form
    name = f"examples/{origin.digest(of_tokens)}"
    folder, copy = cache / name, copies and copies / name
    if not folder.is_dir() and not fetch_copy(copy, folder, COUNTS):
        if isinstance(source.origin, Files):  # a prepared TFDS dataset needs no second one
            name = f"records/{origin.digest(of_records)}"
            _build_records(cache / name, source)
            store_copy(cache / name, copies and copies / name, instructions.LAST)
        with atomic_folder(folder) as building:
            _build_tokens(building, source, recipe, form)
    store_copy(folder, copy, COUNTS)
    with naming_damage(folder):
        described = read_json(folder / COUNTS)
        counts = {split: example.Counts(**counted) for split, counted in described["splits"].items()}
        read = {split: store.read(folder, split) for split in counts}
    stores: dict[str, ExampleStore] = {split: Grouped(each, 2) if form == "pairs" else each for split, each in read.items()}
    return _Stored(stores, counts, folder)


def _build_records(folder: Path, source: Source) -> None:
    if not folder.is_dir():
        with atomic_folder(folder) as building:
            instructions.prepare(InstructionRecords(source.origin, source.heldout, data_dir=str(building)))


def _build_tokens(building: Path, source: Source, recipe: example.Recipe, form: Form) -> None:
    splits, counted = {}, Counter[str]()
    for split in ("train",) if source.heldout is None else ("train", "heldout"):
        counts, counted = Counter[str](), Counter[str]()
        chosen = source.trained if split == "train" else source.heldout
        total = None if chosen is None else int(chosen.sum())
        stream = source.origin.stream(counted)
        taken = stream if chosen is None else itertools.compress(stream, chosen)
        if not store.write(building, split, preference.stream(track(taken, f"tokenizing ({split})", total), recipe, counts, form)):
            raise UserError(_nothing(counts, split, recipe.max_length, form))
        splits[split] = counts
    write_json(building / COUNTS, {"splits": splits, "records": counted})


def _nothing(counts: Counter[str], split: str, max_length: int, form: Form) -> str:
    if form in preference.LACKS and counts["without"] == counts["records"]:
        return (
            f"none of the {counts['records']} records ({split}) {preference.LACKS[form]}: give others as data.records, or make some "
            "with `alpaca-jax generate method=pairs`"
        )
    others = [f"{counts[name]:,} {text}" for name, text in preference.UNUSED.items() if counts[name]]
    return (
        f"none of the {counts['records']} records ({split}) makes an example of at most {max_length} tokens: "
        f"{counts['no_target']} prompts leave no room for a target, {counts['dropped']} records are too long and dropped; "
        + "".join(f"{text}; " for text in others)
        + "give a larger data.max_length"
    )


def _sum(counts: list[example.Counts]) -> example.Counts:
    total = Counter[str]()
    for each in counts:
        total.update(dataclasses.asdict(each))
    return example.Counts(**total)
