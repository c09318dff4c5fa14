"""`python -m alpaca_jax.cluster.remote [-- COMMAND]`: one rank on a host that shares no disk with its launcher; its log is the output.

In a pod of a JobSet the command is given, the environment is the pod's, and signals come from Kubernetes. On a TPU worker all of this
comes through the standard input of an ssh connection (so that secrets are nobody's argument and in no file): a line of JSON with the
command and the environment, then the numbers of signals to pass on, one a line. When that input ends, so has the launcher, and the
command is told to save and leave.
"""

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from alpaca_jax.cluster.rank import END_NOW, Rank, host_name

LEAVE_SECONDS = 60.0  # to save in, when the launcher has gone
TICK_SECONDS = 0.1


class RemoteRank(Rank):
    """A rank that says its number, which in a pod follows from several variables."""

    def _line(self, **values: object) -> str:
        return line(_number(), host_name(), **values)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    connected = not argv
    if connected:
        order = json.loads(sys.stdin.buffer.readline())
        os.environ.update(order["environment"])
    program, *arguments = order["command"] if connected else argv[1:]
    command = [sys.executable, "-m", "alpaca_jax", *arguments] if program == "alpaca-jax" else [program, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "rank.log"
        if connected:
            threading.Thread(target=_obey, args=(log,), daemon=True).start()
        ended = threading.Event()
        copier = threading.Thread(target=_copy, args=(log, ended), daemon=True)
        copier.start()
        code = RemoteRank(log, command, forward=True).run()
        ended.set()
        copier.join()
    return code


def line(rank: int, host: str, **values: object) -> str:
    """Returns a line of a rank's log that `logs` reads how the rank began or ended from."""
    return "[" + " ".join(["alpaca-jax", f"rank={rank}", f"host={host}", *(f"{key}={value}" for key, value in values.items())]) + "]\n"


def _number() -> int:
    if "ALPACA_JAX_PROCESS" in os.environ:
        return int(os.environ["ALPACA_JAX_PROCESS"])
    job, pods, pod = (int(os.environ.get(name, "0")) for name in ("JOB_INDEX", "JOB_COMPLETIONS", "JOB_COMPLETION_INDEX"))
    return job * pods + pod


def _obey(log: Path) -> None:
    """Passes on the signals that the launcher asks for, and ends the command when the launcher has gone."""
    while not log.exists():  # by then the handlers are in place
        time.sleep(TICK_SECONDS)
    for number in sys.stdin.buffer:
        os.kill(os.getpid(), int(number))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_SECONDS)
    os.kill(os.getpid(), END_NOW)


def _copy(log: Path, ended: threading.Event) -> None:
    """Writes what is added to the log to the standard output, until `ended` and all of it is written."""
    position, last = 0, False
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; _obey sees to the rest
        while not last:
            last = ended.wait(TICK_SECONDS)
            if log.exists():
                with open(log, "rb") as file:
                    file.seek(position)
                    piece = file.read()
                position += len(piece)
                sys.stdout.buffer.write(piece)
                sys.stdout.buffer.flush()


if __name__ == "__main__":
    exit_code = main(sys.argv[1:])
    os._exit(exit_code)  # a thread may still wait for the standard input
