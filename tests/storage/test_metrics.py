"""The numbers of a run on an object store: put now and then, taken up again by the next start."""

import json

import pytest

from alpaca_jax import metrics, storage
from alpaca_jax.metrics import LoggingConfig, MetricsWriter, Profile, ProfileConfig, sinks
from alpaca_jax.metrics.background import Ids


def steps(gs):
    return [line["step"] for line in metrics.read(f"{gs}/train/metrics.jsonl")]


def test_numbers_are_there_after_a_flush_and_in_the_end(gs):
    with MetricsWriter(f"{gs}/train") as writer:
        assert steps(gs) == []
        writer.write(1, {"loss": 2.0})
        assert steps(gs) == []  # not yet: nothing can be appended to an object
        writer.flush()
        assert steps(gs) == [1]
        writer.write(2, {"loss": float("nan")})
    assert metrics.read(f"{gs}/train/metrics.jsonl") == [{"step": 1, "loss": 2.0}, {"step": 2, "loss": None}]
    assert any(name.startswith("events/events.out.tfevents") for name in storage.objects(storage.at(f"{gs}/train")))


def test_the_next_start_goes_on_from_what_was_put(gs):
    killed = MetricsWriter(f"{gs}/train", tensorboard=False)
    for step in (1, 2, 3):
        killed.write(step, {"loss": 1.0})
    killed.flush()
    killed.write(4, {"loss": 1.0})
    with MetricsWriter(f"{gs}/train", tensorboard=False) as writer:
        assert writer.rewind(2) == 1
        writer.write(3, {"loss": 0.5})
    assert [line["loss"] for line in metrics.read(f"{gs}/train/metrics.jsonl")] == [1.0, 1.0, 0.5]


def test_a_tracker_finds_its_run_again(gs):
    class Tracker:
        name, id = "mlflow", "7"

    Ids(storage.at(gs) / "logging.json", {}).keep(Tracker())
    assert json.loads((storage.at(gs) / "logging.json").read_bytes()) == {"mlflow": "7"}
    assert sinks(LoggingConfig(), "run", {}, gs, pytest.fail) == ()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_trace_is_put_when_it_is_whole(gs):
    profile = Profile(ProfileConfig(start=1, steps=1), f"{gs}/profile")
    profile.before(1)
    assert storage.objects(storage.at(gs)) == {}
    profile.after(1)
    assert any(name.endswith(".xplane.pb") for name in storage.objects(storage.at(f"{gs}/profile")))
