import json
import tracemalloc
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.errors import UserError
from alpaca_jax.teacher import log as module
from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.config import Prices
from alpaca_jax.teacher.log import AnswerLog, files
from alpaca_jax.teacher.protocol import Answer, Request

REQUEST = Request(endpoint="chat", prompt="Hi", max_tokens=5, temperature=1.0, top_p=1.0, seed=3, stop=("x",))
ANSWER = Answer(text="Hö\u2028", finish_reason="stop", model="m", prompt_tokens=1, completion_tokens=2, seconds=0.5)
SETTINGS = {"method": "magpie", "seed": 0, "magpie.stop": ("x",)}
PRICES = Prices(prompt=1e6, completion=1e6, source="a dollar a token")


def opened(folder, given=SETTINGS, older=None):
    return AnswerLog(folder, given, Bill(PRICES), older)


def first_shard(folder):
    return folder / "00000000.jsonl"


def answer(text):
    return Answer(**{**asdict(ANSWER), "text": text})


def older_lines(*content):
    """Such a file as logs used to be: settings, then notes as they are and answers from (index, step, text)."""
    lines = [{"settings": json.loads(json.dumps(SETTINGS))}]
    for each in content:
        if isinstance(each, tuple):
            index, step, text = each
            each = {"index": index, "step": step, "request": asdict(REQUEST), "answer": asdict(answer(text))}
        lines.append(each)
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def test_what_is_appended_is_there_again(tmp_path):
    log = opened(tmp_path)
    log.append(4, 0, REQUEST, ANSWER)
    log.append(4, 1, REQUEST, answer("Ho"))
    for same in (log, again := opened(tmp_path)):
        assert list(same.asked(4)) == [(REQUEST, ANSWER), (REQUEST, answer("Ho"))]
        assert same.answers(4) == [ANSWER, answer("Ho")]
        assert same.answers(5) == same.answers(123_456_789) == []
        assert same.end == 5
    assert (again.bill.requests, again.bill.dollars) == (2, 6.0)
    assert (log.bill.requests, log.bill.dollars) == (0, 0.0)  # its own answers were charged by who asked


def test_fault_5_a_line_tells_how_an_answer_came_about(tmp_path):
    opened(tmp_path).append(0, 0, REQUEST, ANSWER)
    line = json.loads(first_shard(tmp_path).read_text().split("\n")[1])
    assert line["request"]["prompt"] == "Hi"
    assert line["request"]["seed"] == 3
    assert line["answer"] == {
        "text": "Hö\u2028", "finish_reason": "stop", "model": "m", "prompt_tokens": 1, "completion_tokens": 2, "seconds": 0.5,
    }  # fmt: skip


def test_a_shard_holds_a_range_of_indices_and_says_the_settings(tmp_path):
    log = opened(tmp_path)
    for index in (2000, 0, 999, 1000, 123_456_789):
        log.append(index, 0, REQUEST, answer(str(index)))
    shards = files(tmp_path)
    assert [path.name for path in shards] == ["00000000.jsonl", "00001000.jsonl", "00002000.jsonl", "123456000.jsonl"]
    assert [path.read_text().count("\n") for path in shards] == [3, 2, 2, 2]
    assert all("settings" in json.loads(path.read_text().split("\n")[0]) for path in shards)
    again = opened(tmp_path)
    assert [again.answers(index)[0].text for index in (0, 999, 1000, 2000, 123_456_789)] == ["0", "999", "1000", "2000", "123456789"]
    assert again.end == 123_456_790


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_log_cut_at_any_byte_holds_what_was_whole_and_goes_on(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("log")
    log = opened(folder)
    for index in range(3):
        log.note(index, 0, "may_cost", 0.25)
        log.append(index, 0, REQUEST, ANSWER)
    shard = first_shard(folder)
    whole = shard.read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    shard.write_bytes(whole[:size])
    # A line that lacks nothing but its end of line counts.
    lines = [line for line in whole[:size].split(b"\n") if line.endswith((b"}}", b"25}"))]
    number, noted = sum(b"answer" in line for line in lines), sum(b"may_cost" in line for line in lines)
    cut = opened(folder)
    assert cut.end == number
    assert cut.bill.doubtful == 0.25 * (noted - number)
    for index in range(number, 3):
        cut.append(index, 0, REQUEST, ANSWER)
    again = opened(folder)
    assert [again.answers(index) for index in range(4)] == [[ANSWER]] * 3 + [[]]
    assert all(json.loads(line) for line in shard.read_bytes().splitlines())


@pytest.mark.parametrize(
    "line",
    [
        "{torn\n",
        "[1]\n",
        '{"index": 0}\n',
        '{"index": 0, "step": 3, "request": {}, "answer": {}}\n',
        older_lines((0, 1, "step 0 is missing")).split("\n")[1] + "\n",
        older_lines((1000, 0, "of another shard")).split("\n")[1] + "\n",
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, line):
    opened(tmp_path)
    with open(first_shard(tmp_path), "a") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"00000000\.jsonl, line 2: not a line of an answers log"):
        opened(tmp_path)


def test_other_settings_are_refused_by_name(tmp_path):
    opened(tmp_path)
    with pytest.raises(UserError, match=r"seed: 0 there, 1 now"):
        opened(tmp_path, {**SETTINGS, "seed": 1})


def test_a_shard_of_other_settings_is_refused(tmp_path):
    opened(tmp_path / "a")
    opened(tmp_path / "b", {**SETTINGS, "seed": 1}).append(1000, 0, REQUEST, ANSWER)
    (tmp_path / "b" / "00001000.jsonl").rename(tmp_path / "a" / "00001000.jsonl")
    with pytest.raises(UserError, match=r"00001000\.jsonl holds the answers of another run:\s+seed: 1 there, 0 now"):
        opened(tmp_path / "a")


def test_what_was_asked_and_never_answered_is_doubtful(tmp_path):
    log = opened(tmp_path)
    log.note(0, 0, "may_cost", 0.25)
    log.append(0, 0, REQUEST, ANSWER)
    log.note(1, 0, "may_cost", 0.5)  # a timeout
    log.note(1, 0, "cost_at_most", 0.5)
    log.note(2, 0, "may_cost", 1.0)  # refused
    log.note(2, 0, "cost_at_most", 0.0)
    log.note(3000, 0, "may_cost", 2.0)  # killed, asked again, killed again
    log.note(3000, 0, "may_cost", 2.0)
    assert opened(tmp_path).bill.doubtful == 4.5


def test_a_log_in_one_file_is_one_more_shard_that_is_never_written(tmp_path):
    older, folder = tmp_path / "answers.jsonl", tmp_path / "answers"
    older.write_text(older_lines((1001, 0, "a"), (0, 0, "b"), {"index": 0, "step": 1, "may_cost": 0.5}, (1, 0, "c")) + '{"torn')
    before = older.read_bytes()
    log = opened(folder, older=older)
    assert not folder.exists()
    assert [[answer.text for answer in log.answers(index)] for index in (0, 1, 2, 1001)] == [["b"], ["c"], [], ["a"]]
    assert (log.end, log.bill.requests, log.bill.doubtful) == (1002, 3, 0.5)
    log.note(0, 1, "may_cost", 0.5)
    log.append(0, 1, REQUEST, answer("d"))
    log.append(2, 0, REQUEST, answer("e"))
    log.append(1001, 1, REQUEST, answer("f"))
    for same in (log, opened(folder, older=older)):
        texts = [[answer.text for answer in same.answers(index)] for index in (0, 1, 2, 1001)]
        assert texts == [["b", "d"], ["c"], ["e"], ["a", "f"]]
        assert same.bill.doubtful == 0.5
    assert files(folder, older) == [older, folder / "00000000.jsonl", folder / "00001000.jsonl"]
    assert older.read_bytes() == before


def test_a_log_in_one_file_that_was_killed_before_its_settings_holds_nothing(tmp_path):
    older = tmp_path / "answers.jsonl"
    older.write_text('{"settings": {"se')
    log = opened(tmp_path / "answers", older=older)
    log.append(0, 0, REQUEST, ANSWER)
    assert opened(tmp_path / "answers", older=older).answers(0) == [ANSWER]


def test_a_log_is_opened_in_far_less_memory_than_its_size(tmp_path):
    number, older, folder = 4 * module.SHARD, tmp_path / "answers.jsonl", tmp_path / "answers"
    settings, *lines = older_lines(*((index, 0, "long " * 300) for index in range(number))).splitlines(keepends=True)
    older.write_text("".join([settings, *lines[: number // 2]]))
    folder.mkdir()
    for first in range(number // 2, number, module.SHARD):
        (folder / f"{first:08d}.jsonl").write_text("".join([settings, *lines[first : first + module.SHARD]]))
    del lines
    tracemalloc.start()
    try:
        log = opened(folder, older=older)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert log.end == log.bill.requests == number
    assert log.answers(0)[0].text == log.answers(number - 1)[0].text == "long " * 300
    size = sum(path.stat().st_size for path in files(folder, older))
    assert kept < size / 100 and peak < size / 50
