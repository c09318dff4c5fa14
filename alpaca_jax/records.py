"""Instruction records: read in the shapes the field uses, written in one, split the same way everywhere, described by a manifest."""

import contextlib
import dataclasses
import glob
import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from alpaca_jax import storage
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import read_json, write_atomic, write_json

OnError = Literal["stop", "skip"]
FILE = "records.jsonl"
MANIFEST = "manifest.json"
SHARDS = (".jsonl", ".jsonl.gz", ".json", ".txt")
BOM = b"\xef\xbb\xbf"

# Roles by the names that exports of ShareGPT use.
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}


@dataclasses.dataclass(frozen=True)
class Record:
    """An instruction with its answer, and the later `turns` (user, assistant); a text for pre-training has only an `output`.

    `id` is a hash of the texts unless the file has one.
    """

    instruction: str
    input: str = ""
    output: str = ""
    id: str = ""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            texts: list[Any] = [self.instruction, self.input, self.output]
            if self.system or self.turns:
                texts += [self.system, self.turns]
            object.__setattr__(self, "id", hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16])


@dataclasses.dataclass(frozen=True)
class Records:
    """The content of files: records in order, the numbers of skipped and of shortened ones, the sha256 of the files."""

    records: list[Record]
    skipped: int
    shortened: int
    sha256: str


def read(path: str | Path, on_error: OnError = "stop") -> Records:
    """All records of the files at `path`, in memory."""
    paths, counted = files(path), Counter[str]()
    return Records(list(stream(paths, on_error, counted)), counted["skipped"], counted["shortened"], sha256(paths))


def files(path: str | Path) -> list[Path]:
    """The files of records at `path`, sorted by name: a file, the files of a glob pattern, or a folder's records.jsonl or else its shards.

    The shards of a folder are its .jsonl, .jsonl.gz, .json and .txt files; records.jsonl may also be in its subfolder `records`. On an
    object store only the last part of a path may be a pattern.
    """
    path = storage.at(path)
    with storage.explained(path):
        return _files(path)


def _files(path: Path) -> list[Path]:
    choices = [path / FILE, path / "records" / FILE] if path.is_dir() else [path]
    for file in choices:
        if file.is_file():
            return [file]
    if path.is_dir():
        candidates = [
            file for file in path.iterdir() if file.name.endswith(SHARDS) and file.name != MANIFEST and not file.name.startswith(".")
        ]
        choices.append(path / "*.jsonl")
    else:
        matching = path.parent.glob(path.name) if storage.is_remote(path) else map(Path, glob.glob(str(path), recursive=True))
        candidates = list(matching)
    paths = sorted(file for file in candidates if file.is_file())
    if not paths:
        raise UserError(
            f"{path}: no records there (looked for {', '.join(map(str, choices))}). Give data.records=FILE, or run `generate` first."
        )
    return paths


def stream(files: Sequence[Path], on_error: OnError, counted: Counter[str]) -> Iterator[Record]:
    """Yields the records of JSONL files (ours, `messages`, ShareGPT, texts), Alpaca JSON arrays and .txt files, one at a time.

    Only JSON arrays and .txt files are held in memory as a whole. A broken record raises a UserError that names the file and the line (in
    an array the record's number, from 1); with `on_error="skip"` it is counted in `skipped` instead. `shortened` counts conversations that
    lost a first answer without its question or a last question without its answer.
    """
    count, skipped = 0, counted["skipped"]
    for file in files:
        for where, load in _items(file):
            try:
                record, cut = _record(load())
            except ValueError as problem:
                if on_error == "stop":
                    raise UserError(f"{file}, {where}: {problem}. Repair it, or leave such records out with data.on_error=skip.") from None
                counted["skipped"] += 1
                continue
            count += 1
            counted["shortened"] += cut
            yield record
    if not count:
        broken = counted["skipped"] - skipped
        reason = f"all its {broken} records are broken" if broken else "it is empty"
        more = f" and {len(files) - 1} more" if len(files) > 1 else ""
        raise UserError(f"{files[0]}{more}: no record in it ({reason}). Expected a JSON object on each line, or an Alpaca JSON array.")


def sha256(files: Sequence[Path]) -> str:
    """The sha256 (hex) of a file; of several files, that of their sha256s in this order."""
    digests = []
    for file in files:
        with storage.explained(file), file.open("rb") as opened:
            digests.append(hashlib.file_digest(opened, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def write(path: Path, records: Iterable[Record]) -> str:
    """Writes a JSONL file at `path` atomically, and returns its sha256."""
    content = "".join(json.dumps(_written(record), ensure_ascii=False) + "\n" for record in records).encode()
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def rank(record: Record) -> int:
    """A number from 0 to 2**64 - 1 by which records are held out: the start of the sha256 of the id."""
    return int.from_bytes(hashlib.sha256(record.id.encode()).digest()[:8], "big")


def heldout_ids(ranks: np.ndarray, heldout: int) -> np.ndarray:
    """Which records are held out, bool [N]: those with the `heldout` lowest `ranks` (uint64 [N]); of equal ranks, the earlier."""
    if not 0 <= heldout < len(ranks):
        raise UserError(f"data.heldout={heldout}: there are {len(ranks)} records, and at least one must be left for training.")
    chosen = np.zeros(len(ranks), bool)
    chosen[np.argsort(ranks, kind="stable")[:heldout]] = True
    return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a records file was generated: enough to trace it, to check it and to estimate the cost of repeating it."""

    method: str
    teacher: dict[str, Any]
    sampling: dict[str, Any]
    seed: int
    records: int
    sha256: str
    counts: dict[str, int]  # what became of the answers: kept, or dropped by which filter
    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float  # by the token counts in the answers
    doubtful_dollars: float  # at most this much more, for requests whose answer never arrived
    prices: dict[str, Any]  # dollars per million tokens, and the source of that figure
    seconds: float  # of the process that wrote this
    stopped_by: str  # "count", "dollars", "requests", "patience" or "log"
    versions: dict[str, str]
    made: str  # ISO date and time, UTC
    unbelieved_answers: int = 0  # whose token counts can't be true or are missing: charged the most that they can cost
    cached_prompt_tokens: int = 0  # of the prompt tokens, those that the teacher had in its cache
    damaged_lines: int = 0  # of the log of answers, passed over

    def write(self, path: Path) -> None:
        """Writes the manifest to `path` atomically, as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest at `path`; a UserError where it is not one of ours."""
        try:
            return cls(**read_json(path))
        except TypeError as problem:
            raise UserError(f"{path}: not a manifest of records ({problem}). Make the records again with `alpaca-jax generate`.") from None


def _written(record: Record) -> dict[str, Any]:
    """The record as JSON: a text for pre-training as `text`, others without an empty system message and empty turns."""
    fields = dataclasses.asdict(record)
    if not record.instruction:
        return {"text": record.output, "id": record.id, "provenance": fields["provenance"]}
    return {name: value for name, value in fields.items() if value or name not in ("system", "turns")}


def _items(file: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """(place, function that loads it) of each item; the function raises a ValueError where the item is broken."""
    try:
        with _opened(file) as content:
            if file.name.endswith((".txt", ".txt.gz")):
                yield "its text", partial(_document, content.read())
            elif _first(content) == b"[":
                yield from _array(file, content.read())
            else:
                for number, line in enumerate(content, start=1):
                    line = (line.removeprefix(BOM) if number == 1 else line).rstrip(b"\r\n")
                    if line.strip():
                        yield f"line {number}", partial(_parsed, line)
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise UserError(f"{file}: not a whole gzip file ({problem}). It may be cut off: download or generate it again.") from None


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    with storage.explained(file), file.open("rb") as plain:
        if file.suffix == ".gz":
            with gzip.open(plain) as content:
                yield cast(BinaryIO, content)
        else:
            yield cast(BinaryIO, plain)


def _first(content: BinaryIO) -> bytes:
    """The first byte that is neither a byte order mark nor white space; rewinds the file."""
    first = b""
    for line in content:
        first = line.removeprefix(BOM).lstrip()[:1]
        if first:
            break
    content.seek(0)
    return first


def _array(file: Path, content: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    try:
        array = json.loads(content.decode("utf-8-sig"))
    except ValueError as problem:
        raise UserError(f"{file}: not a JSON array ({problem}). It may be cut off: download or generate it again.") from None
    for number, item in enumerate(array, start=1):
        yield f"record {number}", partial(_same, item)


def _same(item: Any) -> Any:
    return item


def _parsed(line: bytes) -> Any:
    return json.loads(line.decode())


def _document(content: bytes) -> Any:
    return {"text": content.decode("utf-8-sig")}


def _record(item: Any) -> tuple[Record, bool]:
    """(record, whether a turn was left out); a ValueError says what is wrong."""
    if not isinstance(item, dict):
        raise ValueError(f"expected a JSON object, got {type(item).__name__}")
    shortened = False
    if "messages" in item or "conversations" in item:
        texts, turns, shortened = _conversation(item)
    elif "text" in item and item.get("instruction") is None:
        texts, turns = {"instruction": "", "output": _text(item, "text")}, []
        if not texts["output"].strip():
            raise ValueError("text is empty")
    else:
        texts, turns = _instruction(item)
    texts["system"] = texts.get("system") or _text(item, "system")
    for text in (*texts.values(), *(text for turn in turns for text in turn)):
        text.encode()  # an unpaired surrogate, which JSON allows, raises a ValueError
    provenance = item.get("provenance") or {}
    return Record(**texts, id=str(item.get("id") or ""), provenance=provenance, turns=tuple(turns)), shortened


def _text(item: Mapping[str, Any], name: str) -> str:
    text = item.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{name} must be a string, got {type(text).__name__}")
    return text or ""


def _instruction(item: dict[str, Any]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The texts and the later turns of a record in our own format."""
    missing = [name for name in ("instruction", "output") if item.get(name) is None]
    if missing:
        raise ValueError(f"lacks the field {' and '.join(missing)} (it has: {', '.join(map(str, item)) or 'none'})")
    texts = {name: _text(item, name) for name in ("instruction", "input", "output")}
    if not texts["instruction"].strip():
        raise ValueError("instruction is empty")
    turns = item.get("turns") or []
    if not isinstance(turns, list) or not all(isinstance(turn, list) and [type(text) for text in turn] == [str, str] for turn in turns):
        raise ValueError("turns must be a list of pairs of strings, the user's and the assistant's")
    if not all(user.strip() for user, _ in turns):
        raise ValueError("turns: a user's text is empty")
    return texts, [(user, assistant) for user, assistant in turns]


def _conversation(item: dict[str, Any]) -> tuple[dict[str, str], list[tuple[str, str]], bool]:
    """The texts and later turns of `messages` (role, content) or ShareGPT (from, value), and whether a turn was left out."""
    key, who, what = ("messages", "role", "content") if "messages" in item else ("conversations", "from", "value")
    turns = item[key]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) and isinstance(turn.get(what), str) for turn in turns):
        raise ValueError(f"{key} must be a list of objects with {who} and a text in {what}")
    said = [(SPEAKERS.get(str(turn.get(who)), turn.get(who)), turn[what]) for turn in turns]
    system = said[0][1] if said and said[0][0] == "system" else ""
    talk = list(enumerate(said, start=1))[bool(said) and said[0][0] == "system" :]
    length = len(talk)
    # Exports that were split into parts may begin with an answer and end with a question.
    if talk and talk[0][1][0] == "assistant":
        talk = talk[1:]
    if len(talk) % 2 and talk[-1][1][0] == "user":
        talk = talk[:-1]
    if not talk:
        raise ValueError(f"{key} must have a user's turn and an assistant's answer")
    for place, (number, (role, text)) in enumerate(talk):
        expected = ("user", "assistant")[place % 2]
        if role != expected:
            raise ValueError(f"turn {number} of {key} is by {role}, where the {expected}'s is expected")
        if role == "user" and not text.strip():
            raise ValueError(f"turn {number} of {key}, the user's, is empty")
    texts = [text for _, (_, text) in talk]
    first = {"instruction": texts[0], "output": texts[1], "system": system}
    return first, list(zip(texts[2::2], texts[3::2], strict=True)), len(talk) < length
