"""Progress: a bar on a terminal, and lines which nobody has to wait for elsewhere."""

import io

import pytest
from rich.console import Console

from alpaca_jax import progress
from alpaca_jax.progress import ProgressBar, track


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_line_every_ten_seconds_and_one_with_the_last_figures(clock):
    file = io.StringIO()
    with ProgressBar("step", 40, done=10, console=Console(file=file, width=30)) as steps:
        for step in range(11, 41):
            clock.now += 1.0
            steps.update(step, f"loss [{step}]")
    assert file.getvalue().splitlines() == [f"step {step}/40  loss [{step}]  {40 - step} s left" for step in (20, 30, 40)]


def test_without_figures_or_a_total(clock, capsys):
    for total in (None, 2500):
        for _ in track(range(1000) if total is None else iter(range(1000)), "records {x}", total):
            clock.now += 1 / 64
    assert capsys.readouterr().err.splitlines() == [
        "records {x} 640/1,000  6 s left",
        "records {x} 640/2,500  29 s left",
    ]
    with ProgressBar("records", None) as records:
        clock.now += 10.0
        records.update(7)
    assert capsys.readouterr().err == "records 7\n"


def test_a_bar_on_a_terminal():
    file = io.StringIO()
    with ProgressBar("before: [x]", 1200, console=Console(file=file, force_terminal=True, width=120)) as bar:
        bar.update(600, "early")
        bar.notice("a line above")
        bar.update(1199)
        bar.advance()
    text = file.getvalue()
    assert "a line above" in text and "1200/1200" in text and "before: [x]" in text
