"""`python -m alpaca_jax.cluster.remote [-- COMMAND]`: runs one rank on a host that shares no disk with its launcher; its log is the output.

In a pod of a JobSet the command is given, the environment is the pod's, and signals come from Kubernetes. On a TPU worker all of this
arrives on the standard input of an ssh connection, so that secrets are in no argument and no file: a line of JSON with the command and the
environment, then the numbers of signals to pass on, one per line. The end of that input means that the launcher is gone: the command is
asked to save and leave.
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

from alpaca_jax.cluster.rank import END_NOW, Rank

LEAVE_SECONDS = 60.0  # to save in, once the launcher is gone
TICK_SECONDS = 0.1


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
        code = Rank(log, command, forward=True).run()
        ended.set()
        copier.join()
    return code


def _obey(log: Path) -> None:
    """Passes on the signals that the launcher sends, and ends the command once the launcher is gone."""
    while not log.exists():  # the handlers are in place before the log is
        time.sleep(TICK_SECONDS)
    for number in sys.stdin.buffer:
        os.kill(os.getpid(), int(number))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(LEAVE_SECONDS)
    os.kill(os.getpid(), END_NOW)


def _copy(log: Path, ended: threading.Event) -> None:
    """Copies the log to the standard output as it grows, until `ended` is set and everything is copied."""
    position, last = 0, False
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; _obey ends the command
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
    os._exit(exit_code)  # a thread may still be waiting for the standard input
