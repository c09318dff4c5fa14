"""TFDS: instruction records as a versioned dataset, and their tokenized examples as a random-access store that is built once."""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tensorflow_datasets as tfds  # needs no TensorFlow to write and read ArrayRecord
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alpaca_jax import records
from alpaca_jax.data import example, template
from alpaca_jax.data.config import DataConfig
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import read_json, write_json

T = TypeVar("T")
CACHE = "~/.cache/alpaca_jax/data"
AT_ONCE = 1024  # records read together: one by one takes six times as long
ASIDE = ".building-"
STALE_SECONDS = 24 * 3600
QUIET_SECONDS = 10  # between the lines of progress where there is no terminal


class InstructionRecords(tfds.core.GeneratorBasedBuilder):
    """Instruction records with where each comes from (JSON), in their order; the splits are by the hash of the record's id."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # TFDS would look beside the code for the checksums of downloads (and needs importlib_resources for that)

    def __init__(self, splits: Mapping[str, Sequence[records.Record]], **place: Any) -> None:
        self._splits = splits
        super().__init__(file_format="array_record", **place)

    def _info(self) -> tfds.core.DatasetInfo:
        names = [field.name for field in dataclasses.fields(records.Record)]
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in names})
        return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable[Any]]:
        return {split: self._generate_examples(split) for split in self._splits}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for number, record in enumerate(_shown(self._splits[split], f"storing the records ({split})")):
            yield number, dataclasses.asdict(record) | {"provenance": json.dumps(dict(record.provenance), ensure_ascii=False)}


class TokenizedExamples(tfds.core.GeneratorBasedBuilder):
    """Token ids and which of them are learnt, in the order of the records."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None  # as above

    def __init__(self, sources: Mapping[str, Sequence[Any]], recipe: example.Recipe, **place: Any) -> None:
        self._sources, self._recipe = sources, recipe
        self.counts: dict[str, Counter[str]] = {}
        self.lengths: dict[str, list[int]] = {}
        super().__init__(file_format="array_record", **place)

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "ids": tfds.features.Tensor(shape=(None,), dtype=np.int32),
            "learnt": tfds.features.Tensor(shape=(None,), dtype=np.bool_),
        }
        return tfds.core.DatasetInfo(
            builder=self, description=self.__doc__, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterable[Any]]:
        return {split: self._generate_examples(split) for split in self._sources}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        counted = self.counts[split] = Counter()
        lengths = self.lengths[split] = []
        source = _shown(_records(self._sources[split]), f"tokenizing ({split})", len(self._sources[split]))
        for number, made in enumerate(example.stream(source, self._recipe, counted)):
            lengths.append(len(made.ids))
            yield number, dataclasses.asdict(made)
        if not lengths:
            raise UserError(
                f"none of the {counted['records']} records ({split}) gives an example of at most {self._recipe.max_length} tokens: "
                f"{counted['no_target']} prompts leave no room for a target, {counted['dropped']} are dropped as too long; "
                "give a larger data.max_length"
            )


@dataclasses.dataclass(frozen=True)
class StoredExamples:
    """One split of a built token store: `lengths` int32 [N] in memory, the ids read when asked for."""

    lengths: np.ndarray
    source: Sequence[Mapping[str, Any]]

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, indices: Sequence[int]) -> list[example.Example]:
        """Returns the examples of these numbers."""
        found = self.source.__getitems__(list(indices))  # type: ignore[attr-defined]
        return [example.Example(each["ids"], each["learnt"]) for each in found]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What `load_examples` returns: the splits `train` and, if records are held out, `heldout`, and what became of the records."""

    examples: Mapping[str, StoredExamples]
    counts: Mapping[str, example.Counts]
    skipped: int  # broken records, under data.on_error=skip
    fingerprint: str  # of the records, the tokenizer and the settings that made them examples
    folder: Path


def load_examples(config: DataConfig, path: str | Path, tokenizer: Tokenizer) -> Dataset:
    """Returns the examples of the records at `path`: from the store in `config.cache`, built first if it isn't there."""
    cache = Path(config.cache or CACHE).expanduser()
    read = records.read(path, config.on_error)
    recipe = example.Recipe(template.get(config.template, tokenizer), tokenizer, config.max_length, config.truncation)
    key = {"records": read.sha256, "heldout": config.heldout, "on_error": config.on_error, "version": str(InstructionRecords.VERSION)}
    sources = _load_records(cache / "records" / _fingerprint(key), read.records, config.heldout)
    key |= {
        "version": str(TokenizedExamples.VERSION),
        "tokenizer": tokenizer.fingerprint,
        "template": [config.template, recipe.template.chat_template()],
        "max_length": config.max_length,
        "truncation": config.truncation,
    }
    fingerprint = _fingerprint(key)
    folder = cache / "examples" / fingerprint
    if not folder.is_dir():
        with _aside(folder) as aside:
            builder = TokenizedExamples(sources, recipe, data_dir=str(aside))
            _prepare(builder)
            for split, lengths in builder.lengths.items():
                np.save(aside / f"{split}.npy", np.array(lengths, np.int32))
            write_json(aside / "counts.json", builder.counts)
    with _damage_named(folder):
        opened = _open(folder, TokenizedExamples)
        examples = {split: StoredExamples(np.load(folder / f"{split}.npy"), source) for split, source in opened.items()}
        counts = {split: example.Counts(**counted) for split, counted in read_json(folder / "counts.json").items()}
    return Dataset(examples, counts, read.skipped, fingerprint, folder)


def _load_records(folder: Path, read: list[records.Record], heldout: int) -> Mapping[str, Sequence[Any]]:
    """The splits of the dataset of instruction records, built first if it isn't there."""
    train, held = records.split(read, heldout)
    if not folder.is_dir():
        with _aside(folder) as aside:
            _prepare(InstructionRecords({"train": train} | ({"heldout": held} if held else {}), data_dir=str(aside)))
    with _damage_named(folder):
        return _open(folder, InstructionRecords)


def _records(source: Sequence[Any]) -> Iterator[records.Record]:
    """The records of one split of `InstructionRecords`, read many at a time."""
    for start in range(0, len(source), AT_ONCE):
        for stored in source.__getitems__(list(range(start, min(start + AT_ONCE, len(source))))):  # type: ignore[attr-defined]
            texts = {name: text.decode() for name, text in stored.items()}
            yield records.Record(**texts | {"provenance": json.loads(texts["provenance"])})


def _fingerprint(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _prepare(builder: tfds.core.DatasetBuilder) -> None:
    tfds.disable_progress_bar()  # ours shows what is done out of how much
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))


def _open(folder: Path, builder: type[tfds.core.DatasetBuilder]) -> Mapping[str, Sequence[Any]]:
    return tfds.builder_from_directory(folder / builder.name / str(builder.VERSION)).as_data_source()


@contextlib.contextmanager
def _damage_named(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # TFDS, ArrayRecord and numpy each have their own
        raise UserError(f"{folder} is damaged ({error}): delete it, and it is built again") from error


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` when all went well: whole, or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=ASIDE))
    except OSError as error:
        raise UserError(f"{folder.parent}: can't be written ({error.strerror}); give another data.cache=") from error
    try:
        yield aside
        shutil.rmtree(aside / "downloads", ignore_errors=True)  # TFDS makes it, nothing is ever in it
        aside.chmod(0o755)
        _rename(aside, folder)
    except (OSError, RuntimeError) as error:
        if os.strerror(errno.ENOSPC) in str(error):  # ArrayRecord says it in a RuntimeError
            free = shutil.disk_usage(folder.parent).free / 1e6
            raise UserError(f"{folder}: the disk is full ({free:.1f} MB free); make room, or give another data.cache=") from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _rename(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker: its folder holds the same
            raise


def _sweep(parent: Path) -> None:
    """Removes what killed processes left half-built; by age, since another machine may be building here."""
    for left in parent.glob(f"{ASIDE}*"):
        with contextlib.suppress(FileNotFoundError):  # its process has just finished
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


def _shown(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """Yields the items, with a progress bar on a terminal and a line every 10 seconds elsewhere."""
    total = len(items) if total is None and isinstance(items, Sequence) else total
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total, description=what)
        return
    last = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - last > QUIET_SECONDS:
            last = time.monotonic()
            console.print(f"{what}: {number:,} of {total:,}")
        yield item
