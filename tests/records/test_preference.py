"""Preference data: every shape that people have is read as the same record, and what can't be a preference is refused by what is wrong."""

import contextlib
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax import records
from alpaca_jax.data import origin
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record, preference, shapes


def user(text, **more):
    return {"role": "user", "content": text} | more


def says(text, **more):
    return {"role": "assistant", "content": text} | more


HH = "\n\nHuman: Q\n\nAssistant: x\n\nHuman: R\n\nAssistant:"
SHAREGPT = [{"from": "human", "value": "Q"}]


def made(item, noted=None):
    return shapes.record(item, "here", Counter() if noted is None else noted)


def refusal(item):
    with pytest.raises(ValueError) as raised:
        made(item)
    return str(raised.value)


@pytest.mark.parametrize(
    "item",
    [
        {"instruction": "Q", "output": "good", "rejected": "bad"},
        {"instruction": "Q", "input": "", "chosen": "good", "rejected": "bad"},
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"question": "Q", "chosen": "good", "rejected": "bad"},
        {"prompt": [user("Q")], "chosen": [says("good")], "rejected": [says("bad")]},
        {"prompt": "Q", "chosen": [user("Q"), says("good")], "rejected": [user("Q"), says("bad")]},
        {"prompt": "Q", "chosen": [says("good")], "rejected": [says("bad")]},
        {
            "prompt": "Q",
            "messages": [user("Q"), says("good")],
            "chosen": [user("Q"), says("good")],
            "rejected": [user("Q"), says("bad")],
        },
        {"chosen": [user("Q"), says("good")], "rejected": [user("Q"), says("bad")]},
        {"conversations": SHAREGPT, "chosen": {"from": "gpt", "value": "good"}, "rejected": {"from": "gpt", "value": "bad"}},
        {"messages": [user("Q"), says("good")], "rejected_response": "bad"},
        {"messages": [user("Q"), says("good")], "rejected_messages": [user("Q"), says("bad")]},
        {"input": {"messages": [user("Q")]}, "preferred_output": [says("good")], "non_preferred_output": [says("bad")]},
        {"chosen": "\n\nHuman: Q\n\nAssistant: good", "rejected": "\n\nHuman: Q\n\nAssistant: bad"},
        {"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": " good", "rejected": " bad"},
    ],
)
def test_pairs_in_every_shape_are_one_record(item):
    noted = Counter()
    assert made(item | {"score_chosen": 3.5, "rejected_score": 1, "margin": 2.5, "prompt_id": "x"}, noted) == Record(
        "Q", "", "good", rejected="bad"
    )
    assert not [name for name in noted if name.startswith("key ")]


@pytest.mark.parametrize(
    "item",
    [
        {"prompt": "Q", "completion": "A", "label": False},
        {"prompt": "Q", "completion": "A", "label": "0"},
        {"prompt": [user("Q")], "completion": [says("A")], "label": False},
        {"messages": [user("Q"), says("A")], "label": False},
        {"conversations": [user("Q"), says("A")], "kto_tag": False},
        {"instruction": "Q", "output": "A", "kto_label": "false"},
        {"instruction": "Q", "output": "A", "desired": False},
    ],
)
def test_marked_answers_in_every_shape_are_one_record(item):
    assert made(item) == Record("Q", "", "A", desired=False)
    mark = next(name for name in ("label", "kto_tag", "kto_label", "desired") if name in item)
    assert made(item | {mark: True}) == Record("Q", "", "A", desired=True)


def test_of_a_conversation_the_last_answers_differ():
    pair = Record("Q", "", "x", turns=(("R", "good"),), rejected="bad")
    said = [user("Q"), says("x"), user("R")]
    assert made({"chosen": [*said, says("good")], "rejected": [*said, says("bad")]}) == pair
    assert made({"prompt": said, "chosen": "good", "rejected": "bad"}) == pair
    assert made({"chosen": f"{HH} good", "rejected": f"{HH} bad"}) == pair
    assert made({"prompt": HH, "chosen": " good", "rejected": " bad"}) == pair
    assert made({"instruction": "Q", "output": "x", "turns": [["R", "good"]], "rejected": "bad"}) == pair
    assert made({"instruction": "R", "history": [["Q", "x"]], "chosen": "good", "rejected": "bad"}) == pair
    assert pair.answer == "good"
    assert pair.answering("other") == Record("Q", "", "x", turns=(("R", "other"),), shown=(0,), id=pair.id)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"chosen": [user("Q"), says("A")], "rejected": [user("P"), says("B")]}, "have different prompts: all before the last answer"),
        (
            {"chosen": [user("S", role="system"), user("Q"), says("A")], "rejected": [user("Q"), says("B")]},
            "have different prompts: all before the last answer",
        ),
        ({"prompt": "Q", "chosen": "A"}, "chosen without a rejected answer"),
        ({"prompt": "Q", "rejected": "A"}, "lacks the field instruction and output"),
        ({"chosen": "A", "rejected": "B"}, "chosen is an answer without its question"),
        ({"chosen": [says("A")], "rejected": [says("B")]}, "chosen is an answer without its question"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "label": True}, "label beside rejected"),
        ({"prompt": "Q", "chosen": 5, "rejected": "B"}, "chosen must be a text, or a list of turns"),
        ({"prompt": 5, "chosen": "A", "rejected": "B"}, "prompt must be a text, or a list of turns"),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "rejected_response": "C"}, "rejected and rejected_response are both there"),
        ({"prompt": "P", "question": "Q", "chosen": "A", "rejected": "B"}, "prompt and question are both there, and differ"),
        ({"instruction": "Q", "output": "A", "kto_tag": 0.5}, "kto_tag=0.5: an answer is wanted (true) or not (false)"),
        ({"instruction": "Q", "output": "A", "kto_tag": True, "desired": False}, "desired and kto_tag contradict each other"),
        ({"text": "T", "rejected": "B"}, "a text without an instruction has no better answer"),
        ({"prompt": "Q", "chosen": [says("A", reasoning="Hm.")], "rejected": [says("B")]}, "reasoning of a preferred or marked answer"),
        ({"messages": [user("Q"), says("A", rejected="B")]}, "turn 2 of messages, rejected: a preference is read of a whole record"),
    ],
)
def test_what_is_no_preference_is_refused_by_what_is_wrong(item, said):
    assert said in refusal(item)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(width=16) | st.text(max_size=4) | st.just("\n\nHuman: Q\n\nAssistant: A"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
TURNS = st.lists(st.just(user("Q")) | st.just(says("A")) | st.dictionaries(st.sampled_from(["role", "content", "from"]), JSON), max_size=3)
NAMES = sorted(preference.READ | {"instruction", "input", "output", "prompt", "messages", "conversations", "completion", "text", "turns"})


@settings(deadline=None, max_examples=50)
@given(st.fixed_dictionaries({}, optional={name: JSON | TURNS | st.just("Q") for name in NAMES}))
def test_any_value_is_a_preference_or_a_plain_error(item):
    with contextlib.suppress(ValueError):
        found = made(item)
        assert origin.restored({name: text.encode() for name, text in origin.stored(found).items()}) == found


def test_an_empty_answer_is_an_answer_only_in_a_pair():
    assert made({"prompt": "Q", "chosen": "A", "rejected": ""}) == Record("Q", "", "A", rejected="")
    assert made({"prompt": "Q", "chosen": "", "rejected": "B"}) == Record("Q", "", "", rejected="B")
    assert made({"instruction": "Q", "output": "A", "chosen": "", "rejected": "", "kto_tag": None}) == Record("Q", "", "A")


def test_a_label_of_a_class_is_no_mark():
    noted = Counter()
    assert made({"instruction": "Q", "output": "A", "label": 3}, noted) == Record("Q", "", "A") and noted["key label"] == 1


def test_preferences_are_written_read_back_and_part_of_the_id(tmp_path):
    kept = [
        Record("Q", "", "A", rejected="B"),
        Record("Q", "", "A"),
        Record("Q", "", "A", desired=False),
        Record("Q", "", "A", desired=True),
        Record("Q", "", "C", turns=(("R", "A"),), rejected="B"),
    ]
    records.write(tmp_path / "records.jsonl", kept)
    assert records.read(tmp_path).records == kept
    assert len({record.id for record in kept}) == len(kept)
    texts = [{name: text.encode() for name, text in origin.stored(record).items()} for record in kept]
    assert list(map(origin.restored, texts)) == kept


def test_answers_to_one_question_are_on_one_side_of_the_split():
    pair, other = Record("Q", "", "A", rejected="B"), Record("Q", "", "C", rejected="D")
    assert pair.text_id() == other.text_id() == Record("Q", "", "B", desired=False).text_id()
    assert pair.text_id() != Record("Q2", "", "A", rejected="B").text_id()
    assert Record("Q", "", "A").text_id() == Record("Q", "", "A").id  # as ever


def test_a_file_names_the_line_of_a_broken_pair(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "Q", "chosen": "A", "rejected": "B"}\n{"prompt": "Q", "chosen": "A"}\n')
    with pytest.raises(UserError, match=r"pairs\.jsonl, line 2: chosen without a rejected answer.*data\.on_error=skip"):
        records.read(file)
    assert records.read(file, "skip").skipped == 1
