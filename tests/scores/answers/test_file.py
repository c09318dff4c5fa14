"""Files of answers in the shapes of the field, matched to the prompts of a set."""

import json

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.scores import prompts
from alpaca_jax.scores.answers import Answer, file
from alpaca_jax.scores.prompts import Prompt, PromptSet

ASKED = PromptSet("set", "set.jsonl", (Prompt.of("Add.", "1 2", id="p0"), Prompt.of("Name a river.", id="p1"), Prompt.of("Rest.", id="p2")))


def read(tmp_path, items, asked=ASKED, name="answers.jsonl"):
    path = tmp_path / name
    path.write_text(items if isinstance(items, str) else "\n".join(json.dumps(item) for item in items))
    return file.read(path, asked)


def texts(found):
    return {id: [answer.text for answer in answers] for id, answers in found.answers.items()}


def test_the_published_predictions_answer_all_252(data_dir):
    asked = prompts.read(data_dir / "user_oriented_instructions.jsonl")
    for name in ("text-davinci-003", "davinci"):
        found = file.read(data_dir / "self_instruct_predictions" / f"{name}.jsonl", asked)
        assert (found.name, len(found.answers), found.missing, found.notes) == (name, 252, (), ())
        assert list(found.answers) == [prompt.id for prompt in asked]
    assert found.prompts_fingerprint == asked.fingerprint


def test_alpaca_eval_s_answers_are_found_by_their_text_however_it_is_broken(tmp_path):
    items = [{"instruction": "Rest.", "output": " z", "generator": "m"}, {"instruction": "Add.\n1  2", "output": "3", "generator": "m"}]
    found = read(tmp_path, json.dumps(items), name="model_outputs.json")
    assert (found.name, found.model) == ("m", "m")
    assert texts(found) == {"p0": ["3"], "p2": [" z"]}
    assert found.missing == ("p1",)


def test_a_rendered_prompt_beside_an_id_is_not_compared(tmp_path):
    rendered = {"id": "p1", "prompt": "### Instruction:\nName a river.", "response": "Oder"}
    assert texts(read(tmp_path, [rendered, {"prompt": "Rest.", "completion": "z"}])) == {"p1": ["Oder"], "p2": ["z"]}


def test_fastchat_s_answers_have_turns_and_choices(tmp_path):
    asked = PromptSet("mt", "q.jsonl", (Prompt.of("a", later=("b",), id="81"),))
    choices = [{"index": 0, "turns": ["x", "y"]}, {"index": 1, "turns": ["u", "v"]}]
    line = {"question_id": 81, "answer_id": "k", "model_id": "vicuna", "choices": choices, "tstamp": 1.0}
    found = read(tmp_path, [line, {**line, "question_id": 99}], asked)
    assert found.answers == {"81": (Answer("x", 0, later=("y",)), Answer("u", 1, later=("v",)))}
    assert found.notes == ("answers to other prompts, left out: 1 (line 2)",)
    older = {"question_id": 81, "text": "x", "answer_id": "k", "model_id": "vicuna-7b", "metadata": {}}
    assert texts(read(tmp_path, [older], asked)) == {"81": ["x"]}


def test_our_own_file_reads_as_it_was_written(tmp_path):
    several = {"p0": [Answer("3", 4, "stop", 2, ("more",)), Answer("4", 5, "length", 9)], "p2": [Answer("", 4, "stop", 0)]}
    made = file.AnswerSet.of("own", "runs/x", ASKED, several, model="m")
    file.write(tmp_path / "own.jsonl", made)
    found = file.read(tmp_path / "own.jsonl", ASKED, "own")
    assert (found.source, found.model) == ("runs/x", "m")
    assert (found.name, found.answers, found.missing, found.notes) == ("own", made.answers, ("p1",), ())
    assert found.fingerprint == made.fingerprint
    assert file.read(tmp_path / "own.jsonl", ASKED.first(2)).notes == ("answers to other prompts, left out: 1 (line 4)",)
    changed = PromptSet("set", "set.jsonl", (Prompt.of("Something new.", id="p0"),))
    (note, _) = file.read(tmp_path / "own.jsonl", changed).notes
    assert note.startswith(f"made for another version of the prompts ({ASKED.fingerprint}, and this is {changed.fingerprint})")


def test_as_many_answers_to_every_prompt_are_seeds_and_one_more_is_doubled(tmp_path):
    lines = [{"id": id, "output": f"{id} {seed}"} for seed in range(2) for id in ("p0", "p1", "p2")]
    found = read(tmp_path, lines)
    assert [(answer.text, answer.seed) for answer in found.answers["p1"]] == [("p1 0", 0), ("p1 1", 1)]
    found = read(tmp_path, lines[:4])
    assert texts(found)["p0"] == ["p0 0"]
    assert found.notes == ("prompts answered twice, the first answer counts: 1 (p0)",)
    numbered = [{"id": "p0", "seed": seed, "output": str(seed)} for seed in (3, 1, 3)]
    assert [answer.seed for answer in read(tmp_path, numbered).answers["p0"]] == [1, 3]


def test_what_can_t_be_used_is_named_and_the_rest_goes_on(tmp_path):
    lines = [
        json.dumps({"id": "p0", "instruction": "Something else.", "output": "x"}),
        json.dumps({"id": "p1", "output": "Oder"}),
        json.dumps({"id": "p2", "output": 3}),
        json.dumps({"output": "x"}),
        '{"id": "p2", "output": "to',
    ]
    found = read(tmp_path, "\n".join(lines))
    assert texts(found) == {"p1": ["Oder"]} and found.missing == ("p0", "p2")
    others, damaged = found.notes
    assert others == "answers to other prompts, left out: 1 (line 1)"
    assert damaged.startswith(
        "damaged answers, left out: 3 (line 3: output must be a text, or a list of texts, got int, line 4: it says neither"
    )


def test_an_instruction_that_several_prompts_have_needs_its_input(tmp_path):
    asked = PromptSet("set", "s", (Prompt.of("Add.", "1 2", id="a"), Prompt.of("Add.", "3 4", id="b"), Prompt.of("Go.", "x", id="c")))
    lines = [
        {"instruction": "Add.", "output": "?"},
        {"instruction": "Add.", "input": "3 4", "output": "7"},
        {"instruction": "Go.", "output": "y"},
    ]
    found = read(tmp_path, lines, asked)
    assert texts(found) == {"b": ["7"], "c": ["y"]}
    assert found.notes == ("answers to an instruction that several prompts have, left out (give ids or inputs): 1 (line 1)",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"instruction": "Who?", "output": "x"}', r"answers other prompts: it has none to the 3 .* is to 'Who\?'"),
        ('{"id": "task_9", "output": "x"}', "Its first is to 'the id task_9', theirs is 'Add.'"),
        ("", "is empty"),
        ('{"id": "p0"', "holds no answer that can be read: line 1: not JSON"),
        ("not json at all", "holds no answer that can be read: line 1: not JSON"),
    ],
)
def test_a_file_without_one_answer_to_the_set_is_refused(tmp_path, content, said):
    with pytest.raises(UserError, match=said):
        read(tmp_path, content)


def test_two_models_in_one_file_are_said(tmp_path):
    lines = [{"id": "p0", "output": "x", "generator": "a"}, {"id": "p1", "output": "y", "generator": "b"}]
    found = read(tmp_path, lines)
    assert (found.name, found.notes) == ("answers", ("models in one file: 2 (a, b)",))
