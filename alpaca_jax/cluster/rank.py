"""`python -m alpaca_jax.cluster.rank LOG [--slurm [--forward]] -- COMMAND`: runs one rank, writes its log, and ends it cleanly.

It is the parent of the command, so the log has the exit code and the time of a traceback whatever the backend reports, and whatever the
command has started ends with it.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

from alpaca_jax import children
from alpaca_jax.cluster.job import now, saved

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
TICK_SECONDS = 0.1
TRACEBACK = b"Traceback (most recent call last)"
END_NOW = signal.SIGHUP  # to a rank: end the command and everything it started at once


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code, 128 + N if signal N ended it."""
    split = argv.index("--")
    log, options, command = Path(argv[0]), argv[1:split], argv[split + 1 :]
    forward = "--slurm" not in options or "--forward" in options  # the same signal twice may end a command that has handled the first
    if "--slurm" in options:
        log = _from_slurm(log)
    code = Rank(log, command, forward).run()
    # srun ends the peers of a failing rank; those of a rank that has saved must still save, and the log has the true code.
    return 0 if "--slurm" in options and saved(code) else code


def _from_slurm(folder: Path) -> Path:
    """Derives the rank's variables from Slurm's, and returns its log."""
    rank = int(os.environ["SLURM_PROCID"])
    os.environ["ALPACA_JAX_PROCESS"] = str(rank)
    if "ALPACA_JAX_LOCAL_PROCESSES" in os.environ:
        os.environ["ALPACA_JAX_LOCAL_PROCESS"] = os.environ["SLURM_LOCALID"]
    return log_of(folder, rank)


class Rank:
    """The command of one rank while it runs."""

    def __init__(self, log: Path, command: list[str], forward: bool) -> None:
        self.log, self.command, self.forward = log, command, forward
        self.traceback: str | None = None  # when the newest was written
        self._scanned = 0
        self._pid = os.getpid()
        self._pending: list[int] = []

    def run(self) -> int:
        """Returns the command's exit code once it and everything it started have ended."""
        for number in (*FORWARDED, END_NOW):
            signal.signal(number, lambda received, _: self._pending.append(received))
        with open(self.log, "ab", buffering=0) as output:
            self._scanned = output.seek(0, os.SEEK_END)
            try:
                process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    preexec_fn=self._before_exec,
                    start_new_session=True,
                )
            except OSError as error:
                output.write(f"{self.command[0]}: can't be started ({error.strerror})\n".encode())
                output.write(self._line(exit=127, ended=now(), traceback="none").encode())
                return 127
            code = self._wait(process)
            children.kill_group(process)  # whatever the command left behind
            self._look_for_traceback()
            last = self._line(exit=code, ended=now(), traceback=self.traceback or "none")
            output.write((last if self._ends_a_line() else f"\n{last}").encode())
        return code

    def _wait(self, process: subprocess.Popen) -> int:
        while process.poll() is None:
            while self._pending:
                number = self._pending.pop(0)
                if number == END_NOW:
                    children.kill_group(process)
                elif self.forward:
                    process.send_signal(number)
            self._look_for_traceback()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TICK_SECONDS)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def _look_for_traceback(self) -> None:
        with open(self.log, "rb") as file:
            file.seek(self._scanned)
            piece = file.read()
        if TRACEBACK in piece:
            self.traceback = now()
        self._scanned += max(0, len(piece) - len(TRACEBACK) + 1)  # it may be split across two pieces

    def _ends_a_line(self) -> bool:
        with open(self.log, "rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"

    def _before_exec(self) -> None:
        """In the command's process before it becomes the command, so that this line is the log's first, with the process id."""
        for number in (*FORWARDED, END_NOW):
            signal.signal(number, signal.SIG_DFL)
        children.bind(self._pid, signal.SIGKILL)
        os.write(1, self._line(pid=os.getpid(), started=now()).encode())

    def _line(self, **values: object) -> str:
        return line(rank_number(), host_name(), **values)


def line(rank: int, host: str, **values: object) -> str:
    """Returns a line of a rank's log, from which `logs` reads how the rank began or ended."""
    return "[" + " ".join(["alpaca-jax", f"rank={rank}", f"host={host}", *(f"{key}={value}" for key, value in values.items())]) + "]\n"


def rank_number() -> int:
    """Returns the rank of this process; in a pod it follows from several variables."""
    if "ALPACA_JAX_PROCESS" in os.environ:
        return int(os.environ["ALPACA_JAX_PROCESS"])
    job, pods, pod = (int(os.environ.get(name, "0")) for name in ("JOB_INDEX", "JOB_COMPLETIONS", "JOB_COMPLETION_INDEX"))
    return job * pods + pod


def host_name() -> str:
    """Returns this host's name as people know it: Slurm's name of the node, if there is one."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def log_of(folder: Path, rank: int) -> Path:
    """Returns the path of a rank's log in an attempt's folder of logs."""
    return folder / f"rank-{rank:04d}.log"


def values(text: str) -> dict[str, str] | None:
    """Returns the values of a line written by `line`, None for any other line."""
    match = re.fullmatch(r"\[alpaca-jax ((?:\w+=\S+ ?)+)\]", text.strip())
    return dict(part.split("=", 1) for part in match[1].split()) if match else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
