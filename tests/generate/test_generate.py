"""The whole verb against a server on loopback that answers, hangs, refuses, or dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from scripted_teacher import Reply, answer, error, scripted_teacher, text_for

from alpaca_jax import records
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.generate import run as verb
from alpaca_jax.generate.config import Budget, Config, Filters, Magpie
from alpaca_jax.records import Manifest
from alpaca_jax.teacher import client
from alpaca_jax.teacher.config import Prices, TeacherConfig

PRICES = Prices(prompt=1.0, completion=2.0, source="a list")
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setenv("TEST_KEY", SECRET)
    monkeypatch.setattr(client, "MAX_WAIT", 0.05)


def config(tmp_path, server, count=10, teacher=None, method="magpie", **more):
    settings = {
        "base_url": server.base_url,
        "model": "m",
        "key_env": "TEST_KEY",
        "endpoint": "completions",
        "max_retries": 2,
        "timeout": 5.0,
    }
    settings |= teacher or {}
    settings.setdefault("free", "prices" not in settings)
    return Config(
        dir=str(tmp_path / "run"),
        count=count,
        method=method,
        magpie=Magpie(prefix="<user>", stop=("<end>",)),
        teacher=TeacherConfig(**settings),
        **more,
    )


def kept(tmp_path):
    return records.read(tmp_path / "run")


def logged(tmp_path):
    """Every whole line of the log, settings first, its shards joined as in the one file that logs used to be."""
    shards = [path.read_text().split("\n") for path in sorted((tmp_path / "run" / "records" / "answers").iterdir())]
    lines = [json.loads(line) for shard in shards for line in shard if line.endswith("}")]
    return [lines[0], *(line for line in lines if "settings" not in line)]


def asked(server):
    """How often each question was put, by its seed: every request of a run has a seed of its own."""
    return Counter(body["seed"] for body in server.bodies)


def test_records_with_provenance_and_a_manifest(tmp_path, capsys):
    with scripted_teacher() as server:
        manifest = verb.run(config(tmp_path, server, teacher={"prices": PRICES}))
        requests = len(server.bodies)
    found = kept(tmp_path)
    assert len(found.records) == 10
    assert [record.provenance["index"] for record in found.records] == sorted(record.provenance["index"] for record in found.records)
    assert set(found.records[0].provenance) == {"method", "teacher", "index", "item", "seed"}
    assert found.records[0].output.startswith("This is about " + found.records[0].instruction)
    assert manifest == Manifest.read(tmp_path / "run" / "records" / "manifest.json")
    assert manifest.sha256 == found.sha256
    assert manifest.counts["kept"] == manifest.records == 10
    assert (manifest.requests, manifest.prompt_tokens, manifest.completion_tokens) == (requests, 20 * requests, 10 * requests)
    assert manifest.dollars == pytest.approx(requests * (20 * 1.0 + 10 * 2.0) / 1e6)
    assert manifest.prices == {"prompt": 1.0, "completion": 2.0, "source": "a list"}
    assert manifest.stopped_by == "count"
    assert manifest.versions["openai"]
    captured = capsys.readouterr()
    assert "10 records in" in captured.out
    written = "".join(path.read_text() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert SECRET not in written + captured.out + captured.err


def test_records_do_not_depend_on_the_order_of_the_answers(tmp_path):
    made = []
    for name, concurrency in (("a", 1), ("b", 8)):
        with scripted_teacher(lambda number, body: Reply(answer(text_for(body), body), delay=body["seed"] % 7 / 200)) as server:
            verb.run(config(tmp_path / name, server, teacher={"concurrency": concurrency}))
            assert server.most_in_flight <= concurrency
            if concurrency > 1:
                assert server.most_in_flight > 1
        made.append((tmp_path / name / "run" / "records" / "records.jsonl").read_bytes())
    assert made[0] == made[1]


def test_no_request_is_out_that_could_not_give_a_record(tmp_path):
    with scripted_teacher() as server:
        verb.run(config(tmp_path, server, count=3, teacher={"concurrency": 8, "prices": PRICES}))
        assert len(server.bodies) == 6


def test_a_second_start_asks_nothing_and_a_larger_count_only_the_rest(tmp_path):
    with scripted_teacher() as server:
        verb.run(config(tmp_path, server, count=4))
        first = kept(tmp_path).records
        verb.run(config(tmp_path, server, count=4))
        assert len(server.bodies) == 8
        verb.run(config(tmp_path, server, count=6))
        assert set(asked(server).values()) == {1}
    assert kept(tmp_path).records[:4] == first
    assert len(kept(tmp_path).records) == 6


def test_replay_needs_no_teacher_and_other_filters_cost_nothing(tmp_path, monkeypatch):
    with scripted_teacher() as server:
        whole = config(tmp_path, server, count=6)
        verb.run(whole)
    before = kept(tmp_path)
    (tmp_path / "run" / "records" / "records.jsonl").unlink()
    monkeypatch.delenv("TEST_KEY")
    again = parse(Config, {**to_mapping(whole), "replay": True})
    assert verb.run(again).counts == {"kept": 6}
    assert kept(tmp_path) == before
    stricter = parse(Config, {**to_mapping(again), "filters": {"max_words": 12}})
    with pytest.raises(UserError, match=r"not one record was kept .*long_instruction"):
        verb.run(stricter)
    with pytest.raises(UserError, match="no log of answers"):
        verb.run(parse(Config, {**to_mapping(again), "dir": str(tmp_path / "other")}))


def test_a_log_in_one_file_as_of_before_shards_resumes_and_replays(tmp_path):
    folder = tmp_path / "run" / "records"
    with scripted_teacher() as server:
        verb.run(config(tmp_path, server, count=8, teacher={"concurrency": 1, "prices": PRICES}))
        straight, lines = kept(tmp_path), logged(tmp_path)
        shutil.rmtree(folder)
        folder.mkdir()
        # The last answer was never seen: its instruction is there, and what it may have cost.
        assert "answer" in lines.pop()
        old = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines) + '{"index": 7, "st'
        (folder / "answers.jsonl").write_text(old)
        replayed = verb.run(config(tmp_path, server, count=8, replay=True))
        assert replayed.counts == {"kept": 7, "unanswered": 1}
        assert not (folder / "answers").exists()

        server.bodies.clear()
        resumed = verb.run(config(tmp_path, server, count=8, teacher={"prices": PRICES}))
        assert len(server.bodies) == 1
        assert kept(tmp_path) == straight
        assert resumed.requests == 17  # one of them was never answered
        assert resumed.doubtful_dollars == pytest.approx(lines[-1]["may_cost"], abs=1e-6)
        assert verb.run(config(tmp_path, server, count=8, replay=True)).counts == {"kept": 8}
        assert kept(tmp_path) == straight
        with pytest.raises(UserError, match=r"answers\.jsonl holds the answers of another run:\s+seed: 0 there, 5 now"):
            verb.run(config(tmp_path, server, count=8, seed=5))
        assert len(server.bodies) == 1
    assert (folder / "answers.jsonl").read_text() == old


def test_another_seed_in_the_same_folder_is_refused(tmp_path):
    with scripted_teacher() as server:
        verb.run(config(tmp_path, server, count=2))
        with pytest.raises(UserError, match="seed: 0 there, 5 now"):
            verb.run(config(tmp_path, server, count=2, seed=5))


def test_the_budget_in_requests_and_going_on_with_a_larger_one(tmp_path):
    with scripted_teacher() as server:
        manifest = verb.run(config(tmp_path, server, teacher={"concurrency": 1}, budget=Budget(requests=7)))
        assert len(server.bodies) == 7
        assert manifest.stopped_by == "requests"
        assert manifest.records == 3
        assert verb.run(config(tmp_path, server)).records == 10
        assert set(asked(server).values()) == {1}


def test_the_budget_in_dollars_is_never_exceeded(tmp_path):
    prices = Prices(prompt=0.0, completion=1e4, source="test")  # 10 tokens are 0.1 dollars; a request may cost 1.28 or 5.12
    with scripted_teacher() as server:
        manifest = verb.run(config(tmp_path, server, count=200, teacher={"prices": prices}, budget=Budget(dollars=8.0)))
        spent = 0.1 * len(server.bodies)
    assert manifest.stopped_by == "dollars"
    assert manifest.dollars == pytest.approx(spent)
    assert 2.5 < spent <= 8.0


def test_filters_are_counted_by_name(tmp_path):
    def script(number, body):
        text, reason = text_for(body), "stop"
        kind = body["seed"] % 5
        if "messages" in body:
            text = {0: "I'm sorry, but I can't help with that.", 1: "again and again and " * 20}.get(kind, text)
            reason = "length" if kind == 2 else "stop"
        return Reply(answer(text, body, reason))

    with scripted_teacher(script) as server:
        counts = verb.run(config(tmp_path, server, count=12)).counts
    assert counts["kept"] == 12
    assert {"refusal", "broken", "cut"} <= set(counts)
    outputs = " ".join(record.output for record in kept(tmp_path).records)
    assert "sorry" not in outputs
    assert "again and again" not in outputs


def test_near_duplicates_are_dropped_before_their_answer_is_paid_for(tmp_path):
    def script(number, body):
        return None if "messages" in body else Reply(answer("Name the longest river of South America now.", body))

    with scripted_teacher(script) as server:
        manifest = verb.run(config(tmp_path, server, count=2, teacher={"concurrency": 1}, budget=Budget(requests=10)))
    assert manifest.counts["near_duplicate"] >= 8
    assert sum("messages" in body for body in server.bodies) == 1


def test_self_instruct_over_chat_with_a_hosted_teacher(tmp_path):
    def script(number, body):
        tasks = [
            f"{i}. Instruction: {text_for({'seed': body['seed'] + i})}\n{i}. Input: <noinput>\n{i}. Output: Yes {i}.\n###"
            for i in range(4, 8)
        ]
        return Reply(answer("\n".join(tasks), body, "length", usage=(900, 400)))

    with scripted_teacher(script) as server:
        manifest = verb.run(config(tmp_path, server, 5, {"endpoint": "chat", "prices": PRICES}, method="self_instruct"))
        assert len(server.bodies) == 2  # the fourth of each list was cut
    assert manifest.counts == {"kept": 5, "cut": 1}
    assert [record.provenance["item"] for record in kept(tmp_path).records] == [0, 1, 2, 0, 1]


def test_a_teacher_that_talks_nonsense_is_given_up(tmp_path):
    with scripted_teacher(lambda number, body: Reply('{"choices": []}')) as server:
        with pytest.raises(Lost, match="of the teacher hold no text"):
            verb.run(config(tmp_path, server, count=1000))
        assert len(server.bodies) < 500


def test_a_little_nonsense_is_dropped_and_counted(tmp_path):
    with scripted_teacher(lambda number, body: Reply("{") if body["seed"] % 6 == 0 else None) as server:
        counts = verb.run(config(tmp_path, server, count=20)).counts
    assert counts["kept"] == 20
    assert counts["nonsense"] > 0


@pytest.mark.parametrize("reply", [error(500), error(429), Reply(hang_up=True)])
def test_a_teacher_lost_on_the_way_loses_no_answer(tmp_path, reply):
    with (
        scripted_teacher(lambda number, body: reply if number >= 9 else None) as server,
        pytest.raises(Lost, match="run the same command again"),
    ):
        verb.run(config(tmp_path, server))
    assert not (tmp_path / "run" / "records" / "records.jsonl").exists()
    with scripted_teacher() as back:
        verb.run(config(tmp_path, back))
        requests = len(back.bodies)
    with scripted_teacher() as straight:
        verb.run(config(tmp_path / "straight", straight))
    assert kept(tmp_path) == kept(tmp_path / "straight")
    assert requests <= len(straight.bodies) - 9 + 2


def test_a_refused_or_missing_key_is_the_users(tmp_path, monkeypatch):
    with scripted_teacher(lambda number, body: error(401, f"Incorrect API key provided: {SECRET}")) as server:
        with pytest.raises(UserError, match="set TEST_KEY to a valid key") as raised:
            verb.run(config(tmp_path, server))
        assert SECRET not in str(raised.value)
        asked_before = len(server.bodies)
        monkeypatch.delenv("TEST_KEY")
        with pytest.raises(UserError, match="TEST_KEY is not set"):
            verb.run(config(tmp_path / "other", server))
        assert len(server.bodies) == asked_before
    assert not (tmp_path / "other").exists()


def test_a_full_disk_ends_it_and_leaves_no_half_line(tmp_path, monkeypatch):
    from alpaca_jax.teacher import log

    real, calls = log.append_line, []

    def full(path, line):
        calls.append(path)
        if len(calls) > 6:
            raise UserError(f"{path}: the disk is full")
        return real(path, line)

    monkeypatch.setattr(log, "append_line", full)
    with scripted_teacher() as server, pytest.raises(UserError, match="disk is full"):
        verb.run(config(tmp_path, server))
    (shard,) = (tmp_path / "run" / "records" / "answers").iterdir()
    assert len([json.loads(line) for line in shard.read_text().splitlines()]) == 6


SCRIPT = """
import json, sys
from alpaca_jax.config import parse
from alpaca_jax.generate.config import Config
from alpaca_jax.generate.run import run
try:
    run(parse(Config, json.loads(sys.argv[1])))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start(made):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(to_mapping(made))], env={**os.environ, "TEST_KEY": SECRET})


def wait_for_requests(server, number):
    limit = time.monotonic() + 60
    while len(server.bodies) < number:
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_killed_in_the_middle_and_started_again(tmp_path):
    """No answered request is paid for twice, and the records are those of a straight run."""
    slow = threading.Event()
    with scripted_teacher(lambda number, body: Reply(answer(text_for(body), body), delay=0.0 if slow.is_set() else 0.03)) as server:
        made = config(tmp_path, server, count=30, teacher={"concurrency": 4, "prices": PRICES})
        process = start(made)
        wait_for_requests(server, 20)
        process.send_signal(signal.SIGKILL)
        process.wait()
        slow.set()
        time.sleep(0.1)
        safe = {line["request"]["seed"] for line in logged(tmp_path) if "request" in line}
        assert len(safe) >= 10
        manifest = verb.run(made)
        counted = asked(server)
    assert all(counted[seed] == 1 for seed in safe)
    assert sum(counted.values()) - len(counted) <= 4  # those in flight when it was killed, whose answers nobody saw
    assert 0 < manifest.doubtful_dollars <= 4 * max(256, 512) * 3e-6
    with scripted_teacher() as straight:
        verb.run(config(tmp_path / "straight", straight, count=30))
    assert kept(tmp_path) == kept(tmp_path / "straight")


def test_ctrl_c_waits_for_answers_that_are_paid_for(tmp_path):
    with scripted_teacher(lambda number, body: Reply(answer(text_for(body), body), delay=0.5 if number >= 8 else 0.0)) as server:
        made = config(tmp_path, server, count=30, teacher={"concurrency": 4, "prices": PRICES})
        process = start(made)
        wait_for_requests(server, 10)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        sent = len(server.bodies)
    assert sum("answer" in line for line in logged(tmp_path)) == sent


def test_filters_and_count_may_change_between_two_starts(tmp_path):
    with scripted_teacher() as server:
        verb.run(config(tmp_path, server, count=5))
        requests = len(server.bodies)
        verb.run(config(tmp_path, server, count=3, filters=Filters(min_words=2), teacher={"concurrency": 1}))
        assert len(server.bodies) == requests
    assert len(kept(tmp_path).records) == 3
