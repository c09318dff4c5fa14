"""Trackers run in the background: they continue their run after a restart, and their failures never reach the training."""

import json
import sys
import threading
import types

import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.metrics import LoggingConfig, sinks
from alpaca_jax.metrics.background import Background, Ids

SETTINGS = {"optimizer": {"learning_rate": 1e-4, "betas": [0.9, 0.999]}, "seed": 1, "empty": {}}


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of wandb's that records its calls."""
    fake = types.ModuleType("wandb")
    fake.inits, fake.lines, fake.metrics, fake.finished, fake.quiet = [], [], [], 0, []

    class Run:
        def define_metric(self, name, step_metric=None):
            fake.metrics.append((name, step_metric))

        def log(self, values):
            fake.lines.append(values)

        def finish(self):
            fake.finished += 1

    def init(**arguments):
        fake.inits.append(arguments)
        return Run()

    fake.init, fake.setup, fake.Settings = init, fake.quiet.append, lambda **arguments: arguments
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def mlflow(monkeypatch):
    """A module in place of mlflow's: a server in memory."""
    fake = types.ModuleType("mlflow")
    fake.uris, fake.experiments, fake.runs = [], {}, {}

    class MlflowClient:
        def __init__(self, tracking_uri):
            fake.uris.append(tracking_uri)

        def get_experiment_by_name(self, name):
            return fake.experiments.get(name)

        def create_experiment(self, name):
            fake.experiments[name] = types.SimpleNamespace(experiment_id=f"id of {name}")
            return fake.experiments[name].experiment_id

        def create_run(self, experiment_id, run_name):
            id = f"run{len(fake.runs)}"
            fake.runs[id] = {"experiment": experiment_id, "name": run_name, "status": "RUNNING", "params": {}, "metrics": []}
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=id))

        def update_run(self, run_id, status):
            fake.runs[run_id]["status"] = status

        def log_batch(self, run_id, metrics=(), params=()):
            assert len(params) <= 100
            fake.runs[run_id]["params"] |= dict(params)
            fake.runs[run_id]["metrics"] += [(step, key, value) for key, value, _, step in metrics]

        def set_terminated(self, run_id):
            fake.runs[run_id]["status"] = "FINISHED"

    fake.MlflowClient = MlflowClient
    fake.entities = types.SimpleNamespace(Param=lambda *parts: parts, Metric=lambda *parts: parts)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def feed(config, folder, lines, warn=pytest.fail):
    made = sinks(config, "mine", SETTINGS, folder, warn)
    for step, values in lines:
        for sink in made:
            sink.write(step, values)
    for sink in made:
        sink.close()
    return json.loads((folder / "logging.json").read_text())


def test_no_tracker_unless_asked(tmp_path):
    assert sinks(LoggingConfig(), "mine", SETTINGS, tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_wandb_gets_each_line_and_the_same_run_after_a_restart(tmp_path, wandb):
    config = LoggingConfig(wandb="project", run_name="named")
    first = feed(config, tmp_path, [(1, {"loss": 3.0}), (2, {"loss": 2.0})])
    second = feed(config, tmp_path, [(2, {"loss": 2.0})])
    assert first == second == {"wandb": wandb.inits[0]["id"]}
    assert wandb.lines == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 2, "loss": 2.0}]
    assert [(init["project"], init["name"], init["id"], init["resume"]) for init in wandb.inits] == [
        ("project", "named", first["wandb"], "allow")
    ] * 2
    assert wandb.inits[0]["config"] == SETTINGS and wandb.inits[0]["dir"] == str(tmp_path)
    assert ("*", "step") in wandb.metrics  # its own count of steps would refuse step 2 the second time
    assert wandb.finished == 2
    assert all(quiet["silent"] for quiet in wandb.quiet)  # before init, which else asks for a key on a terminal


def test_mlflow_gets_each_line_and_the_same_run_after_a_restart(tmp_path, mlflow):
    config = LoggingConfig(mlflow="http://127.0.0.1:5000")
    first = feed(config, tmp_path, [(1, {"loss": 3.0, "mfu": 0.5})])
    assert mlflow.runs["run0"]["status"] == "FINISHED"
    second = feed(config, tmp_path, [(2, {"loss": 2.0})])
    assert first == second == {"mlflow": "run0"}
    (run,) = mlflow.runs.values()
    assert run["metrics"] == [(1, "loss", 3.0), (1, "mfu", 0.5), (2, "loss", 2.0)]
    assert run["params"] == {"optimizer.learning_rate": "0.0001", "optimizer.betas": "[0.9, 0.999]", "seed": "1", "empty": "{}"}
    assert (run["experiment"], run["name"]) == ("id of alpaca-jax", "mine")
    assert set(mlflow.uris) == {"http://127.0.0.1:5000"}


def test_both_at_once_and_another_folder_is_another_run(tmp_path, wandb, mlflow):
    config = LoggingConfig(wandb="project", mlflow="http://127.0.0.1:5000")
    one, other = (feed(config, tmp_path / name, [(1, {"loss": 3.0})]) for name in "ab")
    assert one.keys() == other.keys() == {"wandb", "mlflow"}
    assert one["wandb"] != other["wandb"] and one["mlflow"] != other["mlflow"]


def test_long_and_many_parameters_are_taken(tmp_path, mlflow, monkeypatch):
    monkeypatch.setitem(SETTINGS, "many", {f"key{number}": "x" * 9000 for number in range(250)})
    feed(LoggingConfig(mlflow="http://127.0.0.1:5000"), tmp_path, [])
    params = mlflow.runs["run0"]["params"]
    assert len(params) == 254 and max(map(len, params.values())) == 500


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
@pytest.mark.parametrize("there", [None, types.ModuleType("a folder of that name")])
def test_a_package_that_is_not_installed_is_named_with_the_command(tmp_path, monkeypatch, name, there):
    monkeypatch.setitem(sys.modules, name, there)
    with pytest.raises(UserError, match=rf"pip install 'alpaca-jax\[{name}\]'"):
        sinks(LoggingConfig(**{name: "x"}), "mine", SETTINGS, tmp_path)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as raised:
        parse(LoggingConfig, {"mlflow": "https://me:hunter2@host"})
    assert "hunter2" not in str(raised.value)


# --- a tracker that fails ---------------------------------------------------------------------------------------------------------


class Flaky:
    """A tracker whose calls end as `plan` says."""

    name, id = "flaky", None

    def __init__(self, opens=(), writes=()):
        self.opens, self.writes, self.taken, self.closed = list(opens), list(writes), [], False

    def open(self):
        if self.opens and (error := self.opens.pop(0)):
            raise error
        self.id = "7"

    def write(self, step, values):
        if self.writes and (error := self.writes.pop(0)):
            raise error
        self.taken.append(step)

    def close(self):
        self.closed = True


def run(tracker, folder, steps=3, **options):
    warnings = []
    sink = Background(tracker, Ids(folder / "logging.json", {}), warnings.append, **options)
    for step in range(1, steps + 1):
        sink.write(step, {"loss": 1.0})
    sink.close()
    return warnings


def test_a_failure_is_said_once_and_the_later_lines_arrive(tmp_path):
    tracker = Flaky(writes=[ConnectionError("no route"), ConnectionError("no route"), None])
    (warning,) = run(tracker, tmp_path)
    assert "flaky fails (ConnectionError: no route)" in warning and "metrics.jsonl has every number" in warning
    assert tracker.taken == [3] and tracker.closed


def test_a_tracker_out_of_reach_is_asked_again_later(tmp_path):
    tracker = Flaky(opens=[ConnectionError("down"), ConnectionError("down"), None])
    assert len(run(tracker, tmp_path, retry_seconds=0.0)) == 1
    assert tracker.taken == [2, 3]  # the first line found it down a second time
    never = Flaky(opens=[ConnectionError("down"), None])
    run(never, tmp_path, retry_seconds=1000.0)
    assert never.taken == [] and not never.closed


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt()])
def test_a_tracker_that_wants_to_end_the_process_does_not(tmp_path, error):
    tracker = Flaky(writes=[error, None, None])
    assert len(run(tracker, tmp_path)) == 1
    assert tracker.taken == [2, 3]


def test_a_hanging_tracker_delays_neither_a_step_nor_the_end(tmp_path):
    released = threading.Event()
    tracker = Flaky()
    tracker.write = lambda step, values: released.wait(60)
    (warning,) = run(tracker, tmp_path, close_seconds=0.1)
    assert "flaky has not taken everything" in warning
    released.set()


def test_a_tracker_that_falls_behind_loses_lines_not_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("alpaca_jax.metrics.background.WAITING", 2)
    released = threading.Event()
    tracker = Flaky()
    tracker.open = lambda: released.wait(60)
    warnings = []
    sink = Background(tracker, Ids(tmp_path / "logging.json", {}), warnings.append)
    for step in range(1, 6):
        sink.write(step, {"loss": 1.0})
    released.set()
    sink.close()
    assert tracker.taken == [1, 2]
    assert warnings == ["flaky is 2 lines behind the run; the run continues without it, and metrics.jsonl has every number"]


def test_an_id_is_kept_even_where_the_rest_of_the_opening_fails(tmp_path):
    tracker = Flaky()

    def half():
        tracker.id = "made"
        raise ConnectionError("after that")

    tracker.open = half
    run(tracker, tmp_path)
    assert json.loads((tmp_path / "logging.json").read_text()) == {"flaky": "made"}
