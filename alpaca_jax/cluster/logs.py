"""The ranks' logs of one attempt: how each rank ended, which one failed first, and its message."""

import dataclasses
import datetime
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from alpaca_jax.cluster.job import saved
from alpaca_jax.cluster.rank import TRACEBACK, log_of, values
from alpaca_jax.errors import Lost, UserError

FOLDER = "logs"
SUPERVISOR = "supervisor.log"  # in that folder: the supervisor's output, of all attempts
TAIL_BYTES = 1 << 16
SHOWN_LINES = 40
OWN_WORDS, SILENT, SHOWN_WORDS = "alpaca-jax: ", " has been silent for ", 3  # `distributed.line`'s, of a peer that is stuck or cut off
# A rank that raises may wait this long in JAX's shutdown barrier before it ends; an older traceback is not what ended it.
BARRIER = datetime.timedelta(seconds=310)
TERMINATED = 128 + signal.SIGTERM
SECOND = datetime.timedelta(seconds=1)
CHAINED = ("During handling of the above exception", "The above exception was the direct cause")


@dataclasses.dataclass(frozen=True)
class End:
    """How one rank ended; `exit_code` is None if its log breaks off (the process or its host was killed)."""

    rank: int
    log: Path
    host: str
    exit_code: int | None
    failed: datetime.datetime  # when its end began

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.exit_code is None:
            return "was killed with its host, or never started" if not self.log.exists() else "was cut off: its log has no end"
        if self.exit_code > 128 and self.exit_code - 128 in set(signal.Signals):
            return f"was ended by {signal.Signals(self.exit_code - 128).name} (exit code {self.exit_code})"
        return f"ended with exit code {self.exit_code}"


def folder_of(job_folder: Path, attempt: int) -> Path:
    """Returns the folder of an attempt's logs."""
    return job_folder / FOLDER / str(attempt)


def ends(folder: Path, processes: int) -> list[End]:
    """Returns how each rank of an attempt ended."""
    return [_end(log_of(folder, rank), rank) for rank in range(processes)]


def first_failure(ends: Sequence[End]) -> End | None:
    """Returns the rank that failed first, None if none did.

    A rank that saved its state comes after all others. One that SIGTERM ended after another rank had failed by itself comes after that
    one: SIGTERM is what every backend sends to the peers of a failed rank.
    """
    failures = [end for end in ends if end.exit_code != 0]
    alone = min((end.failed for end in failures if end.exit_code != TERMINATED and not saved(end.exit_code or 0)), default=None)

    def order(end: End) -> tuple[bool, bool, datetime.datetime]:
        told = alone is not None and end.exit_code == TERMINATED and alone <= _latest(end.failed)
        return saved(end.exit_code or 0), told, end.failed

    return min(failures, key=order, default=None)


def _latest(time: datetime.datetime) -> datetime.datetime:
    """The latest time that a noted one stands for: Kubernetes tells the end of a rank that couldn't note it itself in whole seconds."""
    return time if time.microsecond else time + SECOND


def exit_code(ends: Sequence[End]) -> int:
    """Returns the exit code of an attempt: that of the rank that failed first, but a user's mistake on any rank comes before it."""
    if any(end.exit_code == UserError.exit_code for end in ends):
        return UserError.exit_code
    if all(end.exit_code == 0 or saved(end.exit_code or 0) for end in ends):
        return max(end.exit_code or 0 for end in ends)
    first = first_failure(ends)
    assert first is not None
    return Lost.exit_code if first.exit_code is None else first.exit_code


def explain(ends: Sequence[End]) -> str:
    """Returns what to see first of a failed attempt: rank, host, how it ended, and its traceback or last lines; "" if none failed."""
    first = first_failure(ends)
    if first is None:
        return ""
    lines = words(first.log)
    excerpt = traceback(lines) or _own_words(first, lines) or lines[-SHOWN_LINES // 2 :]
    return "\n".join([f"rank {first.rank} on {first.host} {first.how} first; its log is {first.log}:", *(f"  {line}" for line in excerpt)])


def traceback(lines: Sequence[str]) -> list[str]:
    """Returns the lines of the last traceback, with those it is chained to; none if there is no traceback."""
    starts = [index for index, line in enumerate(lines) if TRACEBACK.decode() in line]
    if not starts:
        return []
    start = end = starts.pop()
    while starts and any(phrase in line for line in lines[starts[-1] : start] for phrase in CHAINED):
        start = starts.pop()
    end += 1
    while end < len(lines) and (lines[end].startswith(" ") or not lines[end]):
        end += 1
    while end < len(lines) and lines[end] and values(lines[end]) is None:  # the message, of one line or several
        end += 1
    whole = list(lines[start:end])
    return whole if len(whole) <= SHOWN_LINES else [*whole[: SHOWN_LINES // 4], "...", *whole[-SHOWN_LINES * 3 // 4 :]]


def _own_words(first: End, lines: Sequence[str]) -> list[str]:
    """What a rank said about a silent peer, with rank and host, before JAX aborted it; JAX prints a number and many frames."""
    if first.exit_code != 128 + signal.SIGABRT:
        return []
    return [line for line in lines if line.startswith(OWN_WORDS) and SILENT in line][-SHOWN_WORDS:]


def _end(log: Path, rank: int) -> End:
    if not log.exists():
        return End(rank, log, "an unknown host", None, datetime.datetime.max.replace(tzinfo=datetime.UTC))
    with open(log, "rb") as file:
        head = values(file.readline(TAIL_BYTES).decode(errors="replace")) or {}
    entries = (entry for line in reversed(tail(log)) if (entry := values(line)) and "ended" in entry)
    last = next((entry for entry in entries if re.fullmatch(r"\d{1,3}", entry.get("exit", ""))), None)
    host = (last or head).get("host", "an unknown host")
    if last is None:
        return End(rank, log, host, None, datetime.datetime.fromtimestamp(log.stat().st_mtime, datetime.UTC))
    if (failed := _time(last["ended"])) is None:
        return End(rank, log, host, None, datetime.datetime.fromtimestamp(log.stat().st_mtime, datetime.UTC))
    if (raised := _time(last.get("traceback", "none"))) is not None and failed - raised < BARRIER:
        failed = raised
    return End(rank, log, host, int(last["exit"]), failed)


def _time(text: str) -> datetime.datetime | None:
    """A time in a log, None for what is none."""
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time.tzinfo is not None else None


def tail(log: Path, size: int = TAIL_BYTES) -> list[str]:
    """Returns the lines in the last `size` bytes of a log; none if there is no log."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, 2) - size))
        return file.read().decode(errors="replace").splitlines()


def words(log: Path) -> list[str]:
    """Returns the last lines of a log, without this package's own."""
    return [line for line in tail(log) if values(line) is None]


class Follower:
    """Follows a log that is being written."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self._position = 0

    def read(self) -> str:
        """Returns what was added since the last call, without this package's own lines."""
        if not self.log.exists():
            return ""
        with open(self.log, "rb") as file:
            file.seek(self._position)
            piece = file.read()
        self._position += len(piece)
        lines = piece.decode(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if values(line) is None)
