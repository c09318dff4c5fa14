"""Runs a program of a stranger in a process of its own, confined by the kernel (see `confine`), in a folder that is gone afterwards."""

import contextlib
import json
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca_jax import children
from alpaca_jax.errors import UserError
from alpaca_jax.rewards import confine
from alpaca_jax.rewards.config import ConfinedConfig

SCRIPT = Path(confine.__file__)
START_SECONDS = 120.0  # that Python may take to start, on a machine that is busy
MOST = 1 << 16  # bytes of what it reports
FENCED = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Ran:
    """What came of a program: a number, or None and the problem in words."""

    value: float | None
    problem: str = ""


def passes(config: ConfinedConfig, answer: str, tests: str) -> Ran:
    """Runs the code of an answer and then the tests: 1.0 where nothing raises."""
    return _run(config, {"code": code_of(answer), "then": tests})


def calls(config: ConfinedConfig, source: str, *arguments: str) -> Ran:
    """What the function `reward` of a program returns for these arguments."""
    return _run(config, {"code": source, "call": arguments})


def code_of(answer: str) -> str:
    """The code in an answer: what stands in its first fence, or all of it."""
    fenced = FENCED.search(answer)
    return fenced[1] if fenced else answer


def _run(config: ConfinedConfig, task: dict[str, Any]) -> Ran:
    token = secrets.token_hex(16)
    task |= {"seconds": config.seconds, "bytes": config.megabytes << 20, "token": token, "confined": not config.unconfined}
    with tempfile.TemporaryDirectory(prefix="reward-", ignore_cleanup_errors=True) as folder:
        command = [sys.executable, "-IS", str(SCRIPT)]
        # Neither the environment, which may hold keys, nor an open file is its business.
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        process = children.start(command, signal.SIGKILL, cwd=folder, env={}, **pipes)
        assert process.stdin and process.stdout
        try:
            with _ended_after(process, START_SECONDS):
                with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
                    pipe.write(json.dumps(task).encode() + b"\n")
                ready = process.stdout.read(1)
            with _ended_after(process, config.seconds) as hanging:
                said = process.stdout.read(MOST + 1) if ready else b""
                if len(said) <= MOST:
                    process.wait()  # until it ends by itself, or is ended
        finally:
            children.kill_group(process)
            process.stdout.close()
    return _read(said, token, process.returncode, hanging.is_set(), config)


@contextlib.contextmanager
def _ended_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """A context that may take so long; then the process is killed, and the event is set."""
    hanging = threading.Event()

    def end() -> None:
        hanging.set()
        children.kill_group(process)

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield hanging
    finally:
        timer.cancel()


def _read(said: bytes, token: str, code: int, hung: bool, config: ConfinedConfig) -> Ran:
    if code == confine.EXIT_UNCONFINED:
        raise UserError(
            "a reward that runs code needs a kernel that can confine it (Landlock and seccomp: Linux 5.13 and later, x86_64 or aarch64); "
            "give unconfined=true to run it without, in a container that holds nothing else"
        )
    try:
        found = json.loads(said)
        if found.get("token") == token:
            return Ran(found.get("value"), found.get("problem", ""))
    except (ValueError, AttributeError):
        pass
    if len(said) > MOST:
        return Ran(None, "wrote where its result belongs")
    if hung or code in (-24, -9):  # SIGXCPU, and SIGKILL by the same limit
        return Ran(None, f"took longer than {config.seconds:g} s")
    return Ran(None, f"ended its process before the end (exit code {code})")
