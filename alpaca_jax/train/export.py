"""Folders for other programs of the checkpoints, written during a training run: whole models, or adapters alone.

The loop knows nothing of it: every second a thread of the lead looks for kept checkpoints that have no folder yet, and writes one at a
time. A checkpoint that is being read is not pruned meanwhile.
"""

import os
import signal
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.text import Text

from alpaca_jax import checkpoint, children
from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.adapter import export as adapters
from alpaca_jax.terminal import Console

POLL_SECONDS = 1.0
CHILD_SECONDS = 0.2  # between two polls of the process that converts
GRACE_SECONDS = 10.0  # for it to end after SIGTERM
TAIL = 8  # lines of its log that are printed when it fails
PREFIX = (sys.executable, "-m", "alpaca_jax")
NICENESS = 10


class Exports(ABC):
    """Keeps `folder/STEP/` for every kept checkpoint, while its context lasts.

    A failure is reported and ends nothing; the next start of the run tries again. What is under way when the context ends is stopped.
    """

    what = "Hugging Face folder"

    def __init__(self, folder: Path, checkpoints: Checkpoints, console: Console) -> None:
        self.folder, self.checkpoints, self._console = folder, checkpoints, console
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
            self._console.print(f"waiting for the {self.what} of step {steps} in {self.folder}", highlight=False, soft_wrap=True)

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
            problem = children.tail(log, TAIL) if code else ""
        finally:
            self.checkpoints.release(step)
        if code == 0:
            log.unlink(missing_ok=True)
            self._console.print(f"checkpoint {step} is a {self.what} too: {self.folder / str(step)}", highlight=False, soft_wrap=True)
        elif not self._ended.is_set():
            self._failed.add(step)
            what = f"exporting checkpoint {step} failed ({_ending(code)}; the training continues; {log})"
            self._console.print(Text(what, style="yellow"), problem, sep="\n", highlight=False, soft_wrap=True)

    @abstractmethod
    def _convert(self, step: int, log: Path) -> int:
        """Writes the folder of a step; returns 0, or where it failed another code, with the reason in `log`."""


class ModelExports(Exports):
    """Hugging Face folders in `dtype`: `alpaca-jax convert` writes each, at low priority and on the CPU alone."""

    def __init__(self, folder: Path, checkpoints: Checkpoints, dtype: str, console: Console, prefix: Sequence[str] = PREFIX) -> None:
        super().__init__(folder, checkpoints, console)
        self.dtype, self._prefix = dtype, prefix

    def _convert(self, step: int, log: Path) -> int:
        """Runs the conversion and returns its exit code; ends it when the context ends."""
        words = {"dir": self.folder, "source": self.checkpoints.folder / str(step), "target": self.folder / str(step), "dtype": self.dtype}
        words["merge"] = "true"
        command = [*self._prefix, "convert", *(f"{key}={value}" for key, value in words.items())]
        with open(log, "wb") as output:
            environment = os.environ | {"JAX_PLATFORMS": "cpu"}
            process = children.start(command, niceness=NICENESS, stdout=output, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            if self._ended.wait(CHILD_SECONDS):
                children.end(process, GRACE_SECONDS)
        return process.returncode


class AdapterExports(Exports):
    """PEFT folders of the adapter that is trained, written by this process: they are small, and no weight of the base is read."""

    what = "PEFT folder"

    def _convert(self, step: int, log: Path) -> int:
        try:
            model = pretrained.open(str(self.checkpoints.folder / str(step)))
            assert model.adapted is not None
            adapters.export(self.folder / str(step), model.adapted.peft, model.tokenizer)
        except UserError as error:
            log.write_text(str(error), encoding="utf-8")
            return 1
        return 0


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
