"""The cases of the many-hosts proof: a function for each failure of a two-node job, with the required outcome."""

import contextlib
import dataclasses
import subprocess
from collections.abc import Callable, Iterator

import numpy as np
import psutil

from alpaca_jax.cluster.job import State
from alpaca_jax.cluster.slurm.backend import Slurm
from tools.prove.many_hosts_job import HEARTBEAT, QUICK, STEPS, Ground, Trial, claim, difference, fault, gone, left_running

MOMENT = STEPS // 3  # the step after which the failure happens
SLURM = 20.0  # seconds that Slurm may take to end what does not end by itself: its KillWait plus its polling
Act = Callable[[Trial, list[psutil.Process]], None]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a case. `seconds` count from the failure until no process of the attempt was left on any host."""

    case: str
    seconds: float
    limit: float
    codes: list[int | None]  # exit codes of the attempts
    restarted: str
    state: str  # of the job, at the very end
    went_on_from: int  # the step of the checkpoint
    difference: float  # of the losses from the undisturbed run's
    said: list[str]  # the user's output, in lines


def kill_a_rank(ground: Ground, straight: np.ndarray) -> Outcome:
    """SIGKILL to rank 1."""
    return _started_again(ground, straight, "killed", "kill -9 of rank 1", QUICK, lambda _, ranks: ranks[1].kill())


def kill_the_coordinator(ground: Ground, straight: np.ndarray) -> Outcome:
    """SIGKILL to rank 0, which runs JAX's coordinator."""
    return _started_again(ground, straight, "coordinator", "kill -9 of rank 0, the coordinator's", QUICK, lambda _, ranks: ranks[0].kill())


def stop_a_rank(ground: Ground, straight: np.ndarray) -> Outcome:
    """SIGSTOP to rank 1: alive but stuck."""
    limit = 2 * HEARTBEAT + SLURM
    return _started_again(ground, straight, "stuck", "a stuck rank (SIGSTOP of rank 1)", limit, lambda _, ranks: ranks[1].suspend())


def cut_a_link(ground: Ground, straight: np.ndarray) -> Outcome:
    """The network link of rank 1's host goes down and stays down; a third host is free."""
    hosts = ground.cluster.hosts
    assert hosts is not None
    trial, limit = Trial(ground, "cut"), 2 * HEARTBEAT + SLURM
    trial.launch()
    ranks = _at_the_moment(trial)
    host = trial.host(1)
    hosts.cut(host)
    try:
        seconds = trial.until(lambda: gone(ranks), "the end of all ranks", 120)
        codes = _wait_for_the_next_attempt(trial)
        said = trial.said()
        trial.until(trial.has_begun, "that both ranks have begun")
        claim(host not in (trial.host(0), trial.host(1)), f"{host} is cut off and has a rank again")
    finally:
        hosts.mend(host)
    return _compared(trial, straight, "a cut link (that of rank 1's host)", seconds, limit, codes, said)


def raise_on_a_rank(ground: Ground, straight: np.ndarray) -> Outcome:
    """A Python exception in a step of rank 1: a restart can't help; once the code is fixed, the same launch resumes."""
    mended = ground.folder / "mended"
    with _relaunched(ground, "raises", fault(MOMENT, mended, "train")) as trial:
        ranks = _started(trial)
        trial.until(lambda: trial.step >= MOMENT - 1, f"step {MOMENT - 1}")
        seconds = trial.until(lambda: gone(ranks), "the end of all ranks", 120)
        record = trial.ended()
        claim((record.state, record.exit_code, len(record.attempts)) == (State.failed, 1, 1), f"{record.state} with {record.exit_code}")
        said = trial.said()
        claim(any("fault of step" in line for line in said), f"the traceback is not what is said first: {said}")
        mended.touch()
    return _compared(trial, straight, "an exception on rank 1", seconds, QUICK, [1], said, "by the person")


def kill_the_supervisor(ground: Ground, straight: np.ndarray) -> Outcome:
    """SIGKILL to the job's supervisor on its first node."""
    with _relaunched(ground, "supervisor") as trial:
        ranks = _at_the_moment(trial)
        trial.supervisor().kill()
        seconds = trial.until(lambda: gone(ranks), "the end of all ranks", 120)
        trial.ended()
        status = Slurm().state(trial.folder)
        claim(status.state in (State.failed, State.lost), f"the job is {status.state}")
        said = [f"{status.state.value}: {status.reason}", *trial.said()]
    return _compared(trial, straight, "kill -9 of the job's supervisor", seconds, QUICK + SLURM, [None], said, "by the person")


def cancel(ground: Ground, straight: np.ndarray) -> Outcome:
    """`scancel`: the ranks save and leave."""
    with _relaunched(ground, "cancelled") as trial:
        ranks = _at_the_moment(trial)
        subprocess.run(["scancel", str(trial.written.id)], check=True)
        seconds = trial.until(lambda: gone(ranks), "the end of all ranks", 120)
        trial.ended()
        claim(trial.state() is State.cancelled, f"the job is {trial.state()}")
        codes, said = [attempt.exit_code for attempt in trial.written.attempts], trial.said()
    return _compared(trial, straight, "scancel", seconds, SLURM, codes, said, "by the person")


def preempt(ground: Ground, straight: np.ndarray) -> Outcome:
    """A job of a partition with priority takes the nodes: this one saves, exits and is requeued."""
    trial = Trial(ground, "preempted")
    trial.launch(["partition=main", "exclusive=true"])
    ranks = _at_the_moment(trial)
    others = ["srun", "--partition=urgent", f"--nodes={len(ground.cluster.nodes)}", "--exclusive", "--time=1", "sleep", "1"]
    urgent = subprocess.Popen(others, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = trial.until(lambda: gone(ranks), "the end of all ranks", 120)
    claim(urgent.wait(120) == 0, "the urgent job did not run")
    codes = _wait_for_the_next_attempt(trial)
    return _compared(trial, straight, "a preempted job", seconds, SLURM, codes, trial.said())


CASES = {
    "kill": kill_a_rank,
    "coordinator": kill_the_coordinator,
    "raise": raise_on_a_rank,
    "stop": stop_a_rank,
    "cut": cut_a_link,
    "preempt": preempt,
    "scancel": cancel,
    "supervisor": kill_the_supervisor,
}


def _started(trial: Trial) -> list[psutil.Process]:
    trial.reach(1)
    trial.note()
    return trial.ranks()


def _at_the_moment(trial: Trial) -> list[psutil.Process]:
    trial.reach(MOMENT)
    trial.note()
    return trial.ranks()


def _started_again(ground: Ground, straight: np.ndarray, name: str, case: str, limit: float, act: Act) -> Outcome:
    """A failure of one rank, after which the supervisor restarts all ranks in the same allocation."""
    trial = Trial(ground, name)
    trial.launch()
    ranks = _at_the_moment(trial)
    act(trial, ranks)
    seconds = trial.until(lambda: gone(ranks), "the end of all ranks", 120)
    record = trial.ended()
    return _compared(trial, straight, case, seconds, limit, [attempt.exit_code for attempt in record.attempts[:-1]], trial.said())


@contextlib.contextmanager
def _relaunched(ground: Ground, name: str, environment: dict[str, str] | None = None) -> Iterator[Trial]:
    """A job that is launched, ended from outside, and launched again by the same command."""
    trial = Trial(ground, name)
    trial.launch(environment=environment)
    yield trial
    claim(not left_running(trial.folder), f"still running: {left_running(trial.folder)}")
    trial.launch(environment=environment)


def _wait_for_the_next_attempt(trial: Trial) -> list[int | None]:
    """Returns the exit codes of the earlier attempts."""
    before = len(trial.written.attempts)

    def begun() -> bool:
        if trial.state() is State.queued:
            trial.begin_now()
        return len(trial.written.attempts) > before or trial.state().final

    trial.until(begun, "the next attempt")
    return [attempt.exit_code for attempt in trial.written.attempts[:before]]


def _compared(
    trial: Trial,
    straight: np.ndarray,
    case: str,
    seconds: float,
    limit: float,
    codes: list[int | None],
    said: list[str],
    restarted: str = "by itself",
) -> Outcome:
    """Waits for the end of the run, and compares it with the undisturbed one."""
    record = trial.ended()
    claim(record.state is State.done and record.exit_code == 0, f"{case}: in the end {record.state.value}, exit code {record.exit_code}")
    claim(seconds <= limit, f"{case}: {seconds:.1f} s to the end, {limit:.0f} allowed")
    claim(not left_running(trial.folder), f"{case}: still running: {left_running(trial.folder)}")
    apart = difference(trial.losses(), straight)
    codes = [*codes, record.exit_code]
    return Outcome(case, round(seconds, 1), limit, codes, restarted, record.state.value, trial.went_on_from(), apart, said)
