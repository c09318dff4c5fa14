"""Where records come from: files in the usual shapes, or a dataset that TFDS has prepared (`tfds:NAME`)."""

import dataclasses
import functools
import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alpaca_jax import records, storage
from alpaca_jax.config import suggestion
from alpaca_jax.data.built import CACHE, atomic_folder
from alpaca_jax.errors import UserError
from alpaca_jax.records import keys

PREFIX = "tfds:"
OWN = {"turns", "provenance"}  # features of the datasets that this package writes
AT_ONCE = 1024  # records read together: reading them one by one takes six times as long


class Origin(Protocol):
    """Records in a fixed order, which may be streamed any number of times."""

    @property
    def fingerprint(self) -> str:
        """Identifies the content: the same fingerprint means the same records."""
        ...

    def check(self) -> None:
        """Raises a UserError that names what can't be read of it, before anything is."""
        ...

    def stream(self, counted: Counter[str]) -> Iterator[records.Record]:
        """Yields the records one at a time; counts in `counted` what `records.stream` does."""
        ...


def find(where: str | Path, on_error: records.OnError = "stop") -> Origin:
    """Returns the origin that `data.records` names: a file, a folder, a glob pattern, or `tfds:NAME[#SPLIT]`.

    NAME is what TFDS calls the dataset, with CONFIG and VERSION where needed, or the folder of a built dataset.
    """
    text = str(where)
    if text.startswith(PREFIX):
        return Prepared.of(text)
    return Files(tuple(records.files(where)), on_error, folder=storage.at(where).is_dir())


@dataclasses.dataclass(frozen=True)
class Files:
    """Records in files; the fingerprint is the sha256 of their contents."""

    paths: tuple[Path, ...]
    on_error: records.OnError
    folder: bool = False  # whether they were named by their folder

    @functools.cached_property
    def fingerprint(self) -> str:
        return f"{records.sha256(self.paths)} {self.on_error}"

    def check(self) -> None:
        records.check(self.paths)

    def stream(self, counted: Counter[str]) -> Iterator[records.Record]:
        return records.stream(self.paths, self.on_error, counted)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """One split of a prepared TFDS dataset: documents (the feature `text`), or instructions in features called like our fields."""

    name: str
    split: str
    builder: Any

    @classmethod
    def of(cls, text: str) -> "Prepared":
        """Returns the dataset that `tfds:NAME[/CONFIG][:VERSION][#SPLIT]` names; UserError where TFDS has not prepared it."""
        import tensorflow_datasets as tfds

        name, _, split = text.removeprefix(PREFIX).partition("#")
        split = split or "train"
        try:
            folder = _folder(name)
            builder = tfds.builder(name) if folder is None else tfds.builder_from_directory(str(folder))
        except UserError:
            raise
        except Exception as error:  # an unknown name, configuration or version: TFDS has an error for each
            raise UserError(f"data.records={text}: TFDS knows no dataset {name} ({str(error).splitlines()[0]})") from error
        if not builder.info.splits:
            raise UserError(
                f"data.records={text}: {name} is not prepared in {builder.data_path.parent}; run `tfds build {name}`, "
                "or set TFDS_DATA_DIR to the folder where it is"
            )
        if split not in builder.info.splits:
            known = list(builder.info.splits)
            raise UserError(f"data.records={text}: {name} has no split {split}{suggestion(split, known)} (it has: {', '.join(known)})")
        if ignored := _ignored(set(builder.info.features)):
            raise UserError(
                f"data.records={text}: {name} has the feature {ignored}, which isn't read of a TFDS dataset, and without which its records "
                "mean something else: write them as JSON lines"
            )
        if not {"text", "instruction"} & set(builder.info.features):
            raise UserError(
                f"data.records={text}: {name} has neither a feature text nor instruction (it has: {', '.join(builder.info.features)})"
            )
        return cls(builder.info.full_name, split, builder)

    @property
    def fingerprint(self) -> str:
        split = self.builder.info.splits[self.split]
        return json.dumps([self.name, self.split, split.num_examples, split.num_bytes, list(split.shard_lengths)])

    def check(self) -> None:
        """Nothing to check: TFDS has read its description."""

    def stream(self, counted: Counter[str]) -> Iterator[records.Record]:
        if set(self.builder.info.features) >= OWN:  # written by this package
            yield from map(restored, self._items())
            return
        for number, item in enumerate(self._items()):
            fields: dict[str, Any] = {
                name: _text(value) for name, value in item.items() if name in ("instruction", "input", "output", "id")
            }
            if "instruction" not in fields:
                fields = {"instruction": "", "output": _text(item["text"]), "id": f"{self.name}/{self.split}/{number}"}
            yield records.Record(**fields, provenance={"dataset": self.name})

    def _items(self) -> Iterator[Mapping[str, Any]]:
        import tensorflow_datasets as tfds

        if self.builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
            yield from many(self.builder.as_data_source(split=self.split))
        else:
            yield from tfds.as_numpy(self.builder.as_dataset(split=self.split, shuffle_files=False))


def _ignored(features: set[str]) -> str:
    """The features of a dataset that change the meaning of its records and aren't read, "" if none, or if this package wrote it."""
    if features >= OWN:
        return ""
    more = {"system", "history", "turns"} if "instruction" in features else set()
    return ", ".join(sorted(each for each in features if each in more or each.lower() in keys.REFUSED))


def _folder(name: str) -> Path | None:
    """The local folder of a dataset that is named by its folder (one on an object store is copied first), or None."""
    if not storage.is_remote(name):
        return Path(name) if Path(name).is_dir() else None
    remote = storage.at(name)
    if not (listed := storage.objects(remote)):
        raise UserError(f"data.records={PREFIX}{name}: nothing is there; give the folder with the dataset's dataset_info.json")
    folder = Path(CACHE).expanduser() / "fetched" / digest([name, listed]) / remote.parent.name / remote.name
    if not folder.is_dir():
        with atomic_folder(folder) as building:
            storage.fetch(remote, building)
    return folder


def many(source: Sequence[Any]) -> Iterator[Any]:
    """Yields the items of a TFDS data source in order, reading many at a time."""
    for start in range(0, len(source), AT_ONCE):
        yield from source.__getitems__(list(range(start, min(start + AT_ONCE, len(source)))))  # type: ignore[attr-defined]


def stored(record: records.Record) -> dict[str, str]:
    """Returns the record as features of a dataset: texts only."""
    turns: Any = record.turns
    if record.shown or record.reasoning or record.is_preference:
        turns = {"turns": record.turns, "shown": record.shown, "reasoning": record.reasoning}
    if record.is_preference:
        turns |= {"rejected": record.rejected, "desired": record.desired}
    return {
        "id": record.id,
        "system": record.system,
        "instruction": record.instruction,
        "input": record.input,
        "output": record.output,
        "turns": json.dumps(turns, ensure_ascii=False),
        "provenance": json.dumps(dict(record.provenance), ensure_ascii=False),
    }


def restored(item: Mapping[str, Any]) -> records.Record:
    """Returns the record that `stored` turned into texts."""
    texts = {name: text.decode() for name, text in item.items()}
    turns = json.loads(texts.pop("turns"))
    more = turns if isinstance(turns, dict) else {"turns": turns}
    return records.Record(
        **texts | {"provenance": json.loads(texts["provenance"])},
        turns=tuple((user, answer) for user, answer in more["turns"]),
        shown=tuple(more.get("shown", ())),
        reasoning=tuple(more.get("reasoning", ())),
        rejected=more.get("rejected"),
        desired=more.get("desired"),
    )


def held_out(origin: Origin, heldout: int) -> np.ndarray:
    """Returns which of the origin's records are kept out of training, bool [N], copies on one side; see `records.heldout_ids`."""
    ranks, texts = array("Q"), array("Q")
    for record in origin.stream(Counter()):
        ranks.append(records.rank(record))
        texts.append(int(record.text_id(), 16))
    return records.heldout_ids(np.frombuffer(ranks, np.uint64), heldout, np.frombuffer(texts, np.uint64))


def digest(key: Any) -> str:
    """Returns a short hash of `key`, any JSON."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
