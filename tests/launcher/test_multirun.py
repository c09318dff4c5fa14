"""Sweeps: every combination is a job of its own, all are checked first, and what came of them is told."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from cluster_jobs import eventually, running_below
from launched import scripted
from training import make_files, mapping

from alpaca_jax import __main__ as cli
from alpaca_jax.cluster import record
from alpaca_jax.cluster.job import State, Status
from alpaca_jax.cluster.local import Local
from alpaca_jax.errors import UserError
from alpaca_jax.jobs import backends, queue, sweep
from alpaca_jax.launcher import combinations, waiting
from alpaca_jax.launcher.config import LauncherConfig
from tools.prove.tiny import overrides

FAILS = """
if seed == 2 and rank == 1 and not (folder.parent / "mended").exists():
    raise ValueError("seed 2 is unlucky")
if seed == 2 and rank == 0 and not (folder.parent / "mended").exists():
    time.sleep(60)
done(float(seed))
"""


@pytest.fixture
def written(tmp_path):
    """What sweep.json says, by the job's name."""
    return lambda: {entry.name: entry for entry in sweep.read(tmp_path / "sweep").entries}


def test_one_of_four_fails_on_rank_1_and_alone_is_run_again(tmp_path, monkeypatch, capsys, written):
    go = scripted(tmp_path, monkeypatch, FAILS)
    words = ["seed=0,1,2,3", "hydra.launcher.processes_per_node=2", "hydra.launcher.parallel=4"]
    start = time.monotonic()
    assert go(*words) == 1
    assert time.monotonic() - start < 40
    shown = capsys.readouterr()
    assert re.search(r"job 2 \(seed=2\): rank 1 on \S+ ended with exit code 1 first", shown.err)
    assert "ValueError: seed 2 is unlucky" in shown.err
    results = {name: entry.result for name, entry in written().items()}
    assert [results[name]["state"] for name in "0123"] == ["done", "done", "failed", "done"]
    assert [results[name]["objective"] for name in "0123"] == [0.0, 1.0, None, 3.0]
    assert results["2"]["first_failure"]["rank"] == 1 and results["3"]["dollars"] == 0.5 and results["3"]["hours"] > 0
    assert "heldout_loss" in shown.out and "3.0000" in shown.out and "rank 1 on" in shown.out
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "seed 2 is unlucky" in page and "<svg" in page and "Job 0 has the smallest heldout_loss, 0.0000" in page
    assert running_below(tmp_path / "sweep") == []

    (tmp_path / "sweep" / "mended").touch()
    assert go(*words) == 0
    assert [len(record.read(tmp_path / "sweep" / name).attempts) for name in "0123"] == [1, 1, 2, 1]
    assert written()["2"].result["objective"] == 2.0


@pytest.mark.prove
def test_a_longer_sweep_keeps_the_jobs_that_are_done(tmp_path, monkeypatch, written):
    go = scripted(tmp_path, monkeypatch, "done()")
    assert go("seed=1,2", "hydra.launcher.parallel=3") == 0
    assert go("seed=0,1,2", "hydra.launcher.parallel=3") == 0
    assert {name: entry.swept["seed"] for name, entry in written().items()} == {"0": "1", "1": "2", "2": "0"}
    assert all(len(record.read(entry.job.folder).attempts) == 1 for entry in written().values())


def test_jobs_run_one_after_another_unless_told_otherwise(tmp_path, monkeypatch, written):
    go = scripted(tmp_path, monkeypatch, "time.sleep(0.3); done()")
    assert go("seed=0,1", "hydra.launcher.folders=keys", "experiment=laptop") == 0
    assert list(written()) == ["seed-0", "seed-1"]
    first, second = (record.read(entry.job.folder) for entry in written().values())
    assert first.attempts[0].ended <= second.attempts[0].started
    assert sorted(first.job.command[2:]) == [f"dir={tmp_path}/sweep/seed-0", "experiment=laptop", "seed=0", "train"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["epochs=1,two"], ["epochs=two: ", "epochs: input should be a valid number"]),
        (["optimizer=adamw,muon", "optimizer.learning_rate=1e-5,x"], ["optimizer=muon optimizer.learning_rate=x", "learning_rate: input"]),
        (["epoch=1,2"], ["epoch: there is no such key; did you mean epochs?"]),
        (["dir=a,b"], ["dir: a sweep has one folder"]),
        (["seed=1,2", "hydra.sweep.dir=x"], ["hydra.sweep.dir: the sweep's folder is dir="]),
        (["seed=1,2", "hydra/launcher=slrum"], ["there is no such hydra/launcher; did you mean slurm?"]),
        (["seed=1,2", "hydra.launcher.node=2"], ["node: there is no such key; did you mean nodes?"]),
        (["seed=1,2", "hydra.launcher.parallel=0"], ["parallel=0: give 1 or more"]),
        (["seed=1,2", "hydra.launcher.nodes=2"], ["job 0, 1: 2 nodes: this machine is one"]),
        (["seed=1,2", "hydra.launcher.secrets=[NO_SUCH_KEY]"], ["NO_SUCH_KEY", "export"]),
        (["seed=1,2", "dir=gs://bucket/run"], ["give hydra.launcher.folder=runs/NAME"]),
        (["seed=interval(1,2)"], ["does not support sweep type"]),
        (["seed=1,2", "hydra.launcher.detach=true", "hydra.sweeper.max_batch_size=1"], ["leave detach out"]),
    ],
)
def test_nothing_starts_where_something_is_wrong(tmp_path, monkeypatch, capsys, words, expected):
    go = scripted(tmp_path, monkeypatch, "(folder / 'started').touch()")
    monkeypatch.setattr(queue, "start", lambda *_: pytest.fail("nothing may start"))
    assert go(*words) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in expected), error
    assert "Traceback" not in error
    assert list((tmp_path / "sweep").glob("*/started")) == []


def test_a_key_that_a_configuration_names_has_to_be_set(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SOME_KEY", raising=False)
    teacher = ["teacher=openai", "teacher.model=x", "teacher.key_env=SOME_KEY", f"dir={tmp_path}/sweep", "budget.dollars=1"]
    assert cli.main(["generate", "-m", *teacher, "seed=1,2"]) == 2
    assert "needs SOME_KEY, not set here" in capsys.readouterr().err


def test_verbs_without_an_end_are_not_swept(capsys):
    assert cli.main(["jobs", "-m", "dir=a,b"]) == 2 and "no --multirun" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a sweep", "it's", "back\\slash", "a,b", "x[1]", "\\", "\\'"])
def test_an_odd_folder_arrives_unchanged(tmp_path, name):
    found, settings = sweep.Sweep(tmp_path / name, "local", "train", "heldout_loss"), LauncherConfig(backend="local")
    entry = combinations.entry(found, ["++seed=1", "mesh=fsdp", "experiment=laptop/train"], {"mesh"}, (), f"{tmp_path}/{name}", settings, 1)
    assert entry.swept == {"seed": "1", "experiment": "laptop"} and entry.job.folder == tmp_path / name / "0"
    command = cli._parse(list(entry.job.command[1:]))
    config = cli._config(command, cli._compose(command))
    assert (config.dir, config.seed, config.mesh.fsdp) == (str(entry.job.folder), 1, -1)


class Stub:
    """A backend whose jobs end as they are submitted, with the objective of a parabola."""

    refuses = ""

    def check(self, job):
        if self.refuses and self.refuses in job.command:
            raise UserError("the quota is used up")

    def submit(self, job):
        settings = dict(word.split("=", 1) for word in job.command if "=" in word)
        rate = float(settings.get("optimizer.learning_rate", 0))
        found = record.renewed("stub", job)
        found.begin()
        found.end(1 if rate > 2.5 else 0)
        (job.folder / "train").mkdir(parents=True, exist_ok=True)
        (job.folder / "train" / "summary.json").write_text(json.dumps({"goodput": {"step": (rate - 2) ** 2}}))
        found.settle(State.failed if rate > 2.5 else State.done)

    def state(self, folder):
        found = record.read(folder)
        return Status(found.state, None, found.attempts[-1].number, found.exit_code, found.reason)

    def cancel(self, folder):
        raise AssertionError("nothing runs")


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Sweeps on a backend of the tests' own, through a launcher that a user's folder of YAML adds."""
    monkeypatch.setitem(backends.BACKENDS, "stub", Stub)
    monkeypatch.setenv(cli.CONFIG_DIR, "")  # which --config-dir sets: it is put back after the test
    own = tmp_path / "own" / "hydra" / "launcher"
    own.mkdir(parents=True)
    (own / "stub.yaml").write_text(
        "_target_: hydra_plugins.alpaca_jax.ClusterLauncher\nbackend: stub\nobjective: goodput.step\nmode: min\n"
    )
    common = [f"dir={tmp_path}/sweep", "hydra/launcher=stub", "--config-dir", str(tmp_path / "own")]
    return lambda *words: cli.main(["train", "-m", *common, *words])


def test_another_backend_and_an_objective_inside_the_summary(stub, written):
    assert stub("optimizer.learning_rate=1.0,2.0,3.0") == 1
    assert [entry.result["objective"] for entry in written().values()] == [1.0, 0.0, None]
    assert "--config-dir" in written()["0"].job.command


def test_a_refused_job_keeps_all_from_the_queue(stub, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(Stub, "refuses", "optimizer.learning_rate=2.0")
    assert stub("optimizer.learning_rate=1.0,2.0") == 2
    assert "job 1: the quota is used up" in capsys.readouterr().err
    assert not record.exists(tmp_path / "sweep" / "0")


def test_batches_go_on_after_a_failed_job(stub, written):
    assert stub("optimizer.learning_rate=3.0,2.0", "hydra.sweeper.max_batch_size=1") == 1
    assert [entry.result["state"] for entry in written().values()] == ["failed", "done"]


def test_another_verb_or_backend_in_the_same_folder_is_refused(stub, tmp_path, capsys):
    assert stub("optimizer.learning_rate=1.0,2.0") == 0
    assert cli.main(["train", "-m", f"dir={tmp_path}/sweep", "seed=1,2"]) == 2
    assert "holds a sweep of the backend stub" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # of Optuna's old release, which the sweeper holds on to
@pytest.mark.parametrize(("mode", "best_of"), [("min", min), ("max", max)])
def test_optuna_looks_for_the_best_objective(stub, tmp_path, written, mode, best_of):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    space = ["optimizer.learning_rate=interval(0.0,2.4)", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3"]
    assert stub("hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", *space, f"hydra.launcher.mode={mode}") == 0
    assert len(written()) == 6 and sweep.read(tmp_path / "sweep").mode == mode
    best = (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    assert f"{best_of(entry.result['objective'] for entry in written().values())}" in best


@pytest.mark.parametrize(("mode", "best"), [("min", "1"), ("max", "0")])
def test_table_and_page_mark_the_best_of_a_figure_either_way(stub, tmp_path, capsys, mode, best):
    assert stub("optimizer.learning_rate=0.5,1.5", f"hydra.launcher.mode={mode}") == 0
    value = {"0": "2.2500", "1": "0.2500"}[best]
    assert capsys.readouterr().out.count("(best)") == 1
    page = (tmp_path / "sweep" / "report.html").read_text()
    word = {"min": "smallest", "max": "largest"}[mode]
    assert f"Job {best} has the {word} goodput.step, {value}." in page and page.count(f"{value} (best)") == page.count("(best)") == 1


def test_an_objective_that_no_job_would_have_is_refused_before_any_starts(stub, tmp_path, capsys):
    words = ["optimizer.learning_rate=1.0,2.0", "evaluate_every=1", "data.heldout=8", "hydra.launcher.objective=suites/basics/score"]
    assert stub(*words) == 2
    assert "train with these settings has no such figure; it has heldout_loss, " in capsys.readouterr().err
    assert not list((tmp_path / "sweep").glob("*/job.json"))


def interrupted(times):
    """A watch that Ctrl-C ends, and a pause that a second one may."""
    state = {"left": times}

    def raise_interrupt(*_):
        if state["left"]:
            state["left"] -= 1
            raise KeyboardInterrupt

    return raise_interrupt


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_the_jobs_and_a_second_one_ends_them(tmp_path, monkeypatch, capsys, times):
    go = scripted(tmp_path, monkeypatch, "(folder / 'up').touch(); time.sleep(60)")
    stop = interrupted(times)

    def watch(look, *_):
        eventually(lambda: (tmp_path / "sweep" / "0" / "up").exists())
        stop()

    monkeypatch.setattr(waiting, "watch", watch)
    monkeypatch.setattr(waiting, "sleep", lambda _: stop())
    try:
        assert go("seed=0,1") == 130
        error = capsys.readouterr().err
        first = Local().state(tmp_path / "sweep" / "0")
        if times == 1:
            assert "the jobs keep running; alpaca-jax jobs dir=" in error and first.state is State.running
        else:
            assert "cancelled: 1, 0" in error and first.state is State.cancelled
            assert running_below(tmp_path / "sweep") == []
    finally:
        assert cli.main(["jobs", "action=cancel", f"dir={tmp_path}/sweep"]) == 0
    assert running_below(tmp_path / "sweep") == []


def test_detach_and_come_back(tmp_path, monkeypatch, capsys):
    go = scripted(tmp_path, monkeypatch, "while not (folder.parent / 'go').exists():\n    time.sleep(0.05)\ndone()")
    assert go("seed=0,1", "hydra.launcher.detach=true") == 0
    assert "2 jobs were started" in capsys.readouterr().err
    (tmp_path / "sweep" / "go").touch()
    assert go("seed=0,1") == 0
    assert "done" in capsys.readouterr().out
    assert [len(record.read(tmp_path / "sweep" / name).attempts) for name in "01"] == [1, 1]


def test_a_killed_driver_leaves_its_jobs_to_their_supervisors(tmp_path, capsys):
    script = tmp_path / "driver.py"
    worker = "(folder / 'up').touch()\nwhile not (folder.parent / 'go').exists():\n    time.sleep(0.05)\ndone()"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom pytest import MonkeyPatch\n"
        f"sys.path.insert(0, {str(os.path.dirname(os.path.dirname(__file__)))!r})\nfrom launched import scripted\n"
        f"scripted(Path({str(tmp_path)!r}), MonkeyPatch(), {worker!r})('seed=0,1')\n"
    )
    driver = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: (tmp_path / "sweep" / "0" / "up").exists(), 30)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert cli.main(["jobs", f"dir={tmp_path}/sweep"]) == 0
    out = capsys.readouterr().out
    assert "running" in out and "queued" in out
    (tmp_path / "sweep" / "go").touch()
    assert cli.main(["jobs", f"dir={tmp_path}/sweep", "follow=true", "poll_seconds=0.1"]) == 0
    assert [record.read(tmp_path / "sweep" / name).state for name in "01"] == [State.done, State.done]
    eventually(lambda: running_below(tmp_path / "sweep") == [], 30)  # a supervisor says that it is done, and then ends
    assert not psutil.pid_exists(driver.pid)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.prove)])
def test_training_on_one_and_on_two_ranks(tmp_path, monkeypatch, capsys, written, processes):
    files = make_files(tmp_path)
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=1")
    settings = mapping(files, tmp_path / "sweep", steps=4, evaluate_every=2, checkpoint={"every_steps": 4}, mesh={"data": processes})
    settings["batch"]["rows"] = 4
    rates = [] if processes == 2 else ["optimizer.learning_rate=1e-2,3e-2", "hydra.launcher.parallel=2"]
    words = ["model=tiny", *overrides(settings), *rates, f"hydra.launcher.processes_per_node={processes}"]
    code = cli.main(["train", "-m", *words])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert len(written()) == (1 if processes == 2 else 2)
    for entry in written().values():
        assert 0 < entry.result["objective"] < 10 and entry.result["step"] == 4
        logs = sorted((entry.job.folder / "logs" / "0").glob("rank-*.log"))
        assert len(logs) == processes
