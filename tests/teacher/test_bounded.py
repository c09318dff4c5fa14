"""Bodies without an end, packed ones, and ones that trickle in."""

import gzip
import json
import time
import tracemalloc
import zlib

import pytest
from scripted_teacher import Reply, answer, scripted_teacher
from teacher_client import CHAT, PAID, Notes, ask

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.teacher import bounded
from alpaca_jax.teacher.bill import Bill


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_body_without_end_is_cut(client, monkeypatch, status):
    monkeypatch.setattr(bounded, "MOST_BYTES", 1 << 20)
    notes = Notes()
    bill = Bill(PAID)
    with scripted_teacher(lambda number, body: Reply(json.dumps(answer("x" * (4 << 20), body)), status)) as server:
        teacher = client(server.base_url, bill, retries=0)
        tracemalloc.start()
        try:
            if status == 200:
                assert ask(teacher, entry=notes).text is None
            else:
                with pytest.raises((UserError, Lost)) as raised:
                    ask(teacher, entry=notes)
                assert len(str(raised.value)) < 2000
        finally:
            tracemalloc.stop()
    if status == 200:
        assert len(notes[1][1].body) == bounded.KEPT_BYTES and bill.dollars == bill.worst(CHAT)


@pytest.mark.parametrize(("pack", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
def test_a_packed_body_is_unpacked_within_the_same_bound(client, monkeypatch, pack, encoding):
    monkeypatch.setattr(bounded, "MOST_BYTES", 1 << 20)
    whole = pack(json.dumps(answer("Yes.", {"messages": []})).encode())
    with scripted_teacher(lambda number, body: Reply(whole, headers={"content-encoding": encoding})) as server:
        assert ask(client(server.base_url)).text == "Yes."
    bomb = pack(b" " * (64 << 20))
    with scripted_teacher(lambda number, body: Reply(bomb, headers={"content-encoding": encoding})) as server:
        tracemalloc.start()
        try:
            assert ask(client(server.base_url)).text is None
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def test_an_answer_that_trickles_in_without_end_is_a_timeout(client):
    with scripted_teacher(lambda number, body: Reply(trickle=0.05) if number == 0 else None) as server:
        start = time.monotonic()
        assert ask(client(server.base_url, timeout=0.4)).text.startswith("This is about")
        assert time.monotonic() - start < 4
        assert "no answer within 0.4 s" in client.said[0]
