"""A tiny training job on a real Slurm, for the many-hosts proof: launched as a user would, watched through its files."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import slurm_cluster

from alpaca_jax import checkpoint, metrics, rundir
from alpaca_jax.cluster import logs, rank, record
from alpaca_jax.cluster.job import State
from alpaca_jax.cluster.slurm import queue as slurm_queue
from alpaca_jax.cluster.slurm.backend import Slurm
from tools.prove import tiny

STEPS, SAVED = 200, 10  # steps of a run, and between checkpoints
HEARTBEAT = 10  # seconds
PATIENCE = 300.0  # seconds to wait for an expected event
QUICK = 15.0  # seconds within which a job must end if the failure is noticed at once
ROOT = Path(__file__).parents[2]
FAULTY = Path(__file__).parent / "faulty"
EQUAL = 1e-6  # of a loss
HOLDS = ("RUNNING", "COMPLETING")  # Slurm's words for a job that has its nodes


class Failed(Exception):
    """A claim doesn't hold."""


@dataclasses.dataclass(frozen=True)
class Ground:
    """The cluster, and the folder shared by its hosts."""

    folder: Path
    cluster: slurm_cluster.Cluster

    def relative(self, lines: Sequence[str]) -> list[str]:
        """The lines with relative paths, which make sense elsewhere too."""
        names = {f"{self.folder}/": "", f"{ROOT}/": ""}
        return [functools.reduce(lambda text, name: text.replace(name, names[name]), names, line) for line in lines]

    def settings(self, name: str, seed: int | None = 0) -> list[str]:
        """The arguments of a separate tiny run."""
        chosen = {
            "dir": self.folder / name,
            "steps": STEPS,
            "model": {"architecture": tiny.SIZES, "tokenizer": self.folder / "tokenizer"},
            "data": {"records": self.folder / "records.jsonl", "cache": self.folder / "cache", "max_length": 256},
            "batch": {"examples": 4, "rows": 4, "sequence_length": 256},
            "optimizer": {"learning_rate": 1e-2},
            "mesh": {"data": 2},
            "hardware": {"peak_tflops": 0.1},
            "checkpoint": {"every_steps": SAVED, "keep": 2},
            "distributed": {"heartbeat_seconds": HEARTBEAT, "join_minutes": 2},
        }
        return ["model=tiny", *([] if seed is None else [f"seed={seed}"]), *tiny.overrides(chosen)]


class Trial:
    """A job on two nodes, and what happens to it."""

    def __init__(self, ground: Ground, name: str, words: Sequence[str] | None = None) -> None:
        self.ground, self.name, self.folder = ground, name, ground.folder / name
        self.words = list(words) if words is not None else ground.settings(name)
        self._read = 0  # of the supervisor's log

    def launch(self, options: Sequence[str] = (), environment: dict[str, str] | None = None) -> None:
        """Queues it by the user's command."""
        chosen = [word for option in options for word in ("--option", option)]
        command = [sys.executable, "-m", "alpaca_jax.cluster", "slurm", "--nodes", "2", *chosen, "train", *self.words]
        done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"the launch ended with {done.returncode}: {done.stderr}")

    @property
    def written(self) -> record.Record:
        """Its job.json."""
        return record.read(self.folder)

    @property
    def step(self) -> int:
        """The newest step in metrics.jsonl, 0 before the first."""
        lines = metrics.read(self.folder / "train" / "metrics.jsonl")
        return lines[-1]["step"] if lines else 0

    def reach(self, step: int) -> None:
        """Returns once `step` has been taken and a checkpoint is complete."""
        self.until(lambda: self.step >= step and checkpoint.steps(self.folder / "train" / "checkpoints"), f"step {step}")

    def ranks(self) -> list[psutil.Process]:
        """The processes of the newest attempt, by rank; all hosts share this machine's process ids."""
        return [psutil.Process(int(self._head(each)["pid"])) for each in range(2)]

    def has_begun(self) -> bool:
        """Whether both ranks of the newest attempt have begun their logs."""
        folder = logs.folder_of(self.folder, self.written.attempts[-1].number)
        head_logs = [rank.log_of(folder, each) for each in range(2)]
        return all(log.exists() and "\n" in log.read_text(errors="replace") for log in head_logs)

    def host(self, number: int) -> str:
        """The host of a rank of the newest attempt."""
        return self._head(number)["host"]

    def supervisor(self) -> psutil.Process:
        """The process that supervises the ranks, on the first node."""
        launcher = self.written.launcher
        assert launcher is not None
        return psutil.Process(launcher["pid"])

    def until(self, true: Callable[[], Any], what: str, seconds: float = PATIENCE) -> float:
        """Returns the seconds until `true()` holds; Failed if that takes too long or the job ends first."""
        began = time.monotonic()
        while not true():
            if time.monotonic() > began + seconds:
                raise Failed(f"{self.name}: {what} did not come in {seconds:.0f} s; {self._last_words()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def ended(self) -> record.Record:
        """The record once the job has ended and released its nodes."""
        self.until(lambda: Slurm().state(self.folder).state.final, "the end")
        self.until(lambda: (slurm_queue.described(self.written.id or "") or {}).get("JobState") not in HOLDS, "that the nodes are free")
        return self.written

    def state(self) -> State:
        """Its state, checked with Slurm."""
        return Slurm().state(self.folder).state

    def went_on_from(self) -> int:
        """The step of the checkpoint from which the newest attempt resumed; Failed if it started over."""
        text = rank.log_of(logs.folder_of(self.folder, self.written.attempts[-1].number), 0).read_text()
        match = re.search(r"resuming from the checkpoint of step (\d+)", text)
        if match is None:
            raise Failed(f"{self.name}: it has not resumed from a checkpoint: {text[-2000:]}")
        return int(match[1])

    def begin_now(self) -> None:
        """Starts a requeued job: Slurm delays it for two minutes, which an administrator may shorten."""
        subprocess.run(["scontrol", "update", f"jobid={self.written.id}", "StartTime=now"], capture_output=True)

    def note(self) -> None:
        """Marks everything in the supervisor's log so far as read."""
        path = self.folder / logs.FOLDER / logs.SUPERVISOR
        self._read = path.stat().st_size if path.exists() else 0

    def said(self) -> list[str]:
        """The supervisor's unread lines, except those about the checkout."""
        with open(self.folder / logs.FOLDER / logs.SUPERVISOR, "rb") as file:
            file.seek(self._read)
            lines = file.read().decode(errors="replace").splitlines()
        return self.ground.relative([line for line in lines if not line.startswith("the checkout ")])

    def losses(self) -> np.ndarray:
        """The loss of each step; Failed unless every step was written exactly once."""
        lines = [line for line in metrics.read(self.folder / "train" / "metrics.jsonl") if "loss" in line]
        steps = [line["step"] for line in lines]
        if steps != list(range(1, len(steps) + 1)):
            raise Failed(f"{self.name}: the steps in metrics.jsonl are not 1, 2, 3 ..: {steps[:5]} .. {steps[-5:]}")
        return np.array([line["loss"] for line in lines])

    def summary(self) -> dict[str, Any]:
        """The summary that the run wrote at its end."""
        return rundir.read_json(self.folder / "train" / "summary.json")

    def _head(self, number: int) -> dict[str, str]:
        folder = logs.folder_of(self.folder, self.written.attempts[-1].number)
        head = rank.values(rank.log_of(folder, number).read_text().splitlines()[0])
        assert head is not None
        return head

    def _last_words(self) -> str:
        log_folder = self.folder / logs.FOLDER
        return "\n".join(f"--- {path}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(log_folder.glob("**/*.log")))


def claim(true: object, what: str) -> None:
    """Raises Failed with `what` unless `true`."""
    if not true:
        raise Failed(what)


def difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest relative difference of the losses; Failed if it is too large."""
    claim(len(actual) == len(expected), f"{len(actual)} losses, {len(expected)} expected")
    largest = float(np.max(np.abs(actual - expected) / np.abs(expected)))
    claim(largest <= EQUAL, f"losses differ by {largest:.1e} of their value")
    return largest


def gone(processes: Sequence[psutil.Process]) -> bool:
    """Whether all of them have ended."""
    return not any(map(_lives, processes))


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_running(folder: Path) -> list[str]:
    """The command lines of running processes that name `folder`, except the cluster's own daemons."""
    commands = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or ()
        ours = any(word.startswith(str(folder)) or f"dir={folder}" in word for word in words)
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            commands.append(" ".join(words)[:100])
    return commands


def fault(step: int, unless: Path, word: str, on: int = 1) -> dict[str, str]:
    """The environment that makes `step` raise on rank `on` of a command with this word, until the file `unless` exists."""
    spec = {"rank": on, "step": step, "word": word, "unless": str(unless)}
    return {"PYTHONPATH": str(FAULTY), "PROVE_FAULT": json.dumps(spec)}
