"""One writer a folder: the second is refused by the first one's name, and nothing that a killed one leaves keeps the next from starting."""

import dataclasses
import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from alpaca_jax import lock
from alpaca_jax.errors import UserError
from alpaca_jax.lock import disk, store
from alpaca_jax.lock.holder import Holder

HOLDS = """
import sys, time
from alpaca_jax import lock
with lock.held(sys.argv[1], "train", "train") as descriptor:
    if len(sys.argv) > 2:
        import subprocess
        print(subprocess.Popen(["sleep", sys.argv[2]], pass_fds=[descriptor]).pid, flush=True)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Starts a process that holds the lock of tmp_path/run/train, and returns it."""
    started = []

    def start(*words):
        process = subprocess.Popen([sys.executable, "-c", HOLDS, tmp_path / "run", *words], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline()
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def no_kernel_locks(monkeypatch):
    """A file system that has no locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def quick(monkeypatch):
    """Heartbeats and waits in tenths of a second."""
    for module, name, seconds in (
        (disk.DiskLock, "BEAT_SECONDS", 0.05),
        (disk.DiskLock, "WATCH_SECONDS", 0.4),
        (disk, "PATIENCE_SECONDS", 0.5),
        (disk.DiskLock, "POLL_SECONDS", 0.02),
        (store.StoreLock, "BEAT_SECONDS", 0.1),
        (store.StoreLock, "WATCH_SECONDS", 0.5),
        (store.StoreLock, "POLL_SECONDS", 0.05),
    ):
        monkeypatch.setattr(module, name, seconds)


def elsewhere(**changes):
    """A holder on another host."""
    return dataclasses.replace(Holder.this("train"), **{"host": "elsewhere", "boot": "another", "token": "t"} | changes)


def left(folder, holder):
    (folder / "run" / "train").mkdir(parents=True)
    (folder / "run" / "train" / ".lock").write_bytes(holder.content(3))


def takes(folder):
    """The seconds until the lock is held."""
    start = time.monotonic()
    with lock.held(folder / "run", "train", "train"):
        return time.monotonic() - start


def test_the_second_of_two_processes_is_refused_and_kill_9_leaves_no_lock(tmp_path, other):
    process = other()
    said = rf"run/train is being written by `alpaca-jax train` \(process {process.pid} on .*, since 2.*\): .* give another dir="
    with pytest.raises(UserError, match=said):
        takes(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "run" / "train" / ".lock").exists()
    assert takes(tmp_path) < 1
    assert not (tmp_path / "run" / "train" / ".lock").exists()


def test_what_a_killed_holder_has_started_is_waited_for(tmp_path, other):
    process = other("1.5")
    process.kill()
    process.wait()
    assert 0.3 < takes(tmp_path) < 10


def test_a_verb_of_one_process_excludes_itself_only(tmp_path):
    target, second = lock.target(tmp_path / "hf", "convert"), lock.target(tmp_path / "hf", "convert")
    named = pytest.raises(UserError, match=r"hf is being written .* give another target=")
    with lock.held(tmp_path, "train", "train"), lock.held(tmp_path, "", "inspect"), target, named:
        second.__enter__()
    assert list(tmp_path.iterdir()) == []  # neither locks nor the folders made for them


def test_what_was_written_stays(tmp_path):
    with lock.held(tmp_path / "run", "train", "train") as descriptor:
        assert os.fstat(descriptor).st_size > 100
        (tmp_path / "run" / "train" / "file").touch()
    assert os.listdir(tmp_path / "run" / "train") == ["file"]


def test_many_at_once_take_turns(tmp_path):
    inside, refused = [], []

    def write():
        try:
            with lock.held(tmp_path, "train", "train"):
                inside.append(1)
                assert len(inside) == 1
                time.sleep(0.01)
                inside.pop()
        except UserError:
            refused.append(1)

    threads = [threading.Thread(target=write) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == [] and 0 < len(refused) < 20


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"pid": "x"}', b"\xff", b"[" * 100_000])
def test_a_file_that_names_nobody_is_taken(tmp_path, content):
    (tmp_path / "run" / "train").mkdir(parents=True)
    (tmp_path / "run" / "train" / ".lock").write_bytes(content)
    assert takes(tmp_path) < 1


def test_the_kernel_knows_that_a_container_of_this_host_has_ended(tmp_path):
    left(tmp_path, elsewhere(boot=Holder.this("train").boot))
    assert takes(tmp_path) < 1


def test_a_holder_on_another_host_is_dead_without_a_heartbeat(tmp_path, quick):
    left(tmp_path, elsewhere())
    assert takes(tmp_path) >= 0.4


@pytest.mark.parametrize("locks", ["kernel", "none"])
def test_a_holder_on_another_host_that_lives_is_named(tmp_path, quick, request, locks):
    if locks == "none":
        request.getfixturevalue("no_kernel_locks")
    holder, file = elsewhere(), tmp_path / "run" / "train" / ".lock"
    left(tmp_path, holder)
    beat = threading.Timer(0.2, lambda: file.write_bytes(holder.content(4)))
    beat.start()
    with pytest.raises(UserError, match=r"on elsewhere, .*if that host is gone for good, delete .*train/\.lock"):
        takes(tmp_path)
    beat.join()


def test_a_later_attempt_of_the_same_job_follows_at_once(tmp_path, monkeypatch):
    left(tmp_path, elsewhere(job="host:/job", attempt=1))
    monkeypatch.setenv("ALPACA_JAX_JOB", "host:/job")
    monkeypatch.setenv("ALPACA_JAX_ATTEMPT", "2")
    assert takes(tmp_path) < 1


def test_a_job_that_slurm_queues_again_follows_itself(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    first = Holder.this("train")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert first.precedes(Holder.this("train")) and not Holder.this("train").precedes(first)
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert not first.precedes(Holder.this("train"))


def test_without_locks_of_the_kernel_a_process_id_decides(tmp_path, quick, no_kernel_locks):
    with lock.held(tmp_path / "run", "train", "train"), pytest.raises(UserError, match=f"process {os.getpid()} on"):
        takes(tmp_path)
    left(tmp_path / "b", dataclasses.replace(Holder.this("train"), created=1.0, token="t"))
    assert takes(tmp_path / "b") < 1  # that id belongs to another process now


def test_the_heartbeat_goes_on(tmp_path, quick):
    with lock.held(tmp_path, "", "train"):
        before = (tmp_path / ".lock").read_bytes()
        time.sleep(0.3)
        after = (tmp_path / ".lock").read_bytes()
    assert before != after and Holder.read(before) == Holder.read(after)


def test_a_folder_moved_meanwhile_keeps_the_lock_of_its_successor(tmp_path):
    with lock.held(tmp_path, "train", "train"):
        (tmp_path / "train").rename(tmp_path / "moved")
        with lock.held(tmp_path, "train", "train"):
            pass
        (tmp_path / "train").mkdir()
        (tmp_path / "train" / ".lock").touch()
    assert (tmp_path / "train" / ".lock").exists()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.EROFS, r"^\S+/run: can't be written \(Read-only file system\); give another dir=$"),
        (errno.EACCES, r"^\S+/run: can't be written \(Permission denied: \S+/run/train\); give another dir=$"),
        (errno.ENOSPC, r"^\S+/run: the disk is full .*; make room, or give another dir=$"),
        (errno.EIO, r"^\S+/run: can't be written \(Input/output error: \S+/run/train\); give another dir=$"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch, number, expected):
    def refuse(path, *_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(UserError, match=expected):
        takes(tmp_path)


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match=r"run: can't be written \(Not a directory.*give another dir="):
        takes(tmp_path)
