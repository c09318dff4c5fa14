"""A sweep stops where its first jobs say that all would die of the same mistake, and only there."""

import datetime

import pytest

from alpaca_jax.cluster import logs, rank, record
from alpaca_jax.cluster.job import Job, State, Status
from alpaca_jax.jobs import backends, mistake, queue, status, sweep
from alpaca_jax.jobs.status import Row
from alpaca_jax.launcher import results

KEY = "optimizer.learning_rate"


class Dies:
    """A backend whose jobs are over as they are submitted: `said` maps a job's name to (exit code, seconds, last words)."""

    said: dict = {}

    def check(self, job):
        pass

    def submit(self, job):
        code, seconds, words = self.said[job.folder.name]
        found = record.renewed("dies", job)
        attempt = found.begin()
        began = datetime.datetime.now(datetime.UTC)
        attempt.started = (began - datetime.timedelta(seconds=seconds)).isoformat()
        found.end(code)
        folder = logs.folder_of(job.folder, attempt.number)
        folder.mkdir(parents=True)
        lines = [rank.line(0, "h", pid=1, started=attempt.started), f"{words}\n"]
        lines.append(rank.line(0, "h", exit=code, ended=began.isoformat(), traceback="none"))
        rank.log_of(folder, 0).write_text("".join(lines))
        found.settle(State.failed if code else State.done)

    def state(self, folder):
        found = record.read(folder)
        return Status(found.state, None, found.attempts[-1].number, found.exit_code, found.reason)


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Runs a sweep over three rates, one job after another: (the jobs that began, the sweep)."""
    monkeypatch.setitem(backends.BACKENDS, "dies", Dies)
    monkeypatch.setattr(queue, "TICK_SECONDS", 0.0)
    monkeypatch.setattr(queue.signal, "signal", lambda *_: None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def run(*said, keep_going=False):
        monkeypatch.setattr(Dies, "said", {str(number): words for number, words in enumerate(said)})
        jobs = sweep.Sweep(tmp_path / "s", "dies", "train", "heldout_loss", parallel=1, keep_going=keep_going)
        for name, rate in zip("012", ("1e-5", "2e-5", "3e-5"), strict=True):
            job = Job(folder=jobs.folder / name, command=("alpaca-jax", "train"), name="j")
            jobs.entries.append(sweep.Entry(name, {KEY: rate}, (f"{KEY}={rate}",), str(jobs.folder / name), job))
        jobs.write()
        queue.Queue(waiting=list("012")).write(jobs.folder)
        queue.serve(jobs.folder)
        return [entry.name for entry in jobs.entries if record.exists(entry.job.folder)], jobs

    return run


def test_a_mistake_that_is_not_about_what_is_swept_stops_at_the_first(begun):
    words = "alpaca-jax: data.records=nowhere: no such file or folder"
    names, jobs = begun(*[(2, 3, words)] * 3)
    assert names == ["0"]
    rows = status.look(jobs)
    assert [(row.status.state, row.exit_code) for row in rows] == [(State.failed, 2)] * 3
    told = results.failures(rows)
    assert len(told) == 2 and "nowhere" in told[0] and told[1].startswith("not started: job 1, 2, since job 0 died of a mistake")
    queue.Queue(waiting=["1"], stopped="x").write(jobs.folder)
    assert queue.cancel(jobs.folder) == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # Of the rate: the others may be right.
        ([(2, 3, "alpaca-jax: learning_rate: give less than 1e-5"), (0, 9, ""), (0, 9, "")], "012"),
        ([(2, 3, "alpaca-jax: 1e-5 is no rate"), (0, 9, ""), (0, 9, "")], "012"),
        # The same twice, but for the rate itself.
        ([(2, 3, "alpaca-jax: learning_rate=1e-5 is too high"), (2, 3, "alpaca-jax: learning_rate=2e-5 is too high"), (0, 9, "")], "01"),
        ([(2, 3, "alpaca-jax: learning_rate=1e-5 is high"), (2, 3, "alpaca-jax: learning_rate: another"), (0, 9, "")], "012"),
        # Not the user's mistake, not at once, or without a word.
        ([(1, 3, "Traceback"), (1, 3, "Traceback"), (1, 3, "Traceback")], "012"),
        ([(2, 3000, "alpaca-jax: the disk is full")] * 3, "012"),
        ([(2, 3, "killed")] * 3, "012"),
        # The first was right.
        ([(0, 3, ""), (2, 3, "alpaca-jax: no such file"), (2, 3, "alpaca-jax: no such file")], "012"),
    ],
)
def test_any_other_end_lets_the_rest_begin(begun, said, expected):
    assert "".join(begun(*said)[0]) == expected


def test_the_rest_is_started_where_one_says_so(begun):
    names, jobs = begun(*[(2, 3, "alpaca-jax: data.records=nowhere: no such file")] * 3, keep_going=True)
    assert names == ["0", "1", "2"] and sweep.read(jobs.folder).keep_going
    assert [line.partition(": ")[2] for line in results.failures(status.look(jobs))][1:] == ["the same as job 0"] * 2


def test_the_message_of_several_lines_is_whole(begun):
    _, jobs = begun((2, 3, "some log\nalpaca-jax: the configuration has 1 problem:\n  epochs: give more than 0"), (0, 1, ""), (0, 1, ""))
    assert mistake.mistake_of(jobs.entries[0]) == "the configuration has 1 problem:\n  epochs: give more than 0"
    assert mistake.essence(f"{jobs.entries[1].dir}/x at 2e-5", jobs.entries[1]) == "*/x at *"
    assert Row(jobs.entries[0], Status(State.done)).exit_code == 0
