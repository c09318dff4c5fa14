"""`python -m alpaca_jax.cluster.remote`: one rank on a host that shares no disk with its launcher, at the end of an ssh connection.

What it is to run comes as one line of JSON on the standard input (so that secrets are no one's argument and in no file), and after it
the numbers of signals to pass on, one a line. The rank's log goes to the standard output. When the input ends, so has the launcher,
and the command is told to save and leave.
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

LEAVE_SECONDS = 60.0  # to save in, when the launcher has gone
TICK_SECONDS = 0.1


def main() -> int:
    """Runs the command and returns its exit code."""
    order = json.loads(sys.stdin.buffer.readline())
    os.environ.update(order["environment"])
    program, *arguments = order["command"]
    command = [sys.executable, "-m", "alpaca_jax", *arguments] if program == "alpaca-jax" else [program, *arguments]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "rank.log"
        threading.Thread(target=_obey, args=(log,), daemon=True).start()
        ended = threading.Event()
        copier = threading.Thread(target=_copy, args=(log, ended), daemon=True)
        copier.start()
        code = Rank(log, command, forward=True).run()
        ended.set()
        copier.join()
    return code


def _obey(log: Path) -> None:
    """Passes on the signals that the launcher asks for, and ends the command when the launcher has gone."""
    while not log.exists():  # by then the handlers are in place
        time.sleep(TICK_SECONDS)
    for line in sys.stdin.buffer:
        os.kill(os.getpid(), int(line))
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
    code = main()
    sys.stdout.flush()
    os._exit(code)  # a thread still reads the standard input
