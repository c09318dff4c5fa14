import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.generate.config import Config, Magpie, Sampling, SelfInstruct
from alpaca_jax.generate.methods import load_seeds, make, parse_tasks, request_seed
from alpaca_jax.teacher.config import TeacherConfig
from alpaca_jax.teacher.protocol import Answer, Request

LIST = """4. Instruction: Name a river.
4. Input: <noinput>
4. Output: The Rhine.
###
5. Instruction: Add the numbers.
5. Input: 1, 2
5. Output: 3
###
"""


def config(**more):
    return Config(dir="runs/x", teacher=TeacherConfig(model="m", base_url="http://127.0.0.1:1/v1", endpoint="completions"), **more)


def an_answer(text, finish_reason="stop"):
    return Answer(text=text, finish_reason=finish_reason, model="m", prompt_tokens=1, completion_tokens=1, seconds=0.1)


def texts(tasks):
    return [(task.instruction, task.input, task.output) for task in tasks]


def test_a_list_is_read():
    assert texts(parse_tasks(LIST, cut=False)) == [("Name a river.", "", "The Rhine."), ("Add the numbers.", "1, 2", "3")]


# The faults of the published generator, by their numbers in the reference.


def test_fault_1_a_separator_inside_an_output_belongs_to_it():
    text = LIST.replace("The Rhine.", "# Rivers\n###\nThe Rhine.\n### Lakes\nNone.")
    first, second = texts(parse_tasks(text, cut=False))
    assert first == ("Name a river.", "", "# Rivers\n###\nThe Rhine.\n### Lakes\nNone.")
    assert second == ("Add the numbers.", "1, 2", "3")


@pytest.mark.parametrize(("old", "new"), [("4.", "7."), ("5. Input", "6. Input"), ("5. Output", "Output"), ("5.", "4."), ("4. ", "**4. ")])
def test_fault_2_a_wrong_number_loses_nothing(old, new):
    assert texts(parse_tasks(LIST.replace(old, new), cut=False)) == texts(parse_tasks(LIST, cut=False))


def test_fault_3_no_stop_text_ends_a_number_in_an_answer_and_only_what_is_cut_is_marked():
    method = make(config(method="self_instruct"))
    request = method.advance(0, [], lambda text: False)
    assert isinstance(request, Request)
    assert request.stop == ()
    found = parse_tasks(LIST + "6. Instruction: Name the year.\n6. Input: <noinput>\n6. Output: It was 20", cut=True)
    assert [task.cut for task in found] == [False, False, True]
    early = parse_tasks(LIST + "6. Instruction: Name the ye", cut=True)
    assert [task.problem for task in early] == [None, None, "cut"]


def test_fault_4_requests_are_a_function_of_seed_and_index():
    one, same, other = (make(config(method="self_instruct", seed=seed)) for seed in (1, 1, 2))
    ask = [method.advance(3, [], lambda text: False) for method in (one, same, other)]
    assert ask[0] == ask[1]
    assert ask[0].seed != ask[2].seed
    assert ask[0].prompt != ask[2].prompt
    assert len({request_seed(0, index, step) for index in range(100) for step in (0, 1)}) == 200


def test_an_output_may_speak_of_outputs():
    text = "1. Instruction: Show the form.\n1. Input: Output: none yet\n1. Output: Input: a\nOutput: b\n"
    assert texts(parse_tasks(text, cut=False)) == [("Show the form.", "Output: none yet", "Input: a\nOutput: b")]


def test_a_task_without_output_and_a_text_without_task():
    assert parse_tasks("1. Instruction: Sing.\n2. Instruction: Say.\n2. Output: Hi", cut=False)[0].problem == "no_output"
    assert parse_tasks("I'd rather not.", cut=False) == []
    method = make(config(method="self_instruct"))
    assert [task.problem for task in method.advance(0, [an_answer("I'd rather not.")], lambda text: False)] == ["no_output"]


def test_self_instruct_shows_seeds_and_goes_on_from_them():
    method = make(config(method="self_instruct", self_instruct=SelfInstruct(shown=2, asked=5, max_tokens=500)))
    request = method.advance(0, [], lambda text: False)
    assert request.prompt.endswith("###\n3. Instruction:")
    assert request.prompt.count(". Instruction: ") == 2
    assert "varied list of 5 tasks" in request.prompt
    tasks = method.advance(0, [an_answer(" Name a lake.\n3. Input: <noinput>\n3. Output: Bodensee\n")], lambda text: False)
    assert texts(tasks) == [("Name a lake.", "", "Bodensee")]
    assert method.yields == 3


def test_magpie_writes_an_instruction_then_answers_it():
    magpie = Magpie(prefix="<user>", stop=("<end>",), openings=("", "Why do"), system="Be brief.")
    sampling = Sampling(temperature=0.3, instruction_temperature=0.8, max_tokens=50, instruction_max_tokens=20)
    method = make(config(method="magpie", magpie=magpie, sampling=sampling))
    first = method.advance(1, [], lambda text: False)
    assert (first.endpoint, first.prompt, first.stop, first.max_tokens, first.temperature) == (
        "completions",
        "<user>Why do",
        ("<end>",),
        20,
        0.8,
    )
    said = an_answer(" cats purr?\n")
    second = method.advance(1, [said], lambda text: False)
    assert (second.endpoint, second.prompt, second.system, second.max_tokens, second.temperature) == (
        "chat",
        "Why do cats purr?",
        "Be brief.",
        50,
        0.3,
    )
    assert first.seed != second.seed
    (task,) = method.advance(1, [said, an_answer("To calm.", "length")], lambda text: False)
    assert (task.instruction, task.output, task.cut) == ("Why do cats purr?", "To calm.", True)


def test_magpie_pays_for_no_answer_to_what_is_doomed_cut_or_unreadable():
    method = make(config(method="magpie", magpie=Magpie(prefix="<user>")))
    assert method.advance(0, [an_answer("Draw a cat now.")], lambda text: True)[0].instruction == "Draw a cat now."
    assert method.advance(0, [an_answer("Tell me of", "length")], lambda text: False)[0].problem == "cut_instruction"
    assert method.advance(0, [an_answer(None)], lambda text: False)[0].problem == "nonsense"


def test_magpie_through_completions():
    method = make(config(method="magpie", magpie=Magpie(prefix="<u>", turn="</u><a>", stop=("</a>",), answer="completions")))
    second = method.advance(0, [an_answer("Why?")], lambda text: False)
    assert (second.endpoint, second.prompt, second.stop) == ("completions", "<u>Why?</u><a>", ("</a>",))


def test_the_packaged_seeds_and_those_of_alpaca(data_dir):
    own = load_seeds(None)
    assert len(own) >= 24
    assert len({seed.instruction for seed in own}) == len(own)
    assert all(seed.output for seed in own)
    assert len(load_seeds(str(data_dir / "seed_tasks.jsonl"))) == 175


def test_a_broken_seeds_file_is_named(tmp_path):
    file = tmp_path / "seeds.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n{"instruction": "a"}\n')
    with pytest.raises(UserError, match=r"seeds\.jsonl, line 2: not a seed task"):
        load_seeds(str(file))
    with pytest.raises(UserError, match="no such file"):
        load_seeds(str(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"method": "magpie"}, "magpie.prefix is missing"),
        ({"method": "magpie", "magpie": Magpie(prefix="x", openings=())}, "openings is empty"),
        ({"method": "magpie", "magpie": Magpie(prefix="x", answer="completions")}, "magpie.turn is missing"),
        ({"count": 0}, "count=0: give 1 or more"),
        ({"self_instruct": SelfInstruct(shown=3, asked=3)}, "below self_instruct.asked"),
    ],
)
def test_settings_that_make_no_sense(more, said):
    with pytest.raises(ValueError, match=said):
        config(**more)


def test_magpie_needs_raw_completions():
    with pytest.raises(ValueError, match="hosted chat endpoints refuse that: use method=self_instruct"):
        Config(dir="x", method="magpie", teacher=TeacherConfig(model="gpt-5", key_env="K", endpoint="chat"), magpie=Magpie(prefix="x"))
