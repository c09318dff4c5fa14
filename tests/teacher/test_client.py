import threading
import time

import pytest
from scripted_teacher import Reply, answer, error, scripted_teacher

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.teacher.bill import Bill, OverBudget
from alpaca_jax.teacher.client import Client, key
from alpaca_jax.teacher.config import Prices, TeacherConfig
from alpaca_jax.teacher.protocol import Request

CHAT = Request(endpoint="chat", prompt="Hello", max_tokens=16, temperature=1.0, top_p=1.0, seed=5)
RAW = Request(endpoint="completions", prompt="<s>user\n", max_tokens=16, temperature=0.5, top_p=0.9, seed=6, stop=("</s>",))
FREE = Prices(prompt=0.0, completion=0.0, source="test")
SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def client(monkeypatch):
    """Makes a client of a server's address, with a key in the environment and quick retries; `client.said` collects its notices."""
    monkeypatch.setenv("TEST_KEY", SECRET)

    def make(base_url, bill=None, retries=3, timeout=5.0, **teacher):
        config = TeacherConfig(base_url=base_url, model="m", key_env="TEST_KEY", timeout=timeout, max_retries=retries, **teacher)
        make.said = []
        return Client(config, base_url, "m", bill or Bill(FREE), make.said.append, first_wait=0.01)

    return make


class Notes(list):
    """An entry of a log that remembers what it was told."""

    def may_cost(self, dollars):
        self.append(("may_cost", dollars))

    def cost_at_most(self, dollars):
        self.append(("cost_at_most", dollars))

    def not_sent(self):
        self.append(("not_sent",))

    def keep(self, reply):
        self.append(("keep", reply))


def ask(client, request=CHAT, entry=None):
    return client.ask(request, threading.Event(), Notes() if entry is None else entry)


def test_both_endpoints_send_what_was_asked_and_read_what_came(client):
    with scripted_teacher() as server:
        bill = Bill(Prices(prompt=1.0, completion=2.0, source="test"))
        teacher = client(server.base_url, bill)
        chat, raw = ask(teacher), ask(teacher, RAW)
        assert chat.text == "This is about Hello It has 5 parts."
        assert chat.finish_reason == "stop"
        assert chat.model == "m"
        assert (raw.prompt_tokens, raw.completion_tokens) == (20, 10)
        first, second = server.bodies
        assert first == {
            "model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 16, "temperature": 1.0, "seed": 5,
        }  # fmt: skip
        assert second["prompt"] == "<s>user\n"
        assert second["stop"] == ["</s>"]
        assert second["top_p"] == 0.9
        assert server.keys == [f"Bearer {SECRET}"] * 2
        assert (bill.requests, bill.prompt_tokens, bill.completion_tokens) == (2, 40, 20)
        assert bill.dollars == pytest.approx((40 * 1.0 + 20 * 2.0) / 1e6)
        assert bill.doubtful == 0


def test_the_newer_name_of_the_limit(client):
    with scripted_teacher() as server:
        ask(client(server.base_url, limit="max_completion_tokens"))
        assert server.bodies[0]["max_completion_tokens"] == 16
        assert "max_tokens" not in server.bodies[0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_retried_and_said(client, status):
    with scripted_teacher(lambda number, body: error(status) if number < 2 else None) as server:
        teacher = client(server.base_url)
        assert ask(teacher).text.startswith("This is about")
        assert len(server.bodies) == 3
        assert len(client.said) == 2
        assert f"it answered {status}; attempt 2 in" in client.said[0]


def test_retry_after_is_obeyed(client):
    with scripted_teacher(lambda number, body: error(429, retry_after="0.5") if number == 0 else None) as server:
        start = time.monotonic()
        ask(client(server.base_url))
        assert time.monotonic() - start >= 0.5
        assert "asks to wait 0.5 s" in client.said[0]


def test_a_server_that_asks_for_too_much_patience_is_lost_at_once(client):
    with scripted_teacher(lambda number, body: error(429, retry_after="4000")) as server:
        with pytest.raises(Lost, match="asks to wait 4000 s"):
            ask(client(server.base_url))
        assert len(server.bodies) == 1


def test_a_server_that_stays_broken_is_lost_after_the_last_attempt(client):
    with scripted_teacher(lambda number, body: error(500)) as server:
        with pytest.raises(Lost, match=r"after 4 attempts .*it answered 500"):
            ask(client(server.base_url, retries=3))
        assert len(server.bodies) == 4


def test_a_server_that_is_down_is_lost_and_costs_nothing(client):
    with scripted_teacher() as server:
        gone = server.base_url
    bill, notes = Bill(Prices(prompt=1.0, completion=1.0, source="test")), Notes()
    start = time.monotonic()
    with pytest.raises(Lost, match=r"can't be reached: the connection failed \(ConnectError: .*refused.* Is it running"):
        ask(client(gone, bill, retries=8), entry=notes)
    assert time.monotonic() - start < 2 and client.said == []
    assert (bill.doubtful, bill.requests) == (0, 0)
    assert [note[0] for note in notes] == ["may_cost", "not_sent"]


@pytest.mark.parametrize("reply", [Reply(delay=1.0), Reply(hang_up=True)])
def test_an_answer_that_was_never_seen_may_have_cost_its_worst(client, reply):
    bill = Bill(Prices(prompt=1.0, completion=1.0, source="test"))
    with scripted_teacher(lambda number, body: reply if number == 0 else None) as server:
        ask(client(server.base_url, bill, timeout=0.3))
        assert len(server.bodies) == 2
        assert bill.doubtful == bill.worst(CHAT)
        assert bill.requests == 2


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_said_once_and_never_shown(client, status):
    with scripted_teacher(lambda number, body: error(status, f"Incorrect API key provided: {SECRET}")) as server:
        with pytest.raises(UserError, match="set TEST_KEY to a valid key") as raised:
            ask(client(server.base_url))
        assert len(server.bodies) == 1
        assert SECRET not in str(raised.value)
        assert SECRET not in repr(client(server.base_url))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (error(404, "no such model"), "teacher.model='m'"),
        (error(400, f"bad {SECRET}"), r"bad \[key\]"),
        (error(429, "quota", code="insufficient_quota"), "paid up"),
    ],
)
def test_what_never_passes_is_the_users(client, reply, said):
    with scripted_teacher(lambda number, body: reply) as server:
        with pytest.raises(UserError, match=said):
            ask(client(server.base_url))
        assert len(server.bodies) == 1


EMPTY = [{}, {"choices": []}, {"choices": None}, answer(None, {"messages": []}), answer(3, {"messages": []})]


@pytest.mark.parametrize("nonsense", ['{"choices": [{"mess', "", "<html>busy</html>", "[]", "null", *EMPTY])
def test_nonsense_is_an_answer_without_text_and_costs_its_worst(client, nonsense):
    bill = Bill(Prices(prompt=1.0, completion=1.0, source="test"))
    with scripted_teacher(lambda number, body: Reply(nonsense)) as server:
        found = ask(client(server.base_url, bill))
        assert found.text is None
        assert len(server.bodies) == 1
        assert 0 < bill.dollars <= bill.worst(CHAT)


def test_a_html_page_is_nonsense_too(client):
    with scripted_teacher(lambda number, body: Reply("<html>", headers={"content-type": "text/html"})) as server:
        assert ask(client(server.base_url)).text is None


def test_the_budget_stops_before_the_request(client):
    bill = Bill(Prices(prompt=0.0, completion=1e6, source="test"), max_dollars=20.0)  # a dollar a token
    with scripted_teacher() as server:
        teacher = client(server.base_url, bill)
        ask(teacher)  # 10 of 20 dollars; the next may cost 16
        with pytest.raises(OverBudget):
            ask(teacher)
        assert len(server.bodies) == 1
        assert bill.dollars == 10.0


def test_a_missing_key_names_its_variable(monkeypatch):
    monkeypatch.delenv("TEST_KEY", raising=False)
    with pytest.raises(UserError, match="TEST_KEY is not set"):
        key(TeacherConfig(model="m", key_env="TEST_KEY"))
    with pytest.raises(UserError, match="hosted teacher needs a key"):
        key(TeacherConfig(model="m"))
    assert key(TeacherConfig(model="m", base_url="http://127.0.0.1:1/v1")) is None


def test_a_key_in_the_wrong_place_is_not_repeated():
    for wrong in ({"key_env": SECRET}, {"base_url": f"https://user:{SECRET}@host/v1"}):
        with pytest.raises(ValueError, match=r"NAME|name or password") as raised:
            TeacherConfig(model="m", **wrong)
        assert SECRET not in str(raised.value)
