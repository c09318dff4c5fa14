"""Every second of a run counts as one kind, over restarts too."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_jax.metrics import Goodput
from alpaca_jax.metrics.goodput import KINDS


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


def test_seconds_by_kind_and_the_rest_is_other():
    clock = Clock()
    goodput = Goodput(clock=clock)
    assert goodput.value is None and goodput.share() == {}
    clock.wait(1)
    with goodput.spent("input"):
        clock.wait(2)
    with goodput.spent("step"):
        clock.wait(5)
    clock.wait(2)
    assert goodput.state() == {"step": 5, "input": 2, "checkpoint": 0, "compile": 0, "evaluate": 0, "other": 3}
    assert goodput.value == goodput.share()["step"] == 0.5


def test_inside_another_kind_time_counts_once():
    clock = Clock()
    goodput = Goodput(clock=clock)
    with goodput.spent("step"):
        clock.wait(1)
        with goodput.spent("compile"):
            clock.wait(10)
        clock.wait(1)
    assert (goodput.state()["step"], goodput.state()["compile"], goodput.state()["other"]) == (2, 10, 0)


def test_an_exception_ends_its_kind():
    clock = Clock()
    goodput = Goodput(clock=clock)

    def save():
        with goodput.spent("checkpoint"):
            clock.wait(1)
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        save()
    clock.wait(4)
    assert (goodput.state()["checkpoint"], goodput.state()["other"]) == (1, 4)


def test_a_restart_goes_on_from_the_state_in_the_checkpoint():
    clock = Clock()
    first = Goodput(clock=clock)
    with first.spent("step"):
        clock.wait(3)
    state = first.state()
    clock.wait(1000)  # between the runs
    second = Goodput(state, clock=clock)
    with second.spent("compile"):
        clock.wait(1)
    assert second.state() == state | {"compile": 1}
    assert second.value == 0.75


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9)), min_size=1))
def test_all_kinds_together_are_the_wall_time(spans):
    clock = Clock()
    goodput = Goodput(clock=clock)
    for kind, inside, after in spans:
        with goodput.spent(kind):
            clock.wait(inside)
        clock.wait(after)
    assert sum(goodput.state().values()) == clock.now - 100
