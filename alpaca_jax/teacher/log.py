"""The log of every request with its raw answer: what was paid for once is never asked again, and can be read anew for nothing."""

import dataclasses
import json
import threading
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import append_line
from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.protocol import Answer, Request

SHARD = 1000  # indices in one file


class AnswerLog:
    """Append-only JSONL files in `folder`, safe to use from many threads; opening the log charges what it holds to `bill`.

    An index may take several requests, its steps. The file `00012000.jsonl` holds indices 12000 to 12999, in the order in which their
    answers came. Answers are read when they are needed: in memory is only where each of them begins, 8 bytes.

    The first line of each file holds the settings that shape the requests; a log of other settings is refused. Where requests cost money, a
    line with the most that a request may cost is written before it is sent, so that a killed run knows what it may have spent unseen.

    `older` is a log from when all lines were in one file: read as well, never written to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], bill: Bill, older: Path | None = None) -> None:
        self.folder, self.bill = folder, bill
        self.end = 0  # one past the last index with an answer
        self._older = older
        self._settings = json.loads(json.dumps(settings))
        # For each shard and step, the byte at which the line of each index begins, negative in the older file. 0 means no answer: the
        # settings are there.
        self._places: dict[int, list[array[int]]] = {}
        self._begun: set[str] = set()  # the names of the files that hold their settings
        self._lock = threading.Lock()
        in_flight: dict[tuple[int, int], float] = {}
        for file in files(folder, older):
            self._scan(file, in_flight)
        bill.lose(sum(in_flight.values()))
        if not self._begun:
            self._begin(_shard(0))

    def asked(self, index: int) -> Iterator[tuple[Request, Answer]]:
        """Reads the requests of one index with their answers, in the order of the steps."""
        for place in self._steps(index):
            file = self.folder / _shard(index) if place > 0 else self._older
            assert file is not None
            with open(file, "rb") as opened:
                opened.seek(abs(place))
                yield _parse(json.loads(opened.readline()))

    def answers(self, index: int) -> list[Answer]:
        """Reads the answers of one index, in the order of the steps."""
        return [answer for _, answer in self.asked(index)]

    def note(self, index: int, step: int, kind: str, dollars: float) -> None:
        """Puts on disk what a request "may_cost" before it is sent, or did "cost_at_most" when no answer came."""
        with self._lock:
            self._append(index, {"index": index, "step": step, kind: dollars})

    def append(self, index: int, step: int, request: Request, answer: Answer) -> None:
        """Puts an answer on disk before anybody builds on it."""
        line = {"index": index, "step": step, "request": dataclasses.asdict(request), "answer": dataclasses.asdict(answer)}
        with self._lock:
            self._place(index, step, self._append(index, line))

    def _append(self, index: int, line: Mapping[str, Any]) -> int:
        """The byte at which the line begins."""
        if (name := _shard(index)) not in self._begun:
            self._begin(name)
        return append_line(self.folder / name, json.dumps(line, ensure_ascii=False))

    def _begin(self, name: str) -> None:
        append_line(self.folder / name, json.dumps({"settings": self._settings}))
        self._begun.add(name)

    def _steps(self, index: int) -> list[int]:
        return [places[index % SHARD] for places in self._places.get(index // SHARD, ()) if places[index % SHARD]]

    def _place(self, index: int, step: int, place: int) -> None:
        if step != len(self._steps(index)):
            raise ValueError(f"step {step} of index {index} follows {len(self._steps(index))} answers")
        shard = self._places.setdefault(index // SHARD, [])
        if step == len(shard):
            shard.append(array("q", bytes(8 * SHARD)))
        shard[step][index % SHARD] = place
        self.end = max(self.end, index + 1)

    def _scan(self, file: Path, in_flight: dict[tuple[int, int], float]) -> None:
        """Notes the places of a file's answers and charges them; `in_flight` has the dollars of requests whose end isn't known."""
        older = file == self._older
        for number, begin, line in _lines(file):
            if file.name not in self._begun:
                self._check(file, number, line.get("settings"))
                self._begun.add(file.name)
                continue
            try:
                index, step = line["index"], line["step"]
                if not older and file.name != _shard(index):
                    raise ValueError(f"index {index} belongs in {_shard(index)}")
                before = in_flight.pop((index, step), 0.0)
                if "may_cost" in line:
                    self.bill.lose(before)  # of a run that was killed
                    in_flight[index, step] = line["may_cost"]
                elif "cost_at_most" in line:
                    self.bill.lose(line["cost_at_most"])
                else:
                    request, answer = _parse(line)
                    self._place(index, step, -begin if older else begin)
                    self.bill.charge(request, answer)
            except (KeyError, TypeError, ValueError) as problem:
                raise _broken(file, number, f"{type(problem).__name__}: {problem}") from None

    def _check(self, file: Path, number: int, before: Any) -> None:
        if not isinstance(before, dict):
            raise _broken(file, number, "no settings")
        now = self._settings
        differing = [
            f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in {**before, **now} if before.get(key) != now.get(key)
        ]
        if differing:
            raise UserError(
                f"{file} holds the answers of another run:\n  " + "\n  ".join(differing) + "\ngive another dir=, or the settings of before"
            )


def files(folder: Path, older: Path | None = None) -> list[Path]:
    """The files of the log in `folder`, the older one first; none where there is no log."""
    shards = sorted(folder.glob("*.jsonl"))
    return [older, *shards] if older is not None and older.exists() else shards


def _shard(index: int) -> str:
    return f"{index // SHARD * SHARD:08d}.jsonl"


def _lines(file: Path) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """(number from 1, first byte, content) of each line. A line that a kill left torn is skipped: the next append removes it."""
    begin = 0
    with open(file, "rb") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                try:
                    content = json.loads(line)
                except ValueError as problem:
                    if not line.endswith(b"\n"):
                        return
                    raise _broken(file, number, str(problem)) from None
                if not isinstance(content, dict):
                    raise _broken(file, number, "not an object")
                yield number, begin, content
            begin += len(line)


def _parse(line: Mapping[str, Any]) -> tuple[Request, Answer]:
    request = line["request"]
    return Request(**{**request, "stop": tuple(request["stop"])}), Answer(**line["answer"])


def _broken(file: Path, number: int, problem: str) -> UserError:
    return UserError(f"{file}, line {number}: not a line of an answers log ({problem}). Remove that line, or give another dir=.")
