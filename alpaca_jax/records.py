"""Instruction records: read in the shapes the field uses, written in one, split the same way everywhere, described by a manifest."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import read_json, write_atomic, write_json

OnError = Literal["stop", "skip"]
FILE = "records.jsonl"
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Record:
    """One instruction with its answer; `id` is a hash of the three texts where the file names none."""

    instruction: str
    input: str = ""
    output: str = ""
    id: str = ""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.id:
            texts = json.dumps([self.instruction, self.input, self.output])
            object.__setattr__(self, "id", hashlib.sha256(texts.encode()).hexdigest()[:16])


@dataclasses.dataclass(frozen=True)
class Records:
    """What a file held: its records in order, the broken ones skipped, the conversations cut to their first turn, the file's sha256."""

    records: list[Record]
    skipped: int
    shortened: int
    sha256: str


def read(path: str | Path, on_error: OnError = "stop") -> Records:
    """The records of a JSONL file (ours, `messages` or ShareGPT), an Alpaca JSON array, or a folder holding records.jsonl.

    A broken record raises UserError naming the file and the line (in an array the record's number, from 1); with
    `on_error="skip"` it is counted instead. A conversation gives its first user and assistant turn; learning from later
    turns is not supported yet, and `shortened` counts them.
    """
    file = _find(Path(path))
    content = file.read_bytes()
    records: list[Record] = []
    skipped = shortened = 0
    for where, load in _items(file, content):
        try:
            record, cut = _record(load())
        except ValueError as problem:
            if on_error == "stop":
                raise UserError(f"{file}, {where}: {problem}. Mend it, or leave such records out with data.on_error=skip.") from None
            skipped += 1
            continue
        records.append(record)
        shortened += cut
    if not records:
        found = f"all its {skipped} records are broken" if skipped else "it is empty"
        raise UserError(f"{file}: no record in it ({found}). Expected one JSON object a line, or the Alpaca JSON array.")
    return Records(records, skipped, shortened, hashlib.sha256(content).hexdigest())


def write(path: Path, records: Iterable[Record]) -> str:
    """The sha256 of the JSONL file it puts at `path` atomically, one record a line."""
    content = "".join(json.dumps(dataclasses.asdict(record), ensure_ascii=False) + "\n" for record in records).encode()
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def split(records: Sequence[Record], heldout: int) -> tuple[list[Record], list[Record]]:
    """(train, held out), each in the given order; held out are the `heldout` lowest hashes of ids, whatever the file's order."""
    if not 0 <= heldout < len(records):
        raise UserError(f"data.heldout={heldout}: there are {len(records)} records, and at least one must be left to train on.")
    rank = sorted(range(len(records)), key=lambda i: (hashlib.sha256(records[i].id.encode()).digest(), i))
    chosen = set(rank[:heldout])
    train = [record for i, record in enumerate(records) if i not in chosen]
    return train, [record for i, record in enumerate(records) if i in chosen]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a records file came to be: enough to trace it, to check it and to pay for it again."""

    method: str
    teacher: dict[str, Any]
    sampling: dict[str, Any]
    seed: int
    records: int
    sha256: str
    counts: dict[str, int]  # what became of every answer: kept, and each filter's drops
    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float  # by the answers' own token counts
    doubtful_dollars: float  # at most, for requests whose answer was never seen
    prices: dict[str, Any]  # dollars a million tokens, and where that figure is from
    seconds: float  # of the start that wrote this
    stopped_by: str  # "count", "dollars", "requests" or "log"
    versions: dict[str, str]
    made: str  # ISO date and time, UTC

    def write(self, path: Path) -> None:
        """Puts the manifest at `path` atomically, as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest at `path`; UserError when it is not one of ours."""
        try:
            return cls(**read_json(path))
        except TypeError as problem:
            raise UserError(f"{path}: not a manifest of records ({problem}). Make the records again with `alpaca-jax generate`.") from None


def _find(path: Path) -> Path:
    choices = [path / FILE, path / "records" / FILE] if path.is_dir() else [path]
    for file in choices:
        if file.is_file():
            return file
    raise UserError(
        f"{path}: no records there (looked for {', '.join(map(str, choices))}). Give data.records=FILE, or run `generate` first."
    )


def _items(file: Path, content: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(where, load) of each item; `load` raises ValueError on a broken line."""
    if content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        try:
            array = json.loads(content.decode("utf-8-sig"))
        except ValueError as problem:
            raise UserError(f"{file}: not a JSON array ({problem}). It may be cut off: fetch or make it again.") from None
        for number, item in enumerate(array, start=1):
            yield f"record {number}", partial(_same, item)
        return
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield f"line {number}", partial(_parsed, line)


def _same(item: Any) -> Any:
    return item


def _parsed(line: bytes) -> Any:
    return json.loads(line.decode())


def _record(item: Any) -> tuple[Record, bool]:
    """(record, whether later turns were left out); ValueError says what is wrong."""
    if not isinstance(item, dict):
        raise ValueError(f"expected a JSON object, got {type(item).__name__}")
    if "messages" in item or "conversations" in item:
        return _conversation(item)
    lacking = [name for name in ("instruction", "output") if item.get(name) is None]
    if lacking:
        raise ValueError(f"lacks the field {' and '.join(lacking)} (it has: {', '.join(map(str, item)) or 'none'})")
    texts = {name: "" if item.get(name) is None else item[name] for name in ("instruction", "input", "output")}
    wrong = [name for name, text in texts.items() if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"{wrong[0]} must be a string, got {type(texts[wrong[0]]).__name__}")
    if not texts["instruction"].strip():
        raise ValueError("instruction is empty")
    return Record(**texts, id=str(item.get("id") or ""), provenance=item.get("provenance") or {}), False


def _conversation(item: dict[str, Any]) -> tuple[Record, bool]:
    """The first exchange of a `messages` (role, content) or ShareGPT (from, value) conversation."""
    key, who, what = ("messages", "role", "content") if "messages" in item else ("conversations", "from", "value")
    turns = item[key]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and isinstance(turn.get(what), str) for turn in turns):
        raise ValueError(f"{key} must be a list of objects with {who} and a text in {what}")
    names = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}
    spoken = [(names.get(turn.get(who), turn.get(who)), turn[what]) for turn in turns]
    system = next((text for role, text in spoken if role == "system"), None)
    talk = [(role, text) for role, text in spoken if role != "system"]
    if [role for role, _ in talk[:2]] != ["user", "assistant"]:
        raise ValueError(f"{key} must begin with a user's turn and an assistant's answer")
    if not talk[0][1].strip():
        raise ValueError("the user's first turn is empty")
    provenance = {**(item.get("provenance") or {}), **({"system": system} if system else {})}
    return Record(talk[0][1], "", talk[1][1], id=str(item.get("id") or ""), provenance=provenance), len(talk) > 2
