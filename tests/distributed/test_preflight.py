"""Processes meet over real sockets, each a thread here: they agree, or each gets the same error."""

import contextlib
import socket
import threading
import time

import pytest
from two_processes import free_port

from alpaca_jax.distributed import facts, preflight
from alpaca_jax.distributed.environment import Place
from alpaca_jax.errors import Lost, UserError

CONFIG = {"seed": 1, "optimizer": {"name": "adamw", "learning_rate": 1e-5}, "distributed": {"process": None}}


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    for name in ("LATE_SECONDS", "FOLDER_SECONDS", "PORT_SECONDS", "RESOLVE_SECONDS", "STRANGER_SECONDS"):
        monkeypatch.setattr(preflight, name, 0.6)


@pytest.fixture(scope="module")
def common():
    """What all say of themselves; gathered once, since it asks git."""
    return facts.gather(Place(0, 1, "127.0.0.1:1"), CONFIG, {})


class Ranks:
    """Ranks as threads; `changes` are what one says otherwise, `folders` where one sees the run's folder."""

    def __init__(self, common, folder, size, minutes=1.0, port=None, host="127.0.0.1", hosts=()):
        self.common, self.folder, self.size, self.minutes, self.hosts = common, folder, size, minutes, hosts
        self.coordinator = f"{host}:{port or free_port()}"
        self.results, self.threads, self.told = {}, [], []

    def start(self, rank, key=None, folder=None, attempt=0, **changes):
        place = Place(rank, self.size, self.coordinator, "settings", f"n{rank}", hosts=self.hosts, attempt=attempt)
        said = self.common | {"rank": rank, "size": self.size, "host": f"n{rank}", "attempt": attempt} | changes

        def meet():
            try:
                self.results[key or rank] = preflight.meet(place, said, str(folder or self.folder), self.minutes, self.told.append)
            except Exception as error:
                self.results[key or rank] = error

        self.threads.append(threading.Thread(target=meet, name=f"rank {rank}"))
        self.threads[-1].start()

    def finish(self):
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()
        for result in self.results.values():
            for channel in getattr(result, "channels", {}).values():
                channel.close()
        return self.results

    def refusal(self, kind=UserError):
        """The text of the error, which all must have got alike."""
        results = self.finish()
        assert all(type(result) is kind for result in results.values()), results
        texts = {str(result) for result in results.values()}
        assert len(texts) == 1, texts
        return texts.pop()


@pytest.fixture
def ranks(common, tmp_path):
    return lambda size=3, **options: Ranks(common, tmp_path, size, **options)


def test_all_meet_whoever_is_first(ranks, tmp_path):
    job = ranks()
    job.start(2)
    time.sleep(0.3)
    for rank in (1, 0):
        job.start(rank)
    results = job.finish()
    for result in results.values():
        assert [member["host"] for member in result.members] == ["n0", "n1", "n2"] and result.warnings == ()
    assert sorted(results[0].channels) == [1, 2] and sorted(results[1].channels) == [0]
    assert list(tmp_path.iterdir()) == []  # the file that showed the folder to all is gone


def test_256_processes_meet_within_five_seconds(ranks):
    job = ranks(256)
    start = time.monotonic()
    for rank in range(256):
        job.start(rank)
    results = job.finish()
    assert time.monotonic() - start < 5
    assert all(len(result.members) == 256 for result in results.values())


def test_differing_versions_commits_and_settings_are_named_with_their_ranks(ranks, common):
    job = ranks()
    job.start(0)
    job.start(1)
    other = {"optimizer.learning_rate": "2e-05", "extra": "1"}
    job.start(
        2,
        versions=common["versions"] | {"jaxlib": "0.1"},
        code="abc",
        config=common["config"] | other,
        digest="other",
        stale=["X=1: unset it"],
    )
    text = job.refusal()
    assert "jaxlib: " in text and "on ranks 0-1 (n0, n1), 0.1 on rank 2 (n2)" in text
    assert "commit of alpaca_jax" in text and "rank 2 on n2: X=1" in text
    assert "optimizer.learning_rate: 1e-05 on ranks 0-1 (n0, n1), 2e-05 on rank 2 (n2)" in text and "extra: absent on" in text
    assert "seed:" not in text and "distributed" not in text


def test_other_uncommitted_changes_and_a_small_skew_are_warned_of(ranks):
    job = ranks(2)
    job.start(0, code="abc+1")
    job.start(1, code="abc+2")
    assert "uncommitted changes" in job.finish()[1].warnings[0]


def test_a_clock_that_is_wrong(ranks, monkeypatch):
    real, skew = time.time, 0
    monkeypatch.setattr(preflight.time, "time", lambda: real() + skew * (threading.current_thread().name == "rank 1"))
    for skew, refused in ((20, False), (100, True)):
        job = ranks(2)
        job.start(0)
        job.start(1)
        text = job.refusal() if refused else job.finish()[0].warnings[0]
        assert f"clock of n1 (rank 1) is {skew} s ahead" in text


def test_two_processes_of_one_rank(ranks):
    job = ranks()
    job.start(0)
    job.start(1)
    job.start(1, key="again", pid=7, host="x")
    assert "rank 1 is claimed twice" in (text := job.refusal()) and "x (process 7)" in text


def test_another_number_of_processes(ranks):
    job = ranks()
    job.start(0)
    job.start(1, size=4)
    assert "rank 1 on n1" in (text := job.refusal()) and "says that there are 4 processes, the lead (rank 0) on n0 says 3" in text


def test_ranks_that_do_not_come_are_named_with_their_hosts(ranks):
    job = ranks(4, minutes=1 / 60, hosts=("a", "b", "c", "d"))
    job.start(0)
    job.start(1)
    text = job.refusal(Lost)
    assert "ranks 2-3 of 4 did not arrive" in text and "expected on c, d" in text and "ranks 0-1 (n0, n1)" in text


def test_a_process_that_was_killed_while_it_waited_may_come_again(ranks):
    job = ranks(2)
    job.start(0)
    host, port = "127.0.0.1", int(job.coordinator.rpartition(":")[2])
    deadline = time.monotonic() + 5
    while True:
        try:
            first = preflight.Channel(socket.create_connection((host, port), timeout=5))
            break
        except OSError:
            assert time.monotonic() < deadline
    first.send({"facts": job.common | {"rank": 1, "size": 2, "attempt": 0}})
    first.close()
    time.sleep(0.3)
    job.start(1)
    assert job.finish()[0].members[1]["host"] == "n1"


def test_one_left_from_an_earlier_attempt_is_sent_away_alone(ranks):
    job = ranks(2)
    job.start(0, attempt=1)
    job.start(1, key="old", attempt=0)
    time.sleep(0.5)
    job.start(1, attempt=1)
    results = job.finish()
    assert isinstance(results["old"], Lost) and "to attempt 0" in str(results["old"])
    assert len(results[0].members) == len(results[1].members) == 2


def test_a_folder_that_is_not_shared(ranks, tmp_path):
    (tmp_path / "other").mkdir()
    job = ranks(3)
    for rank in range(3):
        job.start(rank, folder=tmp_path / "other" if rank == 2 else None)
    assert "is not shared" in (text := job.refusal()) and "rank 2 (n2)" in text
    job = ranks(2)
    for rank in range(2):
        job.start(rank, folder="gs://bucket/run")  # shared by its nature
    assert len(job.finish()[1].members) == 2


def test_a_folder_that_cannot_be_written(ranks, tmp_path):
    (tmp_path / "file").touch()
    job = ranks(2)
    for rank in range(2):
        job.start(rank, folder=tmp_path / "file" / "run")
    assert "the lead (rank 0) can't write there" in job.refusal()


def test_a_port_in_use_and_a_stranger_at_it(ranks):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        job = ranks(2, port=port)

        def stranger():
            with contextlib.suppress(OSError):  # for those whom nobody calls
                connection, _ = taken.accept()
                with connection:
                    connection.sendall(b"SSH-2.0\n")

        threads = [threading.Thread(target=stranger, daemon=True) for _ in range(20)]
        for thread in threads:
            thread.start()
        for rank in range(2):
            job.start(rank)
        results = job.finish()
        taken.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
    assert isinstance(results[0], UserError) and f"port {port} of n0 is in use" in str(results[0])
    assert isinstance(results[1], UserError) and "is not the lead" in str(results[1])


def test_a_coordinator_that_does_not_resolve_or_refuses(ranks):
    job = ranks(2, host="nowhere.invalid", minutes=1 / 60)
    job.start(0)
    job.start(1)
    results = job.finish()
    assert "nowhere.invalid does not resolve on n1" in str(results[1]) and isinstance(results[1], UserError)
    assert "rank 1 of 2 did not arrive" in str(results[0]) and "the name nowhere.invalid does not resolve" in str(results[0])
    job = ranks(2, minutes=1 / 60)
    job.start(1)
    text = job.refusal(Lost)
    assert f"rank 1 on n1 could not reach the coordinator 127.0.0.1 (127.0.0.1), port {job.coordinator[10:]}" in text


def test_facts_hold_versions_code_and_settings():
    found = facts.gather(Place(1, 2, "127.0.0.1:1", "slurm", "n1"), CONFIG, {"CUDA_VISIBLE_DEVICES": "0"})
    assert found["config"] == {"seed": "1", "optimizer.name": '"adamw"', "optimizer.learning_rate": "1e-05"}  # not distributed.process
    assert set(found["versions"]) >= {"python", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "alpaca-jax"}
    assert (found["host"], found["rank"], found["visible_devices"], found["address"]) == ("n1", 1, "0", "127.0.0.1")
