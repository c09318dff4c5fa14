"""A run that takes no step ends; one that does, or that was only stopped, does not."""

import time
from types import SimpleNamespace

from alpaca_jax.distributed import watchdog as module
from alpaca_jax.distributed.watchdog import FIRST, Watchdog

LIMIT = 0.4  # seconds


class Ends(list):
    def watchdog(self):
        self.words = []
        return Watchdog(LIMIT / 60, "rank 1 on n1", lambda code, text: self.words.append((code, text)), self.append)


def wait(ends, seconds):
    deadline = time.monotonic() + seconds
    while not ends and time.monotonic() < deadline:
        time.sleep(0.01)


def test_without_a_step_it_shows_where_each_thread_is_and_ends(capfd):
    ends = Ends()
    with ends.watchdog() as watchdog:
        watchdog.beat(7)
        wait(ends, 5)
    assert ends == [201] and ends.words[0][0] == 201 and "after step 7" in ends.words[0][1]
    said = capfd.readouterr().err
    assert "rank 1 on n1: stuck for" in said and "in wait" in said and __file__.rpartition("/")[2] in said


def test_steps_keep_it_quiet_and_the_first_has_longer():
    ends = Ends()
    with ends.watchdog() as watchdog:
        wait(ends, LIMIT * (FIRST - 1))
        for step in range(20):
            watchdog.beat(step)
            time.sleep(LIMIT / 10)
        assert ends == []
    wait(ends, 2 * LIMIT)
    assert ends == []  # and none is needed once the loop is left
    with ends.watchdog():
        wait(ends, LIMIT * FIRST * 4)
    assert ends == [201] and "before the first step" in ends.words[0][1]


def test_time_in_which_the_process_was_stopped_does_not_count(monkeypatch):
    ends = Ends()
    with ends.watchdog() as watchdog:
        watchdog.beat(1)
        # Only the watchdog's clock: an event loop in another thread would sleep through the jump back.
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 1000))
        time.sleep(LIMIT / 2)
        assert ends == []
