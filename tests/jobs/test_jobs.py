"""The verb `jobs`: what it says of a sweep and of a single job, and that it ends and resumes them, from any process."""

import re
import time

import pytest
from cluster_jobs import eventually, running_below
from launched import scripted

from alpaca_jax import __main__ as cli
from alpaca_jax import config as configuration
from alpaca_jax.cluster import logs, record
from alpaca_jax.cluster.gke import manifest as gke_manifest
from alpaca_jax.cluster.job import Job, State
from alpaca_jax.cluster.local import Local
from alpaca_jax.cluster.slurm import backend as slurm
from alpaca_jax.cluster.tpu import backend as tpu_pod
from alpaca_jax.jobs import figures, queue, sweep
from alpaca_jax.launcher.config import LauncherConfig

WAITS = "(folder / f'up-{rank}').touch()\nwhile not (folder.parent / 'go').exists():\n    time.sleep(0.05)\n"


@pytest.fixture
def jobs(tmp_path, capsys):
    """Runs `alpaca-jax jobs` on the sweep: what it printed."""

    def go(action, *words, code=0, below=""):
        capsys.readouterr()
        found = cli.main(["jobs", f"action={action}", f"dir={tmp_path}/sweep{below}", "poll_seconds=0.1", *words])
        shown = capsys.readouterr()
        assert found == code, shown.err
        return shown.out + shown.err

    return go


def test_detach_status_cancel_resume(tmp_path, monkeypatch, jobs):
    folder = tmp_path / "sweep"
    go = scripted(tmp_path, monkeypatch, WAITS + "done(float(seed))")
    try:
        assert go("seed=0,1,2", "hydra.launcher.processes_per_node=2", "hydra.launcher.detach=true") == 0
        eventually(lambda: (folder / "0" / "up-1").exists(), 20)
        shown = jobs("status")
        assert shown.count("queued") == 2 and shown.count("running") == 1 and "seed" in shown
        assert "still starting jobs" in jobs("resume", code=2)

        assert "cancelled: 1, 2, 0" in jobs("cancel")
        assert running_below(folder) == [] and queue.read(folder).alive is None
        assert re.findall(r"^(\d) +\d +cancelled ", jobs("status"), re.MULTILINE) == ["0", "1", "2"]
        assert "nothing was queued or running" in jobs("cancel")

        (folder / "go").touch()
        assert "started again: 0, 1, 2" in jobs("resume")
        assert "job 2 seed=2: done" in jobs("status", "follow=true")
        assert "no job had failed" in jobs("resume")
        assert [len(record.read(folder / name).attempts) for name in "012"] == [2, 1, 1]
        assert running_below(folder) == []
    finally:
        jobs("cancel")


def test_logs_are_the_first_traceback_or_the_end_of_a_rank(tmp_path, monkeypatch, jobs):
    go = scripted(tmp_path, monkeypatch, "print('hello from', rank)\nif seed == 1 and rank == 1:\n    raise ValueError('unlucky')\ndone()")
    assert go("seed=0,1", "hydra.launcher.processes_per_node=2", "hydra.launcher.parallel=2") == 1
    shown = jobs("logs")
    assert "--- job 0: done\nrank 0 " in shown and " | hello from 0" in shown
    assert "rank 1 on " in shown and "ValueError: unlucky" in shown
    only = jobs("logs", "rank=1", "lines=1", below="/0").splitlines()
    assert len(only) == 1 and only[0].startswith("rank 1 ") and only[0].endswith(" | hello from 1")
    followed = jobs("logs", "follow=true", below="/0")
    assert "hello from 0" in followed and "hello from 1" in followed
    assert "the job has 2 ranks, counted from 0" in jobs("logs", "rank=2", code=2)
    status = jobs("status", below="/1")
    assert "failed" in status and "rank 1 on" in status


def test_a_single_job_without_a_sweep(tmp_path, jobs):
    job = Job(folder=tmp_path / "sweep", command=("sh", "-c", "exec sleep 60"), name="single")
    Local().submit(job)
    try:
        eventually(lambda: record.read(job.folder).attempts != [])
        assert "running" in jobs("status")
        assert "cancelled: sweep" in jobs("cancel")
        assert "started again: sweep" in jobs("resume")
        eventually(lambda: len(record.read(job.folder).attempts) == 2)
    finally:
        jobs("cancel")
    assert not sweep.exists(tmp_path / "sweep") and Local().state(job.folder).state is State.cancelled


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["action=sttaus"], "action: input should be 'status', 'logs', 'cancel' or 'resume'"),
        (["dir=nowhere"], "holds neither job.json nor sweep.json: give the dir="),
        (["rank=-1", "action=logs"], "rank=-1: give 0 or more"),
        (["rank=1"], "works with action=logs"),
        (["action=cancel", "follow=true"], "not with cancel"),
    ],
)
def test_bad_input(words, expected, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["jobs", *words]) == 2
    assert expected in capsys.readouterr().err


def test_a_folder_above_the_jobs_names_them(tmp_path, capsys):
    record.renewed("local", Job(folder=tmp_path / "one", command=("true",), name="one")).write()
    assert cli.main(["jobs", f"dir={tmp_path}"]) == 2
    assert f"below it there are {tmp_path}/one" in capsys.readouterr().err


def test_a_job_that_lost_its_supervisor_says_so_after_two_looks(tmp_path, jobs):
    found = record.renewed("local", Job(folder=tmp_path / "sweep", command=("true",), name="one"))
    found.launcher = record.this_process() | {"created": time.time() - 1e6}
    found.begin()
    assert "lost" in jobs("status")


def test_what_a_run_has_come_to_is_read_from_its_files(tmp_path):
    run = str(tmp_path)
    assert figures.last_step(run) == (None, None) and figures.objective(run, "heldout_loss") is None
    (tmp_path / "train").mkdir()
    metrics = tmp_path / "train" / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 3.0, "heldout_loss": 2.5}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo')
    assert figures.last_step(run) == (2, 2.0)
    assert figures.objective(run, "heldout_loss") == 2.5
    (tmp_path / "train" / "summary.json").write_text('{"heldout_loss": 2.25, "heldout": {"loss": 2.0}, "name": "x"}')
    assert [figures.objective(run, key) for key in ("heldout_loss", "heldout.loss", "name")] == [2.25, 2.0, None]
    (tmp_path / "summary.json").write_text('{"suites": {"basics": {"value": 0.5}}, "heldout_loss": 9.0}')  # a recipe's: training goes first
    assert [figures.objective(run, key) for key in ("heldout_loss", "suites.basics.value")] == [2.25, 0.5]


@pytest.mark.parametrize(
    ("summary", "metrics", "expected"),
    [
        ('{"heldout_loss": 2.0, "heldout_step": 10, "steps": 10}', "", 2.0),
        ('{"heldout_loss": 2.0, "heldout_step": 8, "steps": 10}', "", None),  # of an earlier evaluation
        ('{"heldout_loss": 2.0, "heldout_step": null, "steps": 10}', "", 2.0),
        ('{"heldout_loss": 2.0}', "", 2.0),  # of an older version, or a script
        ('{"heldout_loss": 2.0, "evaluated": 8, "steps": 10}', "", None),
        ('{"steps": 10}', '{"step": 8, "heldout_loss": 2.5}\n', None),
        ('{"steps": 8}', '{"step": 8, "heldout_loss": 2.5}\n', 2.5),
        ("{}", '{"step": 8, "heldout_loss": 2.5}\n', 2.5),
        ('{"heldout_loss": "low", "steps": [1]}', "", None),
        ('{"heldout_loss": NaN}', "", None),
        ("[" * 100_000, '{"step": "x", "loss": "y", "heldout_loss": [1]}\n' + "[" * 100_000, None),
    ],
)
def test_only_the_end_of_a_run_is_ranked(tmp_path, summary, metrics, expected):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "summary.json").write_text(summary)
    (tmp_path / "train" / "metrics.jsonl").write_text(metrics)
    assert figures.objective(str(tmp_path), "heldout_loss") == expected
    figures.last_step(str(tmp_path))


@pytest.mark.parametrize(
    "end",
    [
        "[alpaca-jax rank=0 host=h exit=x ended=y traceback=z]",
        "[alpaca-jax rank=0 host=h exit=1 ended=2026-01-01T00:00:00]",
        "[alpaca-jax a=b]",
    ],
)
def test_a_log_that_is_not_ours_has_no_end(tmp_path, end):
    log = tmp_path / "rank-0000.log"
    log.write_bytes(b"\xff" * 100 + f"\n{end}\n".encode())
    found = logs.first_failure(logs.ends(tmp_path, 2))
    assert found.rank == 0 and found.exit_code is None


@pytest.mark.parametrize(
    ("name", "known"), [("local", ()), ("slurm", slurm.OPTIONS), ("tpu_pod", tpu_pod.OPTIONS), ("gke", gke_manifest.OPTIONS)]
)
def test_every_launcher_holds_every_key_and_option(name, known):
    import yaml

    settings = yaml.safe_load((configuration.directory() / "hydra" / "launcher" / f"{name}.yaml").read_text())
    settings.pop("_target_")
    parsed = configuration.parse(LauncherConfig, settings)
    assert set(settings) == set(configuration.to_mapping(parsed)) and parsed.backend == name
    assert set(settings["options"]) == set(known)
