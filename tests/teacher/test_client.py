import dataclasses
import json
import time

import pytest
from scripted_teacher import Reply, answer, error, scripted_teacher
from teacher_client import CHAT, FREE, PAID, RAW, SECRET, Notes, ask

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.teacher import protocol, reply
from alpaca_jax.teacher.bill import Bill, OverBudget
from alpaca_jax.teacher.config import Prices
from alpaca_jax.teacher.protocol import Refused


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


LOGPROBS = {
    "chat": {
        "content": [{"token": "A", "logprob": -0.1, "bytes": [65], "top_logprobs": [{"token": " B", "logprob": -2.5}, {"token": "x"}]}]
    },
    "completions": {"tokens": ["A"], "token_logprobs": [-0.1], "top_logprobs": [{"A": -0.1, " B": -2.5, "y": None}], "text_offset": [0]},
}


@pytest.mark.parametrize("request_", [CHAT, RAW], ids=["chat", "completions"])
def test_log_probabilities_are_asked_for_where_they_are_wanted_and_read(client, request_):
    def script(number, body):
        made = answer("A", body)
        made["choices"][0]["logprobs"] = LOGPROBS[request_.endpoint]
        return Reply(made)

    with scripted_teacher(script) as server:
        teacher = client(server.base_url)
        wanted = ask(teacher, dataclasses.replace(request_, top_logprobs=5))
        assert wanted.top == ({"A": -0.1, " B": -2.5},)
        assert ask(teacher, request_).top == ()
        first, second = server.bodies
    asked = {"logprobs": True, "top_logprobs": 5} if request_ is CHAT else {"logprobs": 5}
    assert first == second | asked


@pytest.mark.parametrize(
    "logprobs",
    [None, [], "no", {"content": "no"}, {"content": [None, 1]}, {"content": [{"token": 1, "logprob": -1}]}, {"top_logprobs": [None]}]
    + [{"content": [{"token": "A", "logprob": value}]} for value in (None, "-1", True, 5.0, float("-inf"), float("nan"))],
)
def test_log_probabilities_that_are_none_are_left_out(logprobs):
    made = answer("A", {"messages": []})
    made["choices"][0]["logprobs"] = logprobs
    found = reply.read(protocol.Reply(body=json.dumps(made).encode(), model="m", seconds=0.0), dataclasses.replace(CHAT, top_logprobs=5))
    assert found.text == "A" and found.top == ()


def test_a_refusal_says_its_status_and_words(client):
    with scripted_teacher(lambda number, body: error(400, "logprobs is not supported")) as server, pytest.raises(Refused) as refused:
        ask(client(server.base_url), dataclasses.replace(CHAT, top_logprobs=5))
    assert refused.value.status == 400 and "logprobs is not supported" in refused.value.said


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


LONG = "The Nile flows through eleven countries of Africa before it reaches the sea. " * 3  # 42 words


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": 20},
        {"prompt_tokens": 20, "completion_tokens": 0},
        {"prompt_tokens": 20, "completion_tokens": 1},
        {"prompt_tokens": 20, "completion_tokens": -5},
        {"prompt_tokens": 20, "completion_tokens": True},
        {"prompt_tokens": 20, "completion_tokens": "50"},
        {"prompt_tokens": 20, "completion_tokens": 50.0},
        {"prompt_tokens": 20, "completion_tokens": [50]},
        {"prompt_tokens": 20, "completion_tokens": 10**9},
        {"prompt_tokens": 0, "completion_tokens": 50},
        {"prompt_tokens": -2_000_000, "completion_tokens": 50},
        "50 tokens",
    ],
)
def test_a_usage_that_cannot_be_true_costs_the_most_and_is_said_once(client, usage):
    bill = Bill(PAID)
    with scripted_teacher(lambda number, body: Reply({**answer(LONG, body, usage=None), "usage": usage})) as server:
        teacher = client(server.base_url, bill)
        assert ask(teacher).text == LONG
        assert bill.dollars == bill.worst(CHAT)
        ask(teacher)
        assert bill.unbelieved == 2
        (said,) = client.said
        assert "usage." in said and "charged the most" in said


def test_nan_in_a_usage_is_no_number(client):
    bill = Bill(PAID)
    body = json.dumps(answer(LONG, {"messages": []}, usage=None)).removesuffix("}")
    with scripted_teacher(lambda number, _: Reply(body + ', "usage": {"prompt_tokens": NaN, "completion_tokens": 1e400}}')) as server:
        assert ask(client(server.base_url, bill)).text == LONG
        assert bill.dollars == bill.worst(CHAT)


@pytest.mark.parametrize(
    ("usage", "completion"),
    [
        ({"completion_tokens": 40, "total_tokens": 560}, 540),  # in the total alone
        ({"completion_tokens": 40, "total_tokens": 60, "completion_tokens_details": {"reasoning_tokens": 500}}, 540),  # beside both
        ({"completion_tokens": 540, "total_tokens": 560, "completion_tokens_details": {"reasoning_tokens": 500}}, 540),  # within both
        ({"completion_tokens": 40, "total_tokens": 560, "reasoning_tokens": 500}, 540),
        ({"completion_tokens": 40, "total_tokens": 10}, 40),
        ({"completion_tokens": 40, "total_tokens": -1}, 40),
        ({"completion_tokens": 40, "total_tokens": "560"}, 40),
    ],
)
def test_reasoning_counts_as_completion(client, usage, completion):
    bill = Bill(PAID)
    with scripted_teacher(
        lambda number, body: Reply({**answer(LONG, body, usage=None), "usage": {"prompt_tokens": 20, **usage}})
    ) as server:
        ask(client(server.base_url, bill))
    assert (bill.prompt_tokens, bill.completion_tokens) == (20, completion)
    assert bill.dollars == pytest.approx((20 + completion) / 1e6)


@pytest.mark.parametrize(
    ("price", "cached", "dollars"),
    [(None, 900, 1050.0), (0.1, 900, 240.0), (0.1, 5000, 1050.0), (0.1, -3, 1050.0), (0.1, "900", 1050.0), (0.1, True, 1050.0)],
)
def test_cached_tokens_are_cheaper_only_at_a_price_of_their_own(client, price, cached, dollars):
    bill = Bill(Prices(prompt=1.0, completion=1.0, cached_prompt=price, source="test"))
    usage = {"prompt_tokens": 1000, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": cached}}
    with scripted_teacher(lambda number, body: Reply({**answer(LONG, body, usage=None), "usage": usage})) as server:
        ask(client(server.base_url, bill))
    assert bill.dollars == pytest.approx(dollars / 1e6)


def test_what_the_server_says_that_it_charges_is_the_least(client):
    bill = Bill(PAID)
    usage = {"prompt_tokens": 20, "completion_tokens": 50, "cost": 0.5}
    with scripted_teacher(lambda number, body: Reply({**answer(LONG, body, usage=None), "usage": usage})) as server:
        ask(client(server.base_url, bill))
    assert bill.dollars == 0.5
    assert bill.worst(CHAT) > 0.4  # the next one may cost as much


@pytest.mark.parametrize(("status", "billed"), [(500, True), (502, True), (504, True), (408, True), (429, False)])
@pytest.mark.parametrize("bills_errors", [True, False])
def test_whether_errors_are_billed_is_a_setting(client, status, billed, bills_errors):
    bill, notes = Bill(PAID), Notes()
    with scripted_teacher(lambda number, body: error(status) if number == 0 else None) as server:
        ask(client(server.base_url, bill, bills_errors=bills_errors), entry=notes)
    lost = bill.worst(CHAT) if billed and bills_errors else 0.0
    assert bill.doubtful == lost and ("cost_at_most", lost) in notes
    assert bill.requests == 2


def test_the_budget_counts_requests_sent(client):
    bill = Bill(FREE, max_requests=5)
    with scripted_teacher(lambda number, body: error(429)) as server:
        teacher = client(server.base_url, bill, retries=9)
        with pytest.raises(OverBudget, match="requests"):
            ask(teacher)
        assert len(server.bodies) == 5


@pytest.mark.parametrize(
    "body",
    [
        '{"choices": [{"message": {"content": "half \\ud83d of it"}}]}',
        '{"a":' * 100_000,
        "[" * 100_000,
        '{"usage": 1' + "0" * 5000 + "}",
        "\x00",
    ],
)
def test_what_came_is_kept_before_it_is_read_whatever_it_is(client, body):
    bill, notes = Bill(PAID), Notes()
    with scripted_teacher(lambda number, _: Reply(body)) as server:
        found = ask(client(server.base_url, bill), entry=notes)
        assert len(server.bodies) == 1
    assert found.text in (None, "half \ufffd of it")
    assert [note[0] for note in notes] == ["may_cost", "keep"]
    assert notes[1][1].body == body.encode()
    assert bill.dollars == bill.worst(CHAT)


def test_an_answer_that_could_not_be_kept_is_charged(client):
    class Full(Notes):
        def keep(self, reply):
            raise UserError("the disk is full")

    bill = Bill(PAID)
    with scripted_teacher() as server, pytest.raises(UserError, match="disk is full"):
        ask(client(server.base_url, bill), entry=Full())
    assert bill.dollars == pytest.approx(30 / 1e6)


def test_a_server_on_this_machine_is_not_behind_a_proxy(client, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    with scripted_teacher() as server:
        assert ask(client(server.base_url)).text.startswith("This is about")


def test_a_name_that_each_record_would_repeat_is_cut(client):
    with scripted_teacher(lambda number, body: Reply({**answer("Yes.", body), "model": "m" * 10_000})) as server:
        assert ask(client(server.base_url)).model == "m" * 200


def test_a_refusal_in_its_own_field_is_the_text(client):
    def script(number, body):
        made = answer(None, body)
        made["choices"][0]["message"]["refusal"] = "I'm sorry, but I can't help with that."
        return Reply(made)

    with scripted_teacher(script) as server:
        assert ask(client(server.base_url)).text == "I'm sorry, but I can't help with that."
