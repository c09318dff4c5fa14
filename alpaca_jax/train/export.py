"""Hugging Face folders of the checkpoints, written during a training run by child processes.

The loop knows nothing of it: every second a thread of the lead looks for kept checkpoints that have no folder yet, and runs
`alpaca-jax convert` on one at a time, at low priority and on the CPU alone. A checkpoint that is being read is not pruned meanwhile.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.text import Text

from alpaca_jax import checkpoint, children
from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.terminal import Console

POLL_SECONDS = 1.0
CHILD_SECONDS = 0.2  # between two polls of the process that converts
GRACE_SECONDS = 10.0  # for it to end after SIGTERM
TAIL = 8  # lines of its log that are printed when it fails
PREFIX = (sys.executable, "-m", "alpaca_jax")
NICENESS = 10


class Exports:
    """Keeps `folder/STEP/`, a Hugging Face folder in `dtype`, for every kept checkpoint, while its context lasts.

    A failure is reported and ends nothing; the next start of the run tries again. What is under way when the context ends is stopped.
    """

    def __init__(self, folder: Path, checkpoints: Checkpoints, dtype: str, console: Console, prefix: Sequence[str] = PREFIX) -> None:
        self.folder, self.checkpoints, self.dtype = folder, checkpoints, dtype
        self._console, self._prefix = console, prefix
        self._failed: set[int] = set()
        self._no_more = threading.Event()  # the thread ends when all have their folder
        self._ended = threading.Event()  # the thread ends at once
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="export")

    def __enter__(self) -> "Exports":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._wake.set()
        self._thread.join()

    def last(self) -> None:
        """Says that no checkpoint will come any more, so that an end comes with the folders that are missing."""
        self._no_more.set()
        self._wake.set()
        if missing := self._missing():
            steps = ", ".join(map(str, sorted(missing)))
            self._console.print(f"waiting for the Hugging Face folder of step {steps} in {self.folder}", highlight=False, soft_wrap=True)

    @property
    def done(self) -> bool:
        """Whether, after `last`, every checkpoint has its folder or has failed."""
        return not self._thread.is_alive()

    def _work(self) -> None:
        while not self._ended.is_set():
            self._tidy()
            # The newest first: an older one may be pruned before its turn comes.
            step = max(self._missing(), default=None)
            if step is not None:
                self._export(step)
            elif self._no_more.is_set():
                return
            else:
                self._wake.wait(POLL_SECONDS)

    def _missing(self) -> list[int]:
        return [
            step
            for step in checkpoint.steps(self.checkpoints.folder)
            if step not in self._failed and not (self.folder / str(step)).is_dir()
        ]

    def _tidy(self) -> None:
        """Removes the folders and logs of checkpoints that are gone."""
        kept = {str(step) for step in checkpoint.steps(self.checkpoints.folder)}
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            name = path.name.removeprefix(".").removesuffix(".partial").removesuffix(".log").removesuffix(".lock").removesuffix(".old")
            if not name.isdigit() or name in kept:
                continue
            if path.suffix in (".log", ".lock"):
                path.unlink(missing_ok=True)
            else:
                # Under a hidden name first, so that nobody takes half of one for the whole.
                hidden = path if path.name.startswith(".") else path.rename(self.folder / f".{name}.old")
                checkpoint.remove([hidden])

    def _export(self, step: int) -> None:
        if not self.checkpoints.hold(step):
            return
        log = self.folder / f"{step}.log"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            code = self._convert(step, log)
        except OSError as error:  # a full disk, or no memory for another process
            code, problem = 1, str(error)
        else:
            problem = children.tail(log, TAIL)
        finally:
            self.checkpoints.release()
        if code == 0:
            log.unlink()
            self._console.print(
                f"checkpoint {step} is a Hugging Face folder too: {self.folder / str(step)}", highlight=False, soft_wrap=True
            )
        elif not self._ended.is_set():
            self._failed.add(step)
            what = f"exporting checkpoint {step} failed ({_ending(code)}; the training continues; {log})"
            self._console.print(Text(what, style="yellow"), problem, sep="\n", highlight=False, soft_wrap=True)

    def _convert(self, step: int, log: Path) -> int:
        """Runs the conversion and returns its exit code; ends it when the context ends."""
        words = {"dir": self.folder, "source": self.checkpoints.folder / str(step), "target": self.folder / str(step), "dtype": self.dtype}
        command = [*self._prefix, "convert", *(f"{key}={value}" for key, value in words.items())]
        with open(log, "wb") as output:
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            process = children.start(command, niceness=NICENESS, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            if self._ended.wait(CHILD_SECONDS):
                children.end(process, GRACE_SECONDS)
        return process.returncode


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
