"""A sweep of 4 jobs of 2 ranks on Slurm: one job fails on its rank 1, and the sweep's own process is killed and restarted midway."""

import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.cluster import logs, record
from alpaca_jax.cluster.slurm import queue as slurm_queue
from alpaca_jax.jobs import sweep
from tools.prove.many_hosts_job import PATIENCE, QUICK, Failed, Ground, Trial, claim, difference, fault, left_running

JOBS, FAILING = 4, 2
STEP = 30  # of the fault


def one_fails(ground: Ground, straight: np.ndarray) -> dict[str, Any]:
    """Returns the outcome of the jobs, the time it took, and the first lines of the user's output."""
    folder, mended = ground.folder / "sweep", ground.folder / "sweep-mended"
    environment = os.environ | fault(STEP, mended, f"seed={FAILING}")
    command = _command(ground)

    with open(ground.folder / "sweep.out", "wb") as output:
        driver = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _wait(lambda: _queued(folder), driver, ground.folder / "sweep.out")
        driver.send_signal(signal.SIGKILL)
        driver.wait()

    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=4 * PATIENCE)
    seconds = time.monotonic() - began
    entries = sweep.read(folder).entries
    results = [entry.result or {} for entry in entries]
    states = [result.get("state") for result in results]
    said = f"{done.stdout}\n{done.stderr}"
    claim(states == ["failed" if number == FAILING else "done" for number in range(JOBS)], f"states {states}: {said}")
    claim(done.returncode == 1, f"the sweep's exit code is {done.returncode}: {said}")
    failed = results[FAILING]
    claim((failed["exit_code"], failed["first_failure"]["rank"]) == (1, 1), f"the failed job: {failed}")
    claim("RuntimeError: the fault of step" in done.stderr, f"the traceback is not shown: {said}")
    _nothing_left(folder)
    claim([len(_record(folder, number).attempts) for number in range(JOBS)] == [1] * JOBS, "a job was started twice")
    apart = difference(Trial(ground, "sweep/0").losses(), straight)

    to_end = _seconds_to_the_end(folder)
    claim(to_end <= QUICK, f"the failing job took {to_end:.1f} s to its end, {QUICK:.0f} allowed")

    mended.touch()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=4 * PATIENCE)
    claim(again.returncode == 0, f"the failed job alone, mended: {again.returncode}: {again.stdout}\n{again.stderr}")
    attempts = [len(_record(folder, number).attempts) for number in range(JOBS)]
    claim(attempts == [2 if number == FAILING else 1 for number in range(JOBS)], f"attempts {attempts}")
    _nothing_left(folder)
    lines = done.stderr.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f"job {FAILING} ("))
    return {
        "states": states,
        "exit code": done.returncode,
        "seconds": round(seconds),
        "seconds from the exception to the end of its job": round(to_end, 1),
        "first failure": f"rank 1 on {failed['first_failure']['host']}",
        "attempts after the sweep's own process was killed": [1] * JOBS,
        "attempts after mending": attempts,
        "difference": f"{apart:.1e}",
        "said": ground.relative(lines[first:]),
    }


def _command(ground: Ground) -> list[str]:
    words = [word for word in ground.settings("sweep", seed=None) if not word.startswith("distributed.heartbeat")]
    launcher = ["hydra/launcher=slurm", "hydra.launcher.nodes=2", "hydra.launcher.options.cpus_per_task=2", "hydra.launcher.poll_seconds=1"]
    seeds = f"seed={','.join(map(str, range(JOBS)))}"
    return [sys.executable, "-m", "alpaca_jax", "train", "-m", *launcher, seeds, *words]


def _queued(folder: Path) -> bool:
    """Whether all jobs have a Slurm job id and the first one is training."""
    numbers = [record.exists(folder / str(number)) and _record(folder, number).id for number in range(JOBS)]
    return all(numbers) and (folder / "0" / "train" / "metrics.jsonl").exists()


def _record(folder: Path, number: int) -> record.Record:
    return record.read(folder / str(number))


def _seconds_to_the_end(folder: Path) -> float:
    """The seconds from the exception to the end of all ranks of its job."""
    failing = _record(folder, FAILING)
    raised = logs.ends(logs.folder_of(folder / str(FAILING), 0), failing.job.processes)[1].failed
    return (datetime.datetime.fromisoformat(failing.attempts[0].ended or "") - raised).total_seconds()


def _wait(true: Any, driver: subprocess.Popen, output: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        if driver.poll() is not None or time.monotonic() > end:
            driver.kill()
            raise Failed(f"the sweep did not begin: {output.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def _nothing_left(folder: Path) -> None:
    queue = slurm_queue.ask("squeue", "--noheader")
    claim(not left_running(folder) and not queue.strip(), f"still there: {left_running(folder)} {queue}")
