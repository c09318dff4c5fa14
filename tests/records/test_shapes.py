"""What a record means: keys that are honoured, refused by name, harmless, or unknown and counted."""

import contextlib
import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax import records
from alpaca_jax.data import origin
from alpaca_jax.records import Record, keys, preference, shapes

ALPACA = {"instruction": "Add.", "input": "1 and 2", "output": "3"}


def made(item, noted=None):
    return shapes.record(item, "here", Counter() if noted is None else noted)


def talk(*turns, key="messages", **more):
    """A conversation of (text, other keys of the turn) or texts, user and assistant in turn."""
    said = [turn if isinstance(turn, tuple) else (turn, {}) for turn in turns]
    return {key: [{"role": ("user", "assistant")[place % 2], "content": text} | keys for place, (text, keys) in enumerate(said)]} | more


def refusal(item):
    with pytest.raises(ValueError) as raised:
        made(item)
    return str(raised.value)


def test_history_comes_before_the_instruction_and_is_learnt_as_in_llama_factory():
    found = made(ALPACA | {"system": "S", "history": [["Q1", "A1"], ["Q2", "A2"]]})
    assert found == Record("Q1", "", "A1", system="S", turns=(("Q2", "A2"), ("Add.\n1 and 2", "3"))) and not found.shown
    assert made(ALPACA | {"history": []}) == made(ALPACA | {"history": None}) == Record(**ALPACA)
    assert made(ALPACA | {"history": [["Q1", "A1"]], "turns": [["Q3", "A3"]]}).turns == (("Add.\n1 and 2", "3"), ("Q3", "A3"))
    assert "history must be a list of pairs" in refusal(ALPACA | {"history": [["Q"]]})
    assert "history beside messages isn't read" in refusal(talk("Q", "A", history=[["Q", "A"]]))


@pytest.mark.parametrize(
    "turn",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"train": False},
        {"trainable": False},
        {"loss": False},
        {"weight": 0, "train": False},
        {"weight": "0"},
    ],
)
def test_an_answer_may_be_shown_and_not_learnt(turn):
    noted = Counter()
    assert made(talk("Q", ("A", turn), "Q2", ("A2", {"weight": 1, "train": True})), noted).shown == (0,)
    assert noted["changed"] == 1
    assert made(talk(("Q", {"weight": 0}), ("A", {"weight": None, "train": True}))).shown == ()


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (talk("Q", ("A", {"weight": 0.5})), "turn 2 of messages, weight=0.5: an answer is learnt (1) or only shown (0)"),
        (talk("Q", ("A", {"weight": 1, "train": False})), "weight and train contradict each other"),
        (talk(("Q", {"train": True}), "A"), "turn 1 of messages is marked as learnt, and is by user"),
        (talk("Q", ("A", {"train_detail": [1]})), "train_detail: only whole answers"),
        (ALPACA | {"weight": 0}, "weight 0 or train false is learnt by nobody"),
        (ALPACA | {"weight": 2}, "weight=2: an answer is learnt"),
        (ALPACA | {"mask": "assistant"}, "mask='assistant': only the assistant's answers are learnt"),
    ],
)
def test_other_weights_are_refused(item, said):
    assert said in refusal(item)


def test_reasoning_is_kept_with_its_answer():
    found = made(talk("Q", ("A", {"reasoning_content": "Hm."}), "Q2", "A2"))
    assert found.reasoning == ("Hm.", "") and found.output == "A"
    assert made(ALPACA | {"reasoning": "Hm."}).reasoning == made(ALPACA | {"thinking": "Hm."}).reasoning == ("Hm.",)
    assert made(ALPACA | {"reasoning_content": ""}).reasoning == ()
    assert "is by user" in refusal(talk(("Q", {"thinking": "Hm."}), "A"))
    assert "say different things" in refusal(talk("Q", ("A", {"thinking": "Hm.", "reasoning": "Oh."})))
    assert "must be a string, got list" in refusal(talk("Q", ("A", {"reasoning_content": ["Hm."]})))


def test_what_is_shown_and_thought_is_written_read_back_and_part_of_the_id(tmp_path):
    kept = [Record("Q", "", "A", turns=(("Q2", "A2"),), shown=(0,), reasoning=("", "Hm.")), Record("Q", "", "A", turns=(("Q2", "A2"),))]
    records.write(tmp_path / "records.jsonl", kept)
    assert records.read(tmp_path).records == kept and kept[0].id != kept[1].id and kept[0].text_id() == kept[1].id
    assert "numbers of answers, from 0 to 0" in refusal(ALPACA | {"shown": [1]})
    assert "a list of 2 strings" in refusal(ALPACA | {"turns": [["Q", "A"]], "reasoning": "Hm."})


def test_turns_are_read_as_what_they_are_under_either_name():
    wanted = Record("Q", "", "A")
    sharegpt = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    assert made({"messages": sharegpt}) == made(talk("Q", "A", key="conversations")) == made({"conversations": sharegpt}) == wanted
    assert made({"messages": [turn | {"role": None, "content": None} for turn in sharegpt]}) == wanted  # a table with both columns
    assert made({"messages": [], "conversations": sharegpt}) == made({"messages": sharegpt, "conversations": None}) == wanted
    assert "role and from differ" in refusal({"messages": [{"role": "user", "from": "gpt", "content": "Q"}]})
    assert "content and value differ" in refusal({"messages": [{"role": "user", "value": "P", "content": "Q"}]})
    assert "messages and conversations are both there, and differ" in refusal({"messages": sharegpt, "conversations": sharegpt[:1]})


def test_parts_of_plain_text_are_joined_and_others_refused():
    parts = [{"type": "text", "text": "2+"}, {"text": "2?"}, " Well?"]
    assert made(talk(parts, [{"type": "text", "text": "4"}])) == Record("2+2? Well?", "", "4")
    for part in (
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "input_audio"},
        {"type": "thinking", "thinking": "x"},
        {"type": "tool_use"},
    ):
        assert f"a part of its content is '{part['type']}'" in refusal(talk([part], "A"))
    assert "a part of its content has no text" in refusal(talk([{"type": "text"}], "A"))


@pytest.mark.parametrize("key", keys.REFUSED)
def test_a_key_that_changes_the_meaning_is_refused_where_it_holds_something(key):
    for value in (None, "", [], {}, "[]", float("nan")):
        assert made(ALPACA | {key: value}) == Record(**ALPACA)
        assert made(talk("Q", ("A", {key: value}))) == Record("Q", "", "A")
    if key not in preference.READ:
        assert f"{key}: " in refusal(ALPACA | {key: [1]})
        assert f"{key}: " in refusal(talk("Q", "A", **{key: "x"}))
    assert f"turn 2 of messages, {key}: " in refusal(talk("Q", ("A", {key: {"x": 1}})))
    assert f"{key.upper()}: " in refusal(ALPACA | {key.upper(): 1})


@pytest.mark.parametrize("role", ["tool", "function", "function_call", "observation", "function-call", "ipython", "tool_response"])
def test_the_roles_of_tools_are_refused(role):
    item = {"conversations": [{"from": "human", "value": "Q"}, {"from": role, "value": "{}"}, {"from": "gpt", "value": "A"}]}
    assert f"turn 2 of conversations is by {role}: records with tools" in refusal(item)


def test_harmless_keys_pass_and_unknown_ones_are_counted():
    noted = Counter()
    harmless = {
        "id": 1,
        "source": "s",
        "score": 0.5,
        "category": "c",
        "lang": "no",
        "model_name": "m",
        "quality_score": 1,
        "num_turns": 2,
        "metadata": {"x": 1},
    }
    made(ALPACA | harmless, noted)
    assert not +noted
    made(ALPACA | {"wrapper": "x", "hint": None}, noted)
    made(ALPACA | {"labels": ["joy", "fear"]}, noted)
    made(talk("Q", ("A", {"name": "Bob", "timestamp": 3}), text="a template around it", prompt="Q"), noted)
    assert {key: count for key, count in noted.items() if key.startswith("key ")} == {
        "key wrapper": 1,
        "key labels": 1,
        "key messages[].name": 1,
        "key text": 1,
        "key prompt": 1,
    }


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ({"text": "What is grass?", "output": "A plant."}, "text and output"),
        ({"prompt": "Q", "completion": "A"}, "rename prompt to instruction and completion to output"),
        ({"question": "Q", "answer": "A"}, "rename question to instruction and answer to output"),
        (ALPACA | {"context": "C"}, "context: a text beside the instruction isn't read: rename it to input"),
        (talk("Q", "A", system="S", instruction="another"), "instruction is beside messages, and isn't a part of it"),
        ({"messages": [{"role": "system", "content": "S"}, *talk("Q", "A")["messages"]], "system": "T"}, "system and the system turn"),
        ({"role": "user", "content": "Q"}, "this is one turn of a conversation"),
        ([{"role": "user", "content": "Q"}], "a bare list of turns"),
    ],
)
def test_texts_that_would_be_left_out_are_refused(item, said):
    assert said in refusal(item)


@pytest.mark.parametrize("provenance", ["web crawl", ["a", "b"], 7, {"from": "x"}, None, ""])
def test_provenance_of_any_kind_is_kept(provenance, tmp_path):
    found = made(ALPACA | {"provenance": provenance})
    assert found.provenance == (provenance if isinstance(provenance, dict) else {"provenance": provenance} if provenance else {})
    records.write(tmp_path / "records.jsonl", [found])
    assert records.read(tmp_path).records == [found]
    assert json.dumps(found.provenance)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(width=16) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted(shapes.INSTRUCTION | {"messages", "conversations", "text", "mask", "label", "images", "chosen"})
TURN = st.dictionaries(st.sampled_from(["role", "content", "from", "value", "weight", "train", "tool_calls", "reasoning_content"]), JSON)
WHOLE = st.fixed_dictionaries(
    {},
    optional={name: JSON | st.just("Q") for name in NAMES}
    | {"messages": st.lists(TURN | st.just({"role": "user", "content": "Q"}), max_size=3)},
)


@settings(deadline=None, max_examples=60)
@given(JSON | WHOLE)
def test_any_value_is_a_record_or_a_plain_error(item):
    with contextlib.suppress(ValueError):
        found = made(item)
        assert origin.restored({name: text.encode() for name, text in origin.stored(found).items()}) == found
