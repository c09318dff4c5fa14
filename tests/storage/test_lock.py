"""One writer a folder on an object store, where a heartbeat stands for the lock."""

import dataclasses
import os
import time

import pytest

from alpaca_jax import lock, storage
from alpaca_jax.errors import UserError
from alpaca_jax.lock import store
from alpaca_jax.lock.holder import Holder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Heartbeats and waits in tenths of a second."""
    for name, seconds in (("BEAT_SECONDS", 0.1), ("WATCH_SECONDS", 0.5), ("POLL_SECONDS", 0.05)):
        monkeypatch.setattr(store.StoreLock, name, seconds)


def left(gs, **changes):
    holder = dataclasses.replace(Holder.this("train"), **{"host": "elsewhere", "boot": "another", "token": "t"} | changes)
    storage.at(f"{gs}/train/.lock").write_bytes(holder.content(3))


def takes(gs):
    start = time.monotonic()
    with lock.held(gs, "train", "train"):
        return time.monotonic() - start


def test_the_second_is_refused_until_the_first_has_ended(gs):
    with lock.held(gs, "train", "train") as descriptor:
        assert descriptor is None
        before = storage.at(f"{gs}/train/.lock").read_bytes()
        with pytest.raises(UserError, match=rf"train is being written .*process {os.getpid()} on "):
            takes(gs)
        time.sleep(0.4)
        assert storage.at(f"{gs}/train/.lock").read_bytes() != before
    assert storage.objects(storage.at(gs)) == {}
    assert takes(gs) < 5


def test_a_killed_holder_of_this_host_is_followed_at_once(gs):
    own = Holder.this("train")
    left(gs, host=own.host, boot=own.boot, created=1.0)
    assert takes(gs) < 0.5


def test_a_holder_elsewhere_is_dead_without_a_heartbeat(gs):
    left(gs)
    assert takes(gs) >= 0.5


def test_a_later_attempt_follows_at_once(gs, monkeypatch):
    left(gs, job="j", attempt=0)
    monkeypatch.setenv("ALPACA_JAX_JOB", "j")
    monkeypatch.setenv("ALPACA_JAX_ATTEMPT", "1")
    assert takes(gs) < 0.5


def test_who_was_taken_for_dead_ends(gs, monkeypatch):
    told = []
    monkeypatch.setattr(store, "_leave", lambda written, now: told.append(now.host))
    with lock.held(gs, "train", "train"):
        left(gs)
        time.sleep(0.5)
    assert told and set(told) == {"elsewhere"}


def test_only_one_creates_an_object(gs):
    assert storage.create(storage.at(f"{gs}/a"), b"1") is True
