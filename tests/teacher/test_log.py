import json
import tracemalloc
from dataclasses import asdict, replace

import pytest
from answer_logs import ANSWER, REPLY, REQUEST, SETTINGS, first_shard, opened
from hypothesis import given, settings
from hypothesis import strategies as st
from replies import received

from alpaca_jax.errors import UserError
from alpaca_jax.teacher import lines, reply
from alpaca_jax.teacher import log as module
from alpaca_jax.teacher.log import files
from alpaca_jax.teacher.protocol import Answer, Reply


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
    log.keep(4, 0, REQUEST, REPLY)
    log.keep(4, 1, REQUEST, received("Ho", usage=(1, 2)))
    for same in (log, again := opened(tmp_path)):
        assert list(same.asked(4)) == [(REQUEST, ANSWER), (REQUEST, answer("Ho"))]
        assert same.answers(4) == [ANSWER, answer("Ho")]
        assert same.answers(5) == same.answers(123_456_789) == []
        assert same.end == 5
    assert (again.bill.requests, again.bill.dollars) == (2, 6.0)
    assert (log.bill.requests, log.bill.dollars) == (0, 0.0)  # its own answers were charged by who asked


def test_fault_5_a_line_tells_how_an_answer_came_about(tmp_path):
    opened(tmp_path).keep(0, 0, REQUEST, REPLY)
    line = json.loads(first_shard(tmp_path).read_text().split("\n")[1])
    assert line["request"]["prompt"] == "Hi"
    assert line["request"]["seed"] == 3
    assert line["answer"] == {"body": REPLY.body.decode(), "model": "asked", "seconds": 0.5}


@pytest.mark.parametrize(
    "body", [b"\xff\xfe no text", b'{"choices": [{"message": {"content": "\\ud83d half"}}]}', b"[" * 100_000, b"", b"\x00\x1b[2J"]
)
def test_whatever_came_back_is_kept_byte_by_byte_before_it_is_read(tmp_path, body):
    opened(tmp_path).keep(0, 0, REQUEST, Reply(body=body, model="asked", seconds=0.5))
    again = opened(tmp_path)
    assert again.damaged == [] and again.end == 1
    ((request, found),) = again.asked(0)
    assert request == REQUEST and found == reply.read(Reply(body=body, model="asked", seconds=0.5), REQUEST)
    assert found.text in (None, "\ufffd half")


def test_a_shard_holds_a_range_of_indices_and_says_the_settings(tmp_path):
    log = opened(tmp_path)
    for index in (2000, 0, 999, 1000, 123_456_789):
        log.keep(index, 0, REQUEST, received(str(index), usage=(1, 2)))
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
        log.keep(index, 0, REQUEST, REPLY)
    shard = first_shard(folder)
    whole = shard.read_bytes()
    size = data.draw(st.integers(0, len(whole)))
    shard.write_bytes(whole[:size])
    # A line that lacks nothing but its end of line counts.
    lines = [line for line in whole[:size].split(b"\n") if line in whole.split(b"\n")]
    number, noted = sum(b"answer" in line for line in lines), sum(b"may_cost" in line for line in lines)
    cut = opened(folder)
    assert cut.end == number
    assert cut.bill.doubtful == 0.25 * (noted - number)
    for index in range(number, 3):
        cut.keep(index, 0, REQUEST, REPLY)
    again = opened(folder)
    assert [again.answers(index) for index in range(4)] == [[ANSWER]] * 3 + [[]]
    assert all(json.loads(line) for line in shard.read_bytes().splitlines())


def old_line(index, step, **changes):
    return json.dumps({"index": index, "step": step, "request": asdict(REQUEST), "answer": {**asdict(ANSWER), **changes}})


@pytest.mark.parametrize(
    "line",
    [
        "{torn",
        "[1]",
        '{"index": 0}',
        '{"index": 0, "step": 0, "request": {}, "answer": {}}',
        old_line(1000, 0),  # of another shard
        old_line(-1, 0),
        old_line(True, 0),
        old_line(0, 0, text=3),
        old_line(0, 0).replace('"max_tokens": 5', '"max_tokens": -5'),
        old_line(0, 0).replace('"seed": 3', '"seed": "3"'),
        old_line(0, 0).replace('"earlier": []', '"earlier": [["only the user"]]'),
        '{"index": 0, "step": 0, "may_cost": NaN}',
        '{"index": 0, "step": 0, "cost_at_most": -2}',
        '{"index": 0, "step": 0, "may_cost": "1"}',
        '{"index": 0, "step": 0, "answer": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"index": 0, "step": 0, "text": "\\ud800"}',
        "\x00" * 50,
    ],
)
def test_a_damaged_line_is_named_and_passed_over(tmp_path, line):
    log = opened(tmp_path)
    log.keep(5, 0, REQUEST, received("before", usage=(1, 1)))
    with open(first_shard(tmp_path), "a") as file:
        file.write(line + "\n")
    opened(tmp_path).keep(6, 0, REQUEST, received("after", usage=(1, 1)))
    again = opened(tmp_path)
    (said,) = again.damaged
    assert "00000000.jsonl, line 3: " in said
    assert [answer.text for index in range(7) for answer in again.answers(index)] == ["before", "after"]
    assert (again.bill.requests, again.bill.dollars, again.bill.doubtful) == (2, 4.0, 0.0)


@pytest.mark.parametrize("count", ["2", True, -1, 1.0, float("nan"), 10**30, None, 0])
def test_counts_that_are_none_cost_the_most_and_the_text_counts(tmp_path, count):
    opened(tmp_path)
    with open(first_shard(tmp_path), "a") as file:
        file.write(old_line(0, 0, completion_tokens=count) + "\n")
    again = opened(tmp_path)
    assert again.damaged == [] and [answer.text for answer in again.answers(0)] == ["Hö\u2028"]
    assert again.bill.dollars == again.bill.worst(REQUEST) and again.bill.unbelieved == 1


def test_a_damaged_answer_that_was_paid_is_doubtful(tmp_path):
    log = opened(tmp_path)
    log.note(0, 0, "may_cost", 0.25)
    log.keep(0, 0, REQUEST, REPLY)
    whole = first_shard(tmp_path).read_text()
    first_shard(tmp_path).write_text(whole.replace('{"body"', '{"body'))
    again = opened(tmp_path)
    assert len(again.damaged) == 1 and again.answers(0) == []
    assert (again.bill.requests, again.bill.dollars, again.bill.doubtful) == (1, 0.0, 0.25)


def asks(index, answers):
    """Two steps; the second asks about the first's answer."""
    if len(answers) == 2:
        return [answer.text for answer in answers]
    return replace(REQUEST, prompt=f"Tell me about {answers[0].text}" if answers else "Name a thing")


def test_lines_that_stand_apart_answer_only_what_they_were_asked(tmp_path):
    first, about_a, about_b = (asks(0, answers) for answers in ([], [answer("a")], [answer("b")]))
    log = opened(tmp_path)
    # Two processes wrote at once: the second's lines stand between.
    for step, request, text in ((0, first, "a"), (0, first, "b"), (1, about_b, "B"), (1, about_a, "A")):
        log.keep(0, step, request, received(text, usage=(4, 1)))
    for same in (log, opened(tmp_path)):
        assert same.follow(0, asks)[1] == ["a", "A"]
    assert opened(tmp_path).bill.requests == 4  # all of them were paid for


def test_a_later_step_outlives_its_damaged_first_one(tmp_path):
    first, about_a = asks(0, []), asks(0, [answer("a")])
    log = opened(tmp_path)
    log.keep(0, 0, first, received("a", usage=(4, 1)))
    log.keep(0, 1, about_a, received("A", usage=(4, 1)))
    lines = first_shard(tmp_path).read_text().split("\n")
    for again, answers in (("a", ["a", "A"]), ("c", None)):
        first_shard(tmp_path).write_text("\n".join([lines[0], "{broken", *lines[2:]]))
        log = opened(tmp_path)
        assert log.follow(0, asks) == ([], first)  # only this one is asked again
        log.keep(0, 0, first, received(again, usage=(4, 1)))
        for same in (log, opened(tmp_path)):
            found = same.follow(0, asks)[1]
            assert found == (answers or asks(0, [answer("c")]))


def test_settings_that_are_damaged_are_asked_for(tmp_path):
    opened(tmp_path).keep(0, 0, REQUEST, REPLY)
    shard = first_shard(tmp_path)
    settings, rest = shard.read_text().split("\n", 1)
    shard.write_text("{torn\n" + rest)
    with pytest.raises(UserError, match=r"00000000\.jsonl, line 1: not the settings") as raised:
        opened(tmp_path)
    assert str(raised.value).endswith("\n" + settings)


class FullDisk:
    """Appends to files until `room` bytes are used; a reserve in the folder is room as well, once it is gone."""

    def __init__(self, monkeypatch, folder, room):
        self._folder, self._room, self._real = folder, room, module.append_line
        monkeypatch.setattr(module, "append_line", self)

    def __call__(self, path, line):
        used = sum(file.stat().st_size for file in self._folder.glob("*.jsonl")) + len(line)
        if used > self._room + (0 if (self._folder / ".reserve").exists() else 4000):
            raise UserError(f"{path}: the disk is full")
        return self._real(path, line)


def test_answers_in_flight_are_saved_in_the_room_that_was_kept(tmp_path, monkeypatch):
    log = opened(tmp_path)
    with log.reserving(4):
        FullDisk(monkeypatch, tmp_path, 1000)
        for index in range(4):
            log.keep(index, 0, REQUEST, REPLY)
        with pytest.raises(UserError, match=r"disk is full.*Nothing more was asked"):
            log.note(4, 0, "may_cost", 1.0)
    assert [answer.text for index in range(4) for answer in opened(tmp_path).answers(index)] == [ANSWER.text] * 4
    assert not (tmp_path / ".reserve").exists()


def fill(log, monkeypatch, folder):
    with log.reserving(4):
        FullDisk(monkeypatch, folder, -3000)
        for index in range(4):
            log.keep(index, 0, REQUEST, REPLY)


def test_what_finds_no_room_there_is_kept_elsewhere_for_the_next_start(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    log = opened(tmp_path / "answers")
    log.note(3, 0, "may_cost", 0.25)
    with (
        monkeypatch.context() as patch,
        pytest.raises(UserError, match=r"found no room there: they are in (.*\.jsonl), from where") as raised,
    ):
        fill(log, patch, tmp_path / "answers")
    lost = 4 - sum(bool(log.answers(index)) for index in range(4))
    assert lost > 0 and f"{lost} answers, which cost {3 * lost}.0" in str(raised.value)
    for _ in range(2):
        again = opened(tmp_path / "answers")
        assert [again.answers(index) for index in range(4)] == [[ANSWER]] * 4
        assert (again.bill.requests, again.bill.dollars, again.bill.doubtful) == (4, 12.0, 0.0)
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file()]


def test_what_finds_no_room_at_all_is_said_with_its_cost(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    log = opened(tmp_path / "answers")
    with pytest.raises(
        UserError, match=r"disk is full\. \d answers, which cost \d+\.000000 dollars, found no room there nor in .* are lost"
    ):
        fill(log, monkeypatch, tmp_path / "answers")


def test_what_is_in_memory_alone_is_saved_once_there_is_room(tmp_path, monkeypatch):
    log = opened(tmp_path)
    with log.reserving(4), monkeypatch.context() as patch:
        FullDisk(patch, tmp_path, -4000)
        log.keep(0, 0, REQUEST, REPLY)
        assert log.answers(0) == []
    assert opened(tmp_path).answers(0) == [ANSWER]


def test_other_settings_are_refused_by_name(tmp_path):
    opened(tmp_path)
    with pytest.raises(UserError, match=r"seed: 0 there, 1 now"):
        opened(tmp_path, {**SETTINGS, "seed": 1})


def test_a_shard_of_other_settings_is_refused(tmp_path):
    opened(tmp_path / "a")
    opened(tmp_path / "b", {**SETTINGS, "seed": 1}).keep(1000, 0, REQUEST, REPLY)
    (tmp_path / "b" / "00001000.jsonl").rename(tmp_path / "a" / "00001000.jsonl")
    with pytest.raises(UserError, match=r"00001000\.jsonl holds the answers of another run:\s+seed: 1 there, 0 now"):
        opened(tmp_path / "a")


def test_what_was_asked_and_never_answered_is_doubtful(tmp_path):
    log = opened(tmp_path)
    log.note(0, 0, "may_cost", 0.25)
    log.keep(0, 0, REQUEST, REPLY)
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
    assert (log.end, log.bill.requests, log.bill.doubtful) == (1002, 4, 0.5)
    log.note(0, 1, "may_cost", 0.5)
    log.keep(0, 1, REQUEST, received("d", usage=(1, 2)))
    log.keep(2, 0, REQUEST, received("e", usage=(1, 2)))
    log.keep(1001, 1, REQUEST, received("f", usage=(1, 2)))
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
    log.keep(0, 0, REQUEST, REPLY)
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


def test_a_line_without_end_is_passed_over(tmp_path, monkeypatch):
    opened(tmp_path).keep(0, 0, REQUEST, REPLY)
    with open(first_shard(tmp_path), "a") as file:
        file.write("x" * 10_000 + "\n")
    opened(tmp_path).keep(1, 0, REQUEST, REPLY)
    monkeypatch.setattr(lines, "LONGEST", 1000)
    log = opened(tmp_path)
    assert log.damaged == [f"{first_shard(tmp_path)}, line 3: longer than 1,000 bytes"]
    assert log.answers(0) == log.answers(1) == [ANSWER]


def test_a_log_that_is_no_file_is_the_users(tmp_path):
    first_shard(tmp_path).mkdir()
    with pytest.raises(UserError, match=r"00000000\.jsonl can't be read \(Is a directory\)"):
        opened(tmp_path)
