import itertools
import threading
import time
from collections import Counter

import pytest
from replies import received

from alpaca_jax.errors import Lost
from alpaca_jax.teacher import reply
from alpaca_jax.teacher.asking import ask_all
from alpaca_jax.teacher.bill import Bill, OverBudget
from alpaca_jax.teacher.config import Prices
from alpaca_jax.teacher.log import AnswerLog
from alpaca_jax.teacher.protocol import Request

FREE, PAID = (Prices(prompt=price, completion=price, source="test") for price in (0.0, 1.0))


class Teacher:
    """Answers with the question; `wait(seed)` comes first, on the thread that asks."""

    def __init__(self, wait=lambda seed: None):
        self.asked, self.in_flight, self.most_in_flight = Counter(), 0, 0
        self._wait, self._lock = wait, threading.Lock()

    def ask(self, request, stop, entry):
        with self._lock:
            self.asked[request.seed] += 1
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self._wait(request.seed)
        finally:
            with self._lock:
                self.in_flight -= 1
        entry.keep(received(request.prompt))
        return reply.read(received(request.prompt), request)


def question(seed):
    return Request(endpoint="chat", prompt=f"Question {seed}", max_tokens=5, temperature=1.0, top_p=1.0, seed=seed)


def once(index, answers):
    """A judge's way: one question for each index."""
    return answers[0].text if answers else question(index)


def opened(tmp_path, prices=FREE):
    return AnswerLog(tmp_path / "answers", {"seed": 0}, Bill(prices))


def ask(advance, indices, log, teacher, concurrency=4, **more):
    with ask_all(advance, indices, log, teacher, concurrency, **more) as results:
        return list(results)


def test_results_come_in_order_whatever_the_order_of_the_answers(tmp_path):
    teacher, changes = Teacher(lambda seed: time.sleep(seed * 7 % 5 / 100)), []
    results = ask(once, range(20), opened(tmp_path), teacher, changed=lambda: changes.append(1))
    assert results == [(index, f"Question {index}") for index in range(20)]
    assert 1 < teacher.most_in_flight <= 4
    assert len(changes) == 20


def test_a_second_run_asks_nothing_and_a_longer_one_only_the_rest(tmp_path):
    teacher = Teacher()
    first = ask(once, range(10), opened(tmp_path), teacher)
    assert ask(once, range(10), opened(tmp_path), teacher) == first
    assert ask(once, [40, 3, 12], opened(tmp_path), teacher) == [(index, f"Question {index}") for index in (40, 3, 12)]
    assert teacher.asked == Counter([*range(10), 12, 40])


def test_an_index_may_take_several_steps_and_goes_on_at_the_one_that_is_missing(tmp_path):
    def advance(index, answers):
        return [answer.text for answer in answers] if len(answers) == index % 3 + 1 else question(10 * index + len(answers))

    def lost(seed):
        if seed == 11:
            raise Lost("gone")

    with pytest.raises(Lost, match="gone"):
        ask(advance, range(3), opened(tmp_path), Teacher(lost), 1)
    teacher = Teacher()
    results = ask(advance, range(3), opened(tmp_path), teacher)
    assert [text for _, texts in results for text in texts] == [f"Question {seed}" for seed in (0, 10, 11, 20, 21, 22)]
    assert set(teacher.asked) == {11, 20, 21, 22}


def test_no_more_are_begun_than_the_caller_can_use(tmp_path):
    teacher, taken = Teacher(), []
    with ask_all(once, itertools.count(), opened(tmp_path), teacher, 8, lambda: 5 - len(taken)) as results:
        for result in results:
            taken.append(result)
            if len(taken) == 5:
                break
    assert sum(teacher.asked.values()) == 5


def test_over_budget_comes_after_all_that_could_be_paid(tmp_path):
    log = opened(tmp_path)

    def wait(seed):
        if seed == 1:
            raise OverBudget("dollars")
        time.sleep(0.05)

    results = []
    with pytest.raises(OverBudget, match="dollars"), ask_all(once, itertools.count(), log, Teacher(wait), 4) as given:
        results.extend(index for index, _ in given)
    assert results == [0]
    assert [len(log.answers(index)) for index in range(5)] == [1, 0, 1, 1, 0]


@pytest.mark.parametrize(("prices", "logged"), [(PAID, True), (FREE, False)])
def test_leaving_waits_for_answers_that_cost_money(tmp_path, prices, logged):
    last, all_sent = threading.Event(), threading.Barrier(4)
    log = opened(tmp_path, prices)
    teacher = Teacher(lambda seed: (all_sent.wait(5.0), seed and last.wait(5.0)))

    def interrupted():
        with ask_all(once, range(4), log, teacher, 4) as results:
            assert next(results) == (0, "Question 0")
            threading.Timer(0.1, last.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (len(log.answers(3)) == 1) == logged
    last.set()
