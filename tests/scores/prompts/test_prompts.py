"""Prompt sets in the shapes of the field: ids, texts, fingerprints, and what is said of a broken file."""

import json

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.scores import prompts


def written(tmp_path, content, name="set.jsonl"):
    path = tmp_path / name
    lines = content if isinstance(content, str) else "\n".join(json.dumps(line) for line in content)
    path.write_text(lines)
    return path


def test_self_instruct_s_252_keep_their_ids_and_join_instruction_and_input(data_dir):
    found = prompts.read(data_dir / "user_oriented_instructions.jsonl")
    assert (len(found), found.notes) == (252, ())
    first = found.by_id["user_oriented_task_0"]
    assert first.turns == (f"{first.instruction}\n\n{first.input}",)
    assert first.input.startswith("If you have any questions") and first.source["motivation_app"] == "Grammarly"
    assert found.fingerprint == prompts.read(data_dir / "user_oriented_instructions.jsonl").fingerprint


def test_each_instance_of_a_task_is_a_prompt(tmp_path):
    instances = [{"input": "3", "output": "odd"}, {"input": "", "output": "?"}]
    found = prompts.read(written(tmp_path, [{"id": "seed_1", "instruction": "Odd or even?", "instances": instances}]))
    assert [(prompt.id, prompt.turns) for prompt in found] == [("seed_1/0", ("Odd or even?\n\n3",)), ("seed_1/1", ("Odd or even?",))]


def test_alpaca_eval_s_prompts_have_hashes_as_ids(tmp_path):
    items = [{"instruction": f"Ask {n}", "output": "x", "generator": "g", "dataset": "koala"} for n in range(3)]
    found = prompts.read(written(tmp_path, json.dumps(items), "alpaca_eval.json"))
    assert [prompt.instruction for prompt in found] == ["Ask 0", "Ask 1", "Ask 2"]
    assert {len(prompt.id) for prompt in found} == {16} and found.prompts[0].source["dataset"] == "koala"
    assert found.name == "alpaca_eval"


def test_mt_bench_has_follow_up_turns_and_vicuna_a_text(tmp_path):
    items = [
        {"question_id": 81, "category": "writing", "turns": ["Write a post.", "Now shorter."]},
        {"question_id": 1, "text": "How?", "category": "generic"},
        {"question_id": "6f", "turns": [{"content": "Arena?"}]},
    ]
    mt, vicuna, arena = prompts.read(written(tmp_path, items))
    assert (mt.id, mt.turns, mt.source) == ("81", ("Write a post.", "Now shorter."), {"category": "writing"})
    assert (vicuna.id, vicuna.turns, arena.turns) == ("1", ("How?",), ("Arena?",))


def test_records_conversations_and_plain_texts(tmp_path):
    items = [
        {"id": "a", "instruction": "Add.", "input": "1 2", "output": "3", "system": "Be short."},
        {"messages": [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]},
        "Just a text.",
    ]
    record, chat, text = prompts.read(written(tmp_path, items))
    assert (record.id, record.turns, record.system) == ("a", ("Add.\n\n1 2",), "Be short.")
    assert chat.turns == ("a", "c")
    assert text.turns == ("Just a text.",)
    listed = prompts.read(written(tmp_path, "One.\n\nTwo.\n", "list.txt"))
    assert [prompt.instruction for prompt in listed] == ["One.", "Two."]
    assert [prompt.id for prompt in prompts.read(written(tmp_path, ["One.", "Two."]))] == [prompt.id for prompt in listed]


def test_what_stands_there_twice_is_named(tmp_path):
    found = prompts.read(written(tmp_path, ["a", "b", " a ", {"id": "own", "instruction": "b"}, "a"]))
    assert [prompt.instruction for prompt in found] == ["a", "b", " a ", "b"]
    assert found.notes == (
        f"{found.prompts[2].id} has the text of {found.prompts[0].id}",
        f"own has the text of {found.prompts[1].id}",
        "line 5 repeats line 1 and is taken once",
    )
    same = written(tmp_path, [{"id": 1, "instruction": "a"}, {"id": "1", "instruction": "b"}])
    with pytest.raises(UserError, match=r"set\.jsonl, line 2: the id '1' is that of another prompt in line 1"):
        prompts.read(same)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no prompt"),
        ("[1, 2]", "record 1: a prompt is due: a text or a JSON object, and this is int"),
        ('"a"\n{"instruction": ', "line 2: not JSON"),
        ('{"output": "x"}', r"line 1: it holds none of instruction, prompt, .* \(it has: output\)"),
        ('{"instruction": " "}', "instruction must be a text that isn't empty"),
        ('{"question_id": 1, "turns": []}', "turns must be a list of what the user says"),
        ('{"instruction": "a", "instances": [3]}', "instances must be a list of objects"),
        ('{"instruction": "a", "input": 3}', "input must be a text, got int"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, content, said):
    with pytest.raises(UserError, match=said) as error:
        prompts.read(written(tmp_path, content))
    assert str(error.value).startswith(f"answers.prompts: {tmp_path}/set.jsonl")


def test_a_place_without_a_file_is_said(tmp_path):
    with pytest.raises(UserError, match=r"answers\.prompts: there is no file .*nothing\.json"):
        prompts.read(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="is a folder; give the file in it"):
        prompts.read(tmp_path)


def test_the_fingerprint_follows_texts_and_order_and_the_first_prompts_remember_the_whole(tmp_path):
    one, other = (prompts.read(written(tmp_path, texts)) for texts in (["a", "b"], ["b", "a"]))
    assert one.fingerprint != other.fingerprint
    assert one.first(None) is one.first(2) is one
    assert (len(one.first(1)), one.first(1).whole) == (1, one.fingerprint)
    assert one.first(1).fingerprint != one.fingerprint
