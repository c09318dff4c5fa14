import threading
import time

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.teacher.bill import Bill, OverBudget, prices
from alpaca_jax.teacher.config import Prices, TeacherConfig
from alpaca_jax.teacher.protocol import Answer, Request

PRICES = Prices(prompt=1.0, completion=4.0, source="test")
REQUEST = Request(endpoint="chat", prompt="é" * 18, max_tokens=100, temperature=1.0, top_p=1.0, seed=0)


def test_the_worst_case_counts_bytes_and_the_whole_limit():
    assert Bill(PRICES).worst(REQUEST) == pytest.approx(((36 + 64) * 1.0 + 100 * 4.0) / 1e6)


def test_a_request_waits_for_one_that_may_come_cheaper():
    bill = Bill(PRICES, max_dollars=7e-4)
    worst = bill.worst(REQUEST)  # 5e-4
    entered = threading.Event()

    def second():
        with bill.holding(worst):
            entered.set()

    thread = threading.Thread(target=second, daemon=True)
    with bill.holding(worst):
        thread.start()
        time.sleep(0.05)
        assert not entered.is_set()
        cheap = Answer(text="x", finish_reason="stop", model="m", prompt_tokens=10, completion_tokens=10, seconds=0.1)
        bill.charge(REQUEST, cheap)
    thread.join(5.0)
    assert entered.is_set()
    assert bill.dollars == pytest.approx(5e-5)


@pytest.mark.parametrize("counts", [(None, 10), (10, None), (None, None)])
def test_an_answer_without_one_of_its_counts_costs_the_most_it_can(counts):
    bill = Bill(PRICES)
    bill.charge(
        REQUEST, Answer(text="x", finish_reason="stop", model="m", prompt_tokens=counts[0], completion_tokens=counts[1], seconds=0.1)
    )
    assert bill.dollars == bill.worst(REQUEST)
    assert (bill.prompt_tokens, bill.completion_tokens) == (counts[0] or 0, counts[1] or 0)


def test_over_budget_is_said_when_nothing_is_out():
    bill = Bill(PRICES, max_dollars=4e-4)
    with pytest.raises(OverBudget, match="dollars"), bill.holding(bill.worst(REQUEST)):
        raise AssertionError
    few = Bill(PRICES, max_requests=0)
    with pytest.raises(OverBudget, match="requests"), few.holding(0.0):
        raise AssertionError


def test_doubtful_dollars_count_against_the_budget():
    bill = Bill(PRICES, max_dollars=9e-4)
    bill.lose(5e-4)
    with pytest.raises(OverBudget), bill.holding(bill.worst(REQUEST)):
        raise AssertionError


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        ({"model": "none-such"}, "unknown, so a budget"),
        ({"model": "gpt-4o", "base_url": "https://elsewhere.example/v1"}, "at this address"),
        ({"model": "gpt-4o", "base_url": "http://127.0.0.1:4000/v1"}, "at this address"),  # a proxy
        ({"model": "gpt-4o-2024-05-13"}, "that of 'gpt-4o' may be another"),  # it costs twice as much
        ({"model": "ft:gpt-4o-mini:mine"}, "unknown, so a budget"),
    ],
)
def test_no_price_is_guessed(unknown, said):
    with pytest.raises(UserError, match=rf"teacher\.prices(?s:.)*{said}(?s:.)*teacher\.free=true"):
        prices(TeacherConfig(key_env="K", **unknown))


def test_the_list_is_not_of_another_address_in_the_environment(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://elsewhere.example/v1")
    with pytest.raises(UserError, match="at this address"):
        prices(TeacherConfig(model="gpt-4o", key_env="K"))
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1/")
    assert prices(TeacherConfig(model="gpt-4o", key_env="K")).prompt == 2.5


def test_where_prices_come_from():
    assert prices(TeacherConfig(model="m", prices=PRICES)) is PRICES
    assert prices(TeacherConfig(source="smollm2-135m-instruct")).completion == 0.0
    assert prices(TeacherConfig(base_url="http://127.0.0.1:1/v1", model="m", free=True)).source == "teacher.free=true"
    listed = prices(TeacherConfig(model="gpt-4o-mini", key_env="K"))
    assert (listed.prompt, listed.completion) == (0.15, 0.60)
    assert "2026" in listed.source
