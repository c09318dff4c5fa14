import contextlib
import itertools
import multiprocessing
import os
import signal
import ssl
import threading
import time
from collections import Counter

import pytest
from scripted_judge import ScriptedJudge, quality
from scripted_teacher import Reply, error, scripted_teacher

from alpaca_jax.errors import Lost, UserError
from alpaca_jax.rundir import append_line
from alpaca_jax.scores.judge.asking import Judge, folder_name
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.judge.prompt import Pair
from alpaca_jax.teacher import client, log
from alpaca_jax.teacher.config import Prices, TeacherConfig

PRICES = Prices(prompt=1.0, completion=2.0, source="test")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No wait before another attempt, and no certificates, which take a tenth of a second to read and are not needed."""
    monkeypatch.setattr(client, "MAX_WAIT", 0.01)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


def config(server, mode="auto", retries=2, max_dollars=None, **teacher):
    teacher = {"concurrency": 4, "timeout": 5.0, "max_retries": 20, "prices": PRICES} | teacher
    return JudgeConfig(
        teacher=TeacherConfig(base_url=server.base_url, model="judge", **teacher), mode=mode, retries=retries, max_dollars=max_dollars
    )


def pairs(number, quality_of=lambda number: number % 3 - 1.0):
    """Both orders of answers to so many prompts."""
    made = []
    for prompt in range(number):
        ours, theirs = (f"Ours to {prompt}. {quality(quality_of(prompt))}",), (f"Theirs to {prompt}.",)
        made += [Pair((f"Question {prompt}?",), ours, theirs), Pair((f"Question {prompt}?",), theirs, ours)]
    return made


def judged(tmp_path, config, asked, said=None):
    judge = Judge(config, tmp_path / folder_name(config), (said if said is not None else []).append)
    return judge, judge.judge(asked)


@pytest.mark.parametrize(
    ("gives", "mode", "words"),
    [
        ("logprobs", "logprobs", "gives log-probabilities"),
        ("letter", "letter", "it answered 400"),
        ("ignores", "letter", "gives no log-probabilities"),
        ("json", "json", "it answered 400"),
    ],
)
def test_the_way_is_chosen_by_asking_once_and_said(tmp_path, gives, mode, words):
    script, said = ScriptedJudge(gives), []
    with scripted_teacher(script) as server:
        _, found = judged(tmp_path, config(server), pairs(12), said)
        assert (found.choice.mode, found.problems, found.stopped_by) == (mode, {}, "")
        assert words in found.choice.why and found.choice.why in said[1]
        assert "24 to ask, about" in said[0] and "computed" in said[0]
        assert len(script.asked) == 24 + (gives == "json") and set(script.asked.values()) == {1}
        calls = script.calls
        again, same = judged(tmp_path, config(server), pairs(12), said)
    assert same == found and script.calls == calls
    assert said[-1].endswith("24 verdicts, 24 of them in the log; nothing is asked")
    assert again.bill.requests == calls


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
def test_log_probabilities_give_what_the_judge_thinks(tmp_path, endpoint):
    script = ScriptedJudge(position=0.5)
    with scripted_teacher(script) as server:
        _, found = judged(tmp_path, config(server, endpoint=endpoint), pairs(3))
    preferred = [verdict.preferred for verdict in found.verdicts]
    # Qualities -1, 0 and 1 of ours, first and second.
    assert preferred == pytest.approx([1 / (1 + 2.718281828**-logit) for logit in (-0.5, 1.5, 0.5, 0.5, 1.5, -0.5)])


def test_only_what_is_new_is_asked(tmp_path):
    script = ScriptedJudge()
    with scripted_teacher(script) as server:
        _, first = judged(tmp_path, config(server), pairs(5))
        _, more = judged(tmp_path, config(server), pairs(8)[6:] + pairs(5))
        assert more.verdicts[-10:] == first.verdicts
        other = [Pair(pair.turns, pair.first, ("Another.",)) for pair in pairs(2)[::2]]
        judged(tmp_path, config(server), other + pairs(8))
        _, twice = judged(tmp_path, config(server), pairs(8) + pairs(8))
    assert len(twice.verdicts) == 32
    assert len(script.asked) == 18 and set(script.asked.values()) == {1}


def test_each_judge_has_its_own_log(tmp_path):
    with scripted_teacher(ScriptedJudge()) as server:
        one = config(server)
        two = JudgeConfig(teacher=TeacherConfig(base_url=server.base_url, model="org/other judge", free=True))
        assert folder_name(one) != folder_name(two)
        judged(tmp_path, one, pairs(1))
        judge, _ = judged(tmp_path, two, pairs(1))
        assert judge.bill.requests == 2


def test_a_verdict_that_cannot_be_read_is_asked_again_with_another_seed_then_counted(tmp_path):
    seeds = Counter()

    def trouble(number, body):
        prompt = body["messages"][-1]["content"]
        if "Question 1?" in prompt or ("Question 2?" in prompt and body["seed"] == 0):
            seeds[body["seed"]] += 1
            return Reply({"choices": [{"message": {"content": "Hm."}}], "usage": {"prompt_tokens": 400, "completion_tokens": 2}})
        return None

    script = ScriptedJudge("ignores", trouble=trouble)
    with scripted_teacher(script) as server:
        judge, found = judged(tmp_path, config(server), pairs(6))
        assert found.problems == {"unreadable": 2}
        assert [verdict.preferred is None for verdict in found.verdicts] == [False, False, True, True] + [False] * 8
        assert seeds == {0: 4, 1: 2, 2: 2}
        assert judge.bill.requests == 12 + 2 + 2 * 2
        calls = script.calls
        _, same = judged(tmp_path, config(server), pairs(6))
        assert same == found and script.calls == calls


def test_rate_limits_hang_ups_errors_and_nonsense_on_the_way(tmp_path):
    def trouble(number, body):
        kinds = (error(429), Reply(hang_up=True), error(500), Reply("<html>"), Reply({"choices": []}))
        return kinds[number % 7] if number > 3 and number % 7 < len(kinds) else None

    script = ScriptedJudge(trouble=trouble)
    with scripted_teacher(script) as server:
        _, found = judged(tmp_path, config(server, retries=20), pairs(10))
    assert found.problems == {}
    assert len(script.asked) == 20


def test_a_single_refused_pair_is_counted_and_the_others_judged(tmp_path):
    def trouble(number, body):
        return error(400, "content policy") if "Question 4?" in body["messages"][-1]["content"] else None

    with scripted_teacher(ScriptedJudge(trouble=trouble)) as server:
        judge, found = judged(tmp_path, config(server), pairs(6))
    assert found.problems == {"refused": 2}
    assert judge.refusals == ["Error code: 400 - content policy"] * 2


@pytest.mark.parametrize("mode", ["auto", "letter", "json"])
def test_a_judge_that_refuses_is_one_clear_line(tmp_path, mode):
    script = ScriptedJudge(says="I can't help with comparing these.")
    with scripted_teacher(script) as server, pytest.raises(UserError, match=r"judge judge gives no verdict on 3 pairs; .*can't help"):
        judged(tmp_path, config(server, mode), pairs(40))
    assert script.calls <= 6


def test_a_key_that_is_not_accepted_is_one_clear_line(tmp_path):
    with scripted_teacher(lambda number, body: error(401)) as server, pytest.raises(UserError, match="doesn't accept the key"):
        judged(tmp_path, config(server), pairs(4))


def test_a_judge_that_stops_making_sense_is_given_up(tmp_path):
    def trouble(number, body):
        return Reply({"choices": [{"message": {"content": "Hm."}}], "usage": {"prompt_tokens": 400, "completion_tokens": 2}})

    script = ScriptedJudge("ignores")
    with scripted_teacher(script) as server:
        judged(tmp_path, config(server), pairs(1))
        script.trouble = trouble
        with pytest.raises(UserError, match=r"no readable verdict on 12 pairs"):
            judged(tmp_path, config(server, retries=0), pairs(60)[2:])
    assert script.calls < 40


def test_the_price_must_be_known(tmp_path):
    with pytest.raises(UserError, match="the price of 'judge' is unknown"), scripted_teacher() as server:
        judged(tmp_path, config(server, prices=None), pairs(1))


def test_the_budget_is_never_passed_and_what_it_paid_for_stands(tmp_path):
    script, said = ScriptedJudge("letter"), []
    cost = (400 * 1.0 + 2 * 2.0) / 1e6
    with scripted_teacher(script) as server:
        judge, found = judged(tmp_path, config(server, max_dollars=12 * cost), pairs(20), said)
        assert found.stopped_by == "dollars"
        assert judge.bill.dollars + judge.bill.doubtful <= 12 * cost and sum(script.asked.values()) * cost <= 12 * cost
        judged_at_all = 40 - found.problems["not asked"]
        assert 6 <= judged_at_all <= 12 and judged_at_all == len(script.asked)
        assert "and the rest won't suffice for all of them" in said[0]
        _, more = judged(tmp_path, config(server), pairs(20), said)
        assert more.problems == {} and set(script.asked.values()) == {1}
        assert "measured on its answers" in said[-1]
    with scripted_teacher(script) as server, pytest.raises(UserError, match=r"compare.max_dollars=1e-05 doesn't allow one more"):
        judged(tmp_path / "none", config(server, max_dollars=1e-5), pairs(20))


def answered(folder):
    return sum('"answer"' in line for file in folder.rglob("0*.jsonl") for line in file.read_text().splitlines())


class Killed(BaseException):
    """What a process doesn't survive."""


def killed(monkeypatch, tmp_path, settings, asked, write, before):
    """Runs until a line of the log is to be written, and dies before or after; returns how many were."""
    lines, dead = itertools.count(1), threading.Event()

    def append(path, line):
        if not dead.is_set() and next(lines) == write:
            if not before:
                append_line(path, line)
            dead.set()
        if dead.is_set():
            raise Killed
        return append_line(path, line)

    with monkeypatch.context() as patch:
        patch.setattr(log, "append_line", append)
        with contextlib.suppress(Killed):
            judged(tmp_path, settings, asked)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("write", [1, 4, 15])
def test_killed_anywhere_and_resumed_no_verdict_is_paid_for_twice(tmp_path, monkeypatch, write, before):
    """Of each line of the log: it was written, or it wasn't; of those in flight nobody saw the answers."""
    script = ScriptedJudge("letter", position=0.3)
    with scripted_teacher(script) as server:
        settings = config(server, concurrency=2)
        killed(monkeypatch, tmp_path, settings, pairs(5), write, before)
        unseen = script.asked.total() - answered(tmp_path)
        judge, found = judged(tmp_path, settings, pairs(5))
        assert found.problems == {} and len(script.asked) == 10
        assert script.asked.total() - 10 == unseen <= 2
        worst = max(map(judge.bill.worst, judge._requests.values()))
        assert 0.9 * unseen * worst <= judge.bill.doubtful <= 2 * worst


@pytest.mark.prove
@pytest.mark.parametrize("after", [1, 2, 7, 30, 61, 99])
def test_a_process_killed_and_resumed_pays_for_no_verdict_twice(tmp_path, after):
    """The kernel ends a process once the server has seen so many requests."""
    script = ScriptedJudge("letter", delay=0.02)
    with scripted_teacher(script) as server:
        settings = config(server, concurrency=2)
        child = multiprocessing.get_context("spawn").Process(target=judged, args=(tmp_path, settings, pairs(60)))
        child.start()
        while script.calls < after and child.is_alive():
            time.sleep(0.002)
        assert child.is_alive() and after <= script.calls < 120
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        time.sleep(0.2)
        unseen = script.asked.total() - answered(tmp_path)
        judge, found = judged(tmp_path, settings, pairs(60))
    assert found.problems == {} and len(script.asked) == 120
    assert script.asked.total() - 120 == unseen <= 2
    assert judge.bill.doubtful <= 2 * max(map(judge.bill.worst, judge._requests.values()))


def test_a_lost_judge_leaves_what_was_paid_for(tmp_path):
    gone = threading.Event()
    script = ScriptedJudge(trouble=lambda number, body: Reply(hang_up=True) if gone.is_set() or number > 9 else None)
    with scripted_teacher(script) as server:
        with pytest.raises(Lost):
            judged(tmp_path, config(server, max_retries=1), pairs(12))
        script.trouble = lambda number, body: None
        _, found = judged(tmp_path, config(server), pairs(12))
    assert found.problems == {} and set(script.asked.values()) == {1}


def test_damaged_lines_are_asked_again_and_the_rest_is_not(tmp_path):
    script = ScriptedJudge()
    with scripted_teacher(script) as server:
        _, first = judged(tmp_path, config(server), pairs(6))
        (shard,) = tmp_path.glob("*/verdicts/*.jsonl")
        lines = shard.read_text().splitlines()
        answered = [number for number, line in enumerate(lines) if '"answer"' in line]
        lines[answered[4]] = lines[answered[4]][:50]
        shard.write_text("\n".join(lines) + "\n")
        _, found = judged(tmp_path, config(server), pairs(6))
    assert found.verdicts == first.verdicts and found.damaged == 1
    assert Counter(script.asked.values()) == {1: 11, 2: 1}
