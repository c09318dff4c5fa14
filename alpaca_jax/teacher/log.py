"""The log of every request with what came back: what was paid for once is never asked again, and can be read anew for nothing."""

import contextlib
import dataclasses
import json
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import append_line
from alpaca_jax.teacher import lines, refuge
from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.protocol import Answer, Entry, Reply, Request
from alpaca_jax.teacher.reserve import Reserve, Saving

T = TypeVar("T")
# The next request of an index, given its answers so far, or its result when there is nothing more to ask. Called from many threads.
Advance = Callable[[int, Sequence[Answer]], Request | T]
SHARD = 1000  # indices in one file
RESERVED = 1 << 16  # bytes for an answer in flight
MOST_RESERVED = 16 << 20


class AnswerLog:
    """Append-only JSONL files in `folder`, safe to use from many threads; opening the log charges what it holds to `bill`.

    An index may take several requests, its steps. The file `00012000.jsonl` holds indices 12000 to 12999, in the order in which their
    answers came. Answers are read when they are needed: in memory is only where each of them begins, 8 bytes.

    The first line of each file holds the settings that shape the requests; a log of other settings is refused. Where requests cost money or
    are limited, a line with the most that a request may cost is written before it is sent, so that a killed run knows what it may have
    spent unseen. An answer is written as it was received, before it is read.

    A line that can't be read is named in `damaged` and passed over: what it held is asked again.

    `older` is a log from when all lines were in one file: read as well, never written to.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], bill: Bill, older: Path | None = None) -> None:
        self.folder, self.bill = folder, bill
        self.end = 0  # one past the last index with an answer
        self.damaged: list[str] = []  # file, line and problem of each line that was passed over
        self._older = older
        self._settings = json.loads(json.dumps(settings))
        # For each shard and step, the byte at which the line of each index begins, negative in the older file. 0 means no answer: the
        # settings are there.
        self._places: dict[int, list[array[int]]] = {}
        # Indices some of whose lines are damaged or doubled: the step and the byte of each line, as it comes.
        self._unsure: dict[int, list[tuple[int, int]]] = {}
        self._begun: set[str] = set()  # the names of the files that hold their settings
        self._lock = threading.RLock()
        self._saving = Saving()
        self._take_refugees()
        in_flight: dict[tuple[int, int], float] = {}
        for file in files(folder, older):
            self._scan(file, in_flight)
        bill.lose(sum(in_flight.values()))
        if not self._begun:
            self._begin(_shard(0))

    def asked(self, index: int) -> Iterator[tuple[Request, Answer]]:
        """Reads the requests of one index with their answers, in the order of the steps."""
        return (self._read(index, place) for place in self._steps(index))

    def answers(self, index: int) -> list[Answer]:
        """Reads the answers of one index, in the order of the steps."""
        return [answer for _, answer in self.asked(index)]

    def first_requests(self) -> Iterator[tuple[int, Request, Answer]]:
        """Reads each index that has an answer: the first of its requests, or of those that damage left, with its answer."""
        for shard, steps in self._places.items():
            for offset, place in enumerate(steps[0]):
                if place:
                    yield shard * SHARD + offset, *self._read(shard * SHARD + offset, place)
        for index, found in self._unsure.items():
            if found:
                yield index, *self._read(index, min(found)[1])

    def follow(self, index: int, advance: Advance[T], known: list[Answer] | None = None) -> tuple[list[Answer], Request | T]:
        """The answers of one index, and what comes next: the first request without an answer, or the result; `known` are its first answers.

        Where lines of the index are damaged or doubled, an answer counts only for the very request that it was given to.
        """
        answers = self.answers(index) if known is None else known
        while isinstance(step := advance(index, answers), Request) and (answer := self._answer_to(step, index, len(answers))):
            answers.append(answer)
        return answers, step

    def entry(self, index: int, step: int, request: Request) -> Entry:
        """The place of an answer that is about to be asked for."""
        return _Entry(self, index, step, request)

    def note(self, index: int, step: int, kind: str, dollars: float) -> None:
        """Puts on disk what a request "may_cost" before it is sent, did "cost_at_most" when no answer came, or that it was "not_sent"."""
        with self._lock:
            self.check()
            try:
                self._append(index, {"index": index, "step": step, kind: dollars})
            except (OSError, UserError) as problem:
                self._saving.fail(problem)
                self.check()

    def keep(self, index: int, step: int, request: Request, received: Reply) -> None:
        """Puts what was received on disk before anybody reads it; on a full disk, in the room kept for it, else in memory."""
        line = {"index": index, "step": step, **lines.written(request, received)}
        with self._lock:
            try:
                self._put(index, step, line)
            except (OSError, UserError) as problem:
                self._saving.fail(problem)
                try:
                    self._put(index, step, line)
                except (OSError, UserError):
                    self._saving.unsaved.append(line)

    def check(self) -> None:
        """Raises the error that the log couldn't be written for: nothing more may be asked then."""
        if self._saving.problem is not None:
            raise UserError(
                f"{self._saving.problem}. Nothing more was asked since; answers that were on their way were waited for and are kept: the "
                "same command goes on from them."
            )

    @contextlib.contextmanager
    def reserving(self, answers: int) -> Iterator[None]:
        """A context in which that many answers find room on a disk that has become full; a UserError where some found none."""
        self._saving.reserve = Reserve(self.folder / ".reserve", min(answers * RESERVED, MOST_RESERVED))
        try:
            yield
        finally:
            self._saving.reserve.release()
            self._save_rest()

    def _save_rest(self) -> None:
        """Tries once more to write what is in memory alone; a UserError says what is lost and what it cost."""
        with self._lock:
            lost = []
            for line in self._saving.unsaved:
                try:
                    self._put(line["index"], line["step"], line)
                except (OSError, UserError):
                    lost.append(line)
            self._saving.unsaved = []
        if lost:
            paid = sum(self.bill.cost(*lines.parsed(line)) for line in lost)
            said = f"{self._saving.problem}. {len(lost)} answers, which cost {paid:.6f} dollars, found no room there"
            if (path := refuge.put(self.folder, lost)) is not None:
                raise UserError(f"{said}: they are in {path}, from where the same command takes them once there is room.")
            raise UserError(f"{said} nor in {refuge.FOLDER} and are lost; all others are kept. Make room, and run the same command again.")

    def _take_refugees(self) -> None:
        """Puts answers that had found no room where they belong, before anything is counted."""
        if refugees := refuge.take(self.folder):
            for line in refugees:
                name = _shard(lines.place(line)[0])
                if not (self.folder / name).exists():
                    self._begin(name)
                append_line(self.folder / name, lines.text(line))
            self._begun.clear()  # the files are read next
            refuge.clear(self.folder)

    def _put(self, index: int, step: int, line: Mapping[str, Any]) -> None:
        self._place(index, step, self._append(index, line))

    def _append(self, index: int, line: Mapping[str, Any]) -> int:
        """The byte at which the line begins."""
        if (name := _shard(index)) not in self._begun:
            self._begin(name)
        return append_line(self.folder / name, lines.text(line))

    def _begin(self, name: str) -> None:
        append_line(self.folder / name, json.dumps({"settings": self._settings}))
        self._begun.add(name)

    def _read(self, index: int, place: int) -> tuple[Request, Answer]:
        file = self.folder / _shard(index) if place > 0 else self._older
        assert file is not None
        with open(file, "rb") as opened:
            opened.seek(abs(place))
            return lines.parsed(json.loads(opened.readline()))

    def _answer_to(self, request: Request, index: int, step: int) -> Answer | None:
        for at, place in self._unsure.get(index, ()):
            if at == step and (read := self._read(index, place))[0] == request:
                return read[1]
        return None

    def _steps(self, index: int) -> list[int]:
        return [places[index % SHARD] for places in self._places.get(index // SHARD, ()) if places[index % SHARD]]

    def _place(self, index: int, step: int, place: int) -> None:
        self.end = max(self.end, index + 1)
        before = self._steps(index)
        if index in self._unsure or step != len(before):
            self._unsure.setdefault(index, list(enumerate(before))).append((step, place))
            for places in self._places.get(index // SHARD, ()):
                places[index % SHARD] = 0
            return
        shard = self._places.setdefault(index // SHARD, [])
        if step == len(shard):
            shard.append(array("q", bytes(8 * SHARD)))
        shard[step][index % SHARD] = place

    def _scan(self, file: Path, in_flight: dict[tuple[int, int], float]) -> None:
        """Notes the places of a file's answers and charges them; `in_flight` has the dollars of requests whose end isn't known."""
        for number, begin, line in lines.read(file):
            if file.name not in self._begun:
                self._check(file, number, line)
                self._begun.add(file.name)
                continue
            try:
                if isinstance(line, str):
                    raise ValueError(line)
                self._take(file, begin, line, in_flight)
            except (ValueError, TypeError, KeyError, OverflowError) as problem:
                self.damaged.append(f"{file}, line {number}: {problem}")

    def _take(self, file: Path, begin: int, line: Mapping[str, Any], in_flight: dict[tuple[int, int], float]) -> None:
        """Charges one line, which is read whole before anything is counted."""
        index, step = at = lines.place(line)
        older = file == self._older
        if not older and file.name != _shard(index):
            raise ValueError(f"index {index} belongs in {_shard(index)}")
        if "may_cost" in line:
            may_cost = lines.dollars(line, "may_cost")
            self.bill.lose(in_flight.pop(at, 0.0))  # of a run that was killed
            self.bill.count(1)
            in_flight[at] = may_cost
        elif "cost_at_most" in line:
            self.bill.lose(lines.dollars(line, "cost_at_most"))
            self.bill.count(int(in_flight.pop(at, None) is None))
        elif "not_sent" in line:
            self.bill.count(-int(in_flight.pop(at, None) is not None))
        else:
            answered = lines.parsed(line)
            self.bill.count(int(in_flight.pop(at, None) is None))
            self.bill.charge(*answered)
            self._place(index, step, -begin if older else begin)

    def _check(self, file: Path, number: int, line: Mapping[str, Any] | str) -> None:
        before, now = line.get("settings") if isinstance(line, dict) else None, self._settings
        if not isinstance(before, dict):
            raise UserError(
                f"{file}, line {number}: not the settings that a log of answers begins with. Give another dir=, or, if the file is of a "
                f"run with these settings, write this line in its place:\n{json.dumps({'settings': now})}"
            )
        differing = [
            f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in {**before, **now} if before.get(key) != now.get(key)
        ]
        if differing:
            raise UserError(
                f"{file} holds the answers of another run:\n  " + "\n  ".join(differing) + "\ngive another dir=, or the settings of before"
            )


@dataclasses.dataclass(frozen=True)
class _Entry:
    log: AnswerLog
    index: int
    step: int
    request: Request

    def may_cost(self, dollars: float) -> None:
        self._note("may_cost", dollars)

    def cost_at_most(self, dollars: float) -> None:
        self._note("cost_at_most", dollars)

    def not_sent(self) -> None:
        self._note("not_sent", 0.0)

    def keep(self, reply: Reply) -> None:
        self.log.keep(self.index, self.step, self.request, reply)

    def _note(self, kind: str, dollars: float) -> None:
        if self.log.bill.counts_requests:
            self.log.note(self.index, self.step, kind, dollars)


def files(folder: Path, older: Path | None = None) -> list[Path]:
    """The files of the log in `folder`, the older one first; none where there is no log."""
    shards = sorted(folder.glob("*.jsonl"))
    return [older, *shards] if older is not None and older.exists() else shards


def _shard(index: int) -> str:
    return f"{index // SHARD * SHARD:08d}.jsonl"
