"""One damaged input, read by its verb in this process."""

import contextlib
import dataclasses
import io
import random
import resource
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from alpaca_jax.errors import Lost, Restart, UserError
from tools.prove.fuzz.inputs import Input
from tools.prove.fuzz.mutate import damaged

SECONDS = 5.0  # of processor time, for an input that gets refused
MEGABYTES = 500.0  # of memory in addition


class Overtime(BaseException):
    """The reader has used up its time; no `except Exception` of its own catches it."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """How one damaged input ended: "read", "refused", or a fault in a line, with the traceback or the message."""

    end: str
    text: str
    file: str
    seconds: float


def run(input: Input, seed: int | None, scratch: Path) -> Trial:
    """Damages one file of a copy of the input below `scratch`, in a way that `seed` decides (None: no damage), and reads the input."""
    chance = random.Random(f"{input.verb} {input.name} {seed}")
    folder, file = scratch / "input", chance.choice(list(input.files))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(input.folder, folder)
    if seed is not None:
        (folder / file).write_bytes(damaged((folder / file).read_bytes(), chance))
    begin, before = time.process_time(), _peak()
    end, text = _read(input, folder)
    seconds, grown = time.process_time() - begin, _peak() - before
    if end == "refused" and input.writes and (folder / input.writes).exists():
        end = f"{input.writes} was left behind"
    if end in ("read", "refused") and grown > MEGABYTES:
        end = f"{grown:,.0f} MB of memory"
    return Trial(end, text, file, seconds)


def _read(input: Input, folder: Path) -> tuple[str, str]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            with _limited():
                input.read(folder)
        except (UserError, Restart, Lost) as error:
            return "refused", str(error)
        except Overtime:
            return f"more than {SECONDS:g} s", traceback.format_exc()
        except (Exception, SystemExit) as error:
            return type(error).__name__, f"{printed.getvalue()[-2000:]}\n{traceback.format_exc()}"
    return "read", ""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise Overtime

    before = signal.signal(signal.SIGPROF, over)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _peak() -> float:
    """The largest memory of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
