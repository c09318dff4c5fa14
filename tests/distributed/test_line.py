"""The line between processes, each a set of threads here: who was lost, who failed, when all stop, and that all are done."""

import contextlib
import random
import socket
import threading
import time

import pytest

from alpaca_jax.distributed import line, membership, metadata
from alpaca_jax.distributed.channel import Channel
from alpaca_jax.distributed.environment import Place
from alpaca_jax.distributed.join import introduce
from alpaca_jax.distributed.line import Line
from alpaca_jax.distributed.membership import Membership
from alpaca_jax.distributed.preflight import Meeting
from alpaca_jax.distributed.stop import StopSignals
from alpaca_jax.errors import Lost


def facts(rank):
    return {"rank": rank, "host": f"n{rank}", "pid": 100 + rank, "address": "10.0.0.1", "versions": {"jax": "1"}, "code": None}


class Star:
    """Lines of several ranks over real connections; `ended` has the code that each would end its process with."""

    def __init__(self, size, heartbeat=30):
        members = tuple(facts(rank) for rank in range(size))
        self.ended, ends = {}, {0: {}}
        with socket.create_server(("127.0.0.1", 0)) as server:
            for rank in range(1, size):
                ends[rank] = {0: Channel(socket.create_connection(server.getsockname()))}
                ends[0][rank] = Channel(server.accept()[0])
        self.lines = [
            Line(rank, Meeting(members, ends[rank]), heartbeat, lambda code, rank=rank: self.ended.setdefault(rank, code))
            for rank in range(size)
        ]

    def wait(self, condition, seconds=8):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.ended
            time.sleep(0.01)

    def close(self):
        for each in self.lines:
            each.over = True
        for each in self.lines:
            each.close()


@pytest.fixture
def star(monkeypatch):
    monkeypatch.setattr(line, "OWN_SECONDS", 0.2)
    monkeypatch.setattr(line, "LINGER_SECONDS", 0.2)
    with contextlib.ExitStack() as stack:

        def make(size, **options):
            made = Star(size, **options)
            stack.callback(made.close)
            return made

        yield make


def in_threads(functions):
    """What the functions return, each in a thread of its own."""
    results = [None] * len(functions)

    def call(index):
        results[index] = functions[index]()

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    return results


@pytest.mark.parametrize("asking", [(0,), (2,), (0, 1, 2)])
def test_all_stop_after_the_same_step_whoever_asks_and_when(star, asking):
    lines = star(3).lines

    def steps(rank):
        chance = random.Random(rank)
        for step in range(1, 1000):
            time.sleep(chance.random() / 300)  # ranks drift apart, as asynchronous steps do
            if rank in asking and step == 20 + rank:
                lines[rank].ask_to_stop("SIGTERM", 15)
            if lines[rank].stop_now():
                return step
        return None

    first, *others = in_threads([lambda rank=rank: steps(rank) for rank in range(3)])
    assert first is not None and first > 20 and others == [first, first]
    assert all(each.stopped and each.stop["signal"] == 15 for each in lines)
    assert lines[0].stop["stop"] in {f"SIGTERM on rank {rank} (n{rank})" for rank in asking}
    assert lines[1].stop_now()  # and it stays true


def test_gathering_gives_all_values_in_order_and_a_bound(star):
    lines = star(3).lines
    assert in_threads([lambda rank=rank: lines[rank].gather("x", rank * 10, 5) for rank in range(3)]) == [[0, 10, 20]] * 3
    with pytest.raises(Lost, match="rank 1 on n1: not all processes reached 'y' within 0 s"):
        lines[1].gather("y", None, 0.1)


def test_a_lost_process_ends_all_others_and_is_named(star, capsys):
    job = star(3)
    job.lines[1]._channels[0].socket.shutdown(socket.SHUT_RDWR)  # what the kernel does in the moment a process dies
    job.wait(lambda: set(job.ended) >= {0, 2})
    assert job.ended[0] == job.ended[2] == 201
    assert "rank 1 on n1 (process 101) was lost" in capsys.readouterr().err


@pytest.mark.parametrize("failing", [0, 1])
def test_a_failed_process_ends_all_others_with_its_code(star, capsys, failing):
    job = star(3)
    job.lines[failing].fail(2, "wrong key")
    others = {0, 1, 2} - {failing}
    job.wait(lambda: set(job.ended) == others)
    assert set(job.ended.values()) == {2}
    assert f"rank {failing} on n{failing} failed and ends the job: wrong key" in capsys.readouterr().err


def test_one_that_fails_by_itself_is_not_ended_by_another(star):
    job = star(2)
    for each in job.lines:
        each.failing = True
    job.lines[1].fail(2, "wrong key")
    job.wait(lambda: job.lines[0].news is not None)
    time.sleep(0.5)
    assert job.ended == {}


def test_leaving_is_no_loss(star):
    job = star(3)
    in_threads([lambda each=each: (each.leave(5), each.close()) for each in job.lines])
    time.sleep(0.3)
    assert job.ended == {}


def test_a_silent_process_is_named_before_jax_ends_the_job(star, capsys):
    job = star(2, heartbeat=1)
    job.lines[1]._heartbeat = 1e9  # it says nothing on its own any more
    said = ""
    deadline = time.monotonic() + 5
    while "rank 1 on n1 (process 101) has been silent" not in said and time.monotonic() < deadline:
        time.sleep(0.05)
        said += capsys.readouterr().err
    assert said.count("has been silent") == 1 and job.ended == {}


def test_a_stop_reaches_the_signals_of_every_process(star, monkeypatch):
    lines = star(2).lines
    current = threading.local()
    monkeypatch.setattr(membership, "line", lambda: current.line)
    stops = [StopSignals(), StopSignals()]
    stops[1].ask("the cloud's notice preempted=TRUE")

    def steps(rank):
        current.line = lines[rank]
        return next(step for step in range(1, 1000) if stops[rank].now() or time.sleep(0.005))

    first, second = in_threads([lambda: steps(0), lambda: steps(1)])
    assert first == second
    assert [stop.why for stop in stops] == ["the cloud's notice preempted=TRUE on rank 1 (n1)"] * 2
    assert not any(stop.interrupted for stop in stops)


def test_the_table_of_256_processes(capsys):
    start = time.monotonic()
    seen = [{"devices": 4, "chip": "TPU v5p"}] * 256
    introduce(Membership(Place(0, 256, "n0:1", "tpu", "n0"), members=tuple(facts(rank) for rank in range(256))), seen)
    assert time.monotonic() - start < 2
    said = capsys.readouterr().err
    assert (
        "256 processes (tpu), coordinator n0:1" in said and "n255" in said and "4 x TPU v5p" in said and "jax 1; code not from git" in said
    )


def test_errors_have_the_codes_that_launchers_go_by():
    code = membership.exit_code
    assert [code(error) for error in (Lost(), KeyboardInterrupt(), ValueError(), OSError(28, "No space left on device"))] == [
        201,
        130,
        1,
        2,
    ]
    assert code(ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")) == 201


# --- the metadata server ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch):
    import http.server

    answers = {"maintenance-event": "NONE", "preempted": "FALSE"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            found = (
                answers.get(self.path.removeprefix("/computeMetadata/v1/instance/"))
                if self.headers["Metadata-Flavor"] == "Google"
                else None
            )
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write((found or "").encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{running.server_port}")
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield answers
        running.shutdown()
        thread.join()


def test_a_notice_is_heard_once(server):
    heard = []
    with metadata.Notices(heard.append, every=0.05):
        time.sleep(0.3)
        assert heard == []
        server["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
        deadline = time.monotonic() + 5
        while not heard and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
    assert heard == ["the cloud's notice maintenance-event=TERMINATE_ON_HOST_MAINTENANCE"]
    assert metadata.ask("attributes/none") is None


def test_without_a_server_nothing_is_heard(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    assert metadata.ask("preempted") is None
