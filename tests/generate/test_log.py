import json

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.generate.log import Log
from alpaca_jax.teacher.protocol import Answer, Request

REQUEST = Request(endpoint="chat", prompt="Hi", max_tokens=5, temperature=1.0, top_p=1.0, seed=3, stop=("x",))
ANSWER = Answer(text="Hö\u2028", finish_reason="stop", model="m", prompt_tokens=1, completion_tokens=2, seconds=0.5)
SETTINGS = {"method": "magpie", "seed": 0, "magpie.stop": ("x",)}


def test_what_is_appended_is_there_again(tmp_path):
    log = Log(tmp_path / "a.jsonl", SETTINGS)
    log.append(4, 0, REQUEST, ANSWER)
    log.append(4, 1, REQUEST, ANSWER)
    again = Log(tmp_path / "a.jsonl", SETTINGS)
    assert again.asked == [(REQUEST, ANSWER)] * 2
    assert again.indices == [4]
    assert len(again.answers(4)) == 2
    assert again.answers(5) == []


def test_fault_5_a_line_tells_how_an_answer_came_about(tmp_path):
    Log(tmp_path / "a.jsonl", SETTINGS).append(0, 0, REQUEST, ANSWER)
    line = json.loads((tmp_path / "a.jsonl").read_text().split("\n")[1])
    assert line["request"]["prompt"] == "Hi"
    assert line["request"]["seed"] == 3
    assert line["answer"] == {
        "text": "Hö\u2028", "finish_reason": "stop", "model": "m", "prompt_tokens": 1, "completion_tokens": 2, "seconds": 0.5,
    }  # fmt: skip


def test_a_torn_last_line_is_as_if_never_written(tmp_path):
    log = Log(tmp_path / "a.jsonl", SETTINGS)
    log.append(0, 0, REQUEST, ANSWER)
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write('{"index": 1, "step": 0, "requ')
    torn = Log(tmp_path / "a.jsonl", SETTINGS)
    assert torn.indices == [0]
    torn.append(1, 0, REQUEST, ANSWER)
    assert Log(tmp_path / "a.jsonl", SETTINGS).indices == [0, 1]


@pytest.mark.parametrize("line", ["{torn\n", "[1]\n", '{"index": 0}\n', '{"index": 0, "step": 3, "request": {}, "answer": {}}\n'])
def test_a_broken_line_in_the_middle_is_named(tmp_path, line):
    Log(tmp_path / "a.jsonl", SETTINGS)
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"a\.jsonl, line 2: not a line of an answers log"):
        Log(tmp_path / "a.jsonl", SETTINGS)


def test_other_settings_are_refused_by_name(tmp_path):
    Log(tmp_path / "a.jsonl", SETTINGS)
    with pytest.raises(UserError, match=r"seed: 0 there, 1 now"):
        Log(tmp_path / "a.jsonl", {**SETTINGS, "seed": 1})


def test_what_was_asked_and_never_answered_is_doubtful(tmp_path):
    log = Log(tmp_path / "a.jsonl", SETTINGS)
    log.note(0, 0, "may_cost", 0.25)
    log.append(0, 0, REQUEST, ANSWER)
    log.note(1, 0, "may_cost", 0.5)  # a timeout
    log.note(1, 0, "cost_at_most", 0.5)
    log.note(2, 0, "may_cost", 1.0)  # refused
    log.note(2, 0, "cost_at_most", 0.0)
    log.note(3, 0, "may_cost", 2.0)  # killed, asked again, killed again
    log.note(3, 0, "may_cost", 2.0)
    assert sum(Log(tmp_path / "a.jsonl", SETTINGS).doubtful) == 4.5
