"""Runs a job from its first attempt to its last: what is started again, how often, and what the user is told."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Protocol

from alpaca_jax.cluster import checkout, logs, record
from alpaca_jax.cluster.job import Job, State, Tenure, restartable, saved
from alpaca_jax.cluster.record import Record
from alpaca_jax.errors import Lost

# The signal that this process gets, and the one that the ranks get: if the terminal is closed, they save as at any other end.
PASSED_ON = {number: number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)} | {signal.SIGHUP: signal.SIGTERM}
PAUSE_SECONDS = 1.0  # before the first restart without progress; doubled for each further one
LONGEST_PAUSE_SECONDS = 60.0
CTRL_C = 130


def say(text: str) -> None:
    """Prints a notice of the launcher; the terminal may be closed, and job.json and the logs have it too."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def show(text: str) -> None:
    """Prints what the lead writes, as it is; its log has it too."""
    with contextlib.suppress(OSError):
        print(text, end="", flush=True)


class Ranks(Protocol):
    """What runs the ranks of one attempt: on this machine, or on the nodes of an allocation."""

    def run(self, job: Job, attempt: int) -> int:
        """Runs the attempt; returns its exit code once none of its processes is left."""

    def pass_on(self, number: int) -> None:
        """Sends a signal to every rank; called from a signal handler."""

    def tenure(self) -> Tenure:
        """Whether another attempt may run on the same machines."""


class Supervisor:
    """Runs the attempts of one job and keeps its job.json."""

    def __init__(
        self, job_record: Record, ranks: Ranks, requeue: Callable[[Record], None] | None = None, say: Callable[[str], None] = say
    ) -> None:
        self.record, self.ranks, self.requeue = job_record, ranks, requeue
        self.say = say
        self.stopped: int | None = None  # the signal that asked this job to end

    def run(self) -> int:
        """Returns the exit code of the job's last attempt; 0 at once if the job is done already."""
        if self.record.state is State.done:
            self.say(record.done_notice(self.record.job.folder))
            return 0
        hung_up = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # under nohup the job continues
        watched = [number for number in PASSED_ON if number != signal.SIGHUP or not hung_up]
        before = {number: signal.signal(number, self._note) for number in watched}
        try:
            self.record.launcher = record.this_process()
            if broken := self.record.broken:  # it counts like any other
                self.record.end(logs.exit_code(logs.ends(logs.folder_of(self.record.job.folder, broken.number), self.record.job.processes)))
            code = self._give_up(Lost.exit_code) if self._is_stalled() else None
            while code is None:
                code = self._attempt()
            return code
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.stopped = number
        self.ranks.pass_on(PASSED_ON[signal.Signals(number)])

    def _attempt(self) -> int | None:
        """Runs one attempt and decides what follows: returns the job's exit code, or None to start again."""
        job = self.record.job
        attempt = self.record.begin()
        folder = logs.folder_of(job.folder, attempt.number)
        if notice := checkout.write_diff(folder):
            self.say(notice)
        code = self.ranks.run(job, attempt.number)
        self.record.end(code)
        if failure := logs.explain(logs.ends(folder, job.processes)):
            self.say(failure)
        return self._settle(code)

    def _settle(self, code: int) -> int | None:
        if code == 0:
            return self._finish(State.done, "", code)
        tenure = self.ranks.tenure()
        if tenure is Tenure.requeued:
            self.record.settle(State.queued, "somebody else has queued it again")
            return code
        if tenure is Tenure.ends and self.requeue is not None and restartable(code) and not self._is_stalled():
            self.say(f"{self._name()} is queued again because its nodes are being taken away")
            self.requeue(self.record)
            return code
        if self.stopped is not None:
            name = signal.Signals(self.stopped).name
            how = "its state is saved, " if saved(code) else ""
            return self._finish(State.cancelled, f"stopped by {name}; {how}the same launch continues from the last checkpoint", code)
        if not restartable(code):
            return self._finish(State.failed, f"exit code {code}", code)
        if self._is_stalled():
            return self._give_up(code)
        return self._pause(code)

    def _pause(self, code: int) -> int | None:
        pause = 0.0 if self.record.stalled == 0 else min(PAUSE_SECONDS * 2 ** (self.record.stalled - 1), LONGEST_PAUSE_SECONDS)
        reason = f"attempt {self.record.attempts[-1].number} ended with exit code {code}"
        self.record.settle(State.restarting, reason)
        left = self.record.job.restarts - self.record.stalled
        self.say(f"{self._name()}: {reason}; restarting in {pause:.0f} s ({left} more restarts without a newer checkpoint)")
        end = time.monotonic() + pause
        while time.monotonic() < end and self.stopped is None:
            time.sleep(0.05)
        return None if self.stopped is None else self._settle(code)

    def _is_stalled(self) -> bool:
        return self.record.stalled > self.record.job.restarts

    def _give_up(self, code: int) -> int:
        count = self.record.stalled
        return self._finish(
            State.failed, f"given up after {count} attempts without a newer checkpoint; the last exit code was {code}", code
        )

    def _finish(self, state: State, reason: str, code: int) -> int:
        self.record.exit_code = code
        self.record.settle(state, reason)
        self.say(f"{self._name()}: {state.value}{f' ({reason})' if reason else ''}")
        return CTRL_C if self.stopped == signal.SIGINT and state is State.cancelled else code

    def _name(self) -> str:
        return f"the job {self.record.job.name} in {self.record.job.folder}"


def supervise(folder: Path, ranks: Ranks) -> int:
    """Supervises the job that `folder`'s job.json describes; returns its exit code."""
    return Supervisor(record.read(folder), ranks).run()
