"""The votes of each voter: a file of JSON lines that only grows, one line a vote, the last line of a question counts."""

import dataclasses
import json
import time
import unicodedata
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from alpaca_jax import documents, rundir
from alpaca_jax.errors import UserError

Level = Literal["first_much", "first_slightly", "tie", "second_slightly", "second_much", "both_bad"]
LEVELS: tuple[Level, ...] = get_args(Level)
OUTCOMES = {"first": 1.0, "tie": 0.5, "both": 0.5, "second": 0.0}  # by the first word of a level, as the first answer's points
LONGEST_NAME = 200  # bytes of a file's name, of the 255 that file systems take


@dataclasses.dataclass(frozen=True)
class Vote:
    """One person's verdict on two answers, `first` and `second` as they were shown."""

    voter: str
    question: str  # its key
    prompt: str
    first: str  # the model whose answer was shown as A
    second: str
    level: Level

    def points(self, model: str) -> float:
        """What `model` got: 1 for a win, 0.5 for a tie and where both are bad, 0 for a loss."""
        assert model in (self.first, self.second), model
        points = OUTCOMES[self.level.split("_")[0]]
        return points if model == self.first else 1 - points


class Ledger:
    """One voter's file: what is in it, and a line for each new vote."""

    def __init__(self, path: Path, voter: str) -> None:
        self.path = path
        self.voter = voter
        self.votes: dict[str, Vote] = {}  # by question, in the order of the first vote on each
        self.closed = False
        if path.exists():
            self._read()

    def add(self, vote: Vote) -> None:
        """Appends a vote; it is on the disk when this returns."""
        self._append(dataclasses.asdict(vote))
        self.votes[vote.question] = vote

    def close(self) -> None:
        """Ends the voting: the voter has seen the results, so no vote after this would be blind."""
        if not self.closed:
            self._append({"voter": self.voter, "closed": True})
            self.closed = True

    def _append(self, entry: dict[str, Any]) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        rundir.append_line(self.path, json.dumps({"time": at} | entry, ensure_ascii=False))

    def _read(self) -> None:
        *lines, tail = documents.read(self.path).split(b"\n")
        if _whole(tail):
            lines.append(tail)
        for number, line in enumerate(lines, 1):
            where = f"{self.path}, line {number}"
            entry = documents.json_object(line, where)
            self.voter = str(entry.get("voter", self.voter))
            if entry.get("closed") is True:
                self.closed = True
                continue
            vote = _vote(entry, where)
            self.votes[vote.question] = vote


def _whole(tail: bytes) -> bool:
    """Whether what follows the last newline is a line of its own; else a crash tore it, and the next vote removes it."""
    try:
        return isinstance(json.loads(tail), dict)
    except ValueError:
        return False


def _vote(entry: dict[str, Any], where: str) -> Vote:
    names = [field.name for field in dataclasses.fields(Vote)]
    missing = [name for name in names if not isinstance(entry.get(name), str)]
    if missing:
        raise UserError(f"{where}: a vote has the texts {', '.join(names)}, and {missing[0]} is not there; delete the line")
    if entry["level"] not in LEVELS:
        raise UserError(f"{where}: level={entry['level']!r} is none of {', '.join(LEVELS)}; delete the line")
    return Vote(**{name: entry[name] for name in names})


def identity(name: str) -> str:
    """Returns the name by which a voter is known, without differences of case and spaces; a UserError for what is none."""
    known = " ".join(unicodedata.normalize("NFKC", name).casefold().split())
    if not any(character.isalnum() for character in known):
        raise UserError("give a name: it needs a letter or a digit")
    if len(_file(known)) > LONGEST_NAME:
        raise UserError("give a shorter name")
    return known


def ledger(folder: Path, name: str) -> Ledger:
    """Returns the Ledger of the voter who calls himself `name`; its file comes with the first vote."""
    return Ledger(folder / _file(identity(name)), " ".join(name.split()))


def read(folder: Path) -> list[Ledger]:
    """Returns the Ledgers of everybody who has voted, ordered by name; a UserError names a line that is no vote."""
    return [Ledger(path, urllib.parse.unquote(path.stem)) for path in sorted(folder.glob("*.jsonl"))]


def _file(known: str) -> str:
    # Reversible, and no separator of folders survives it; a dot in front would hide the file.
    return urllib.parse.quote(known, safe=" ").replace(".", "%2E") + ".jsonl"


def all_votes(ledgers: Iterable[Ledger], questions: Iterable[str]) -> list[Vote]:
    """Returns what counts of everybody's votes: the last on each of `questions`; those on answers that are no longer there don't."""
    known = set(questions)
    return [vote for each in ledgers for vote in each.votes.values() if vote.question in known]
