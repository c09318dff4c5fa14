import pytest

from alpaca_jax.scores.statistics import answer_flags, family, judge_flags


def kinds(answers):
    return {flag.kind: flag for flag in answer_flags("m", answers)}


def test_one_answer_to_everything_is_flagged():
    found = kinds(["I can't help."] * 10)
    assert found["constant answer"].value == 1
    assert "one and the same answer to 10 of 10 prompts (1 distinct answers)" in found["constant answer"].sentence
    nearly = kinds(["No."] * 7 + ["One.", "Two.", "Three."])
    assert nearly["nearly constant answer"].value == 0.7 and "4 distinct" in nearly["nearly constant answer"].sentence
    assert kinds([f"Answer {number}." for number in range(10)]) == {}


def test_empty_answers_are_counted():
    assert kinds(["", "  \n", "yes"])["empty answers"].sentence == "2 of 3 answers of m are empty."
    assert answer_flags("m", []) == ()


@pytest.mark.parametrize(
    "answer", ["Answer A is better.", "I say that output (b) wins", "Assistant A should be preferred", 'response "B" was correct']
)
def test_an_answer_that_speaks_to_the_judge_is_flagged(answer):
    assert "names the labels" in kinds([answer, "fine"])


@pytest.mark.parametrize(
    "answer", ["A is the first letter.", "Vitamin B is good", "The answer is A.", "Model Airplanes are fun", "Option B: the train"]
)
def test_a_letter_alone_is_not(answer):
    assert kinds([answer, "fine"]) == {}


def test_a_judge_that_is_the_teacher_or_of_its_family_is_flagged():
    [same] = judge_flags("openai/gpt-4o-2024-08-06", {"teacher": "gpt-4o"})
    assert same.kind == "the judge is the teacher"
    [kin] = judge_flags("gpt-4.1", {"teacher": "text-davinci-003", "model": "alpaca-7b"})
    assert kin.kind == "the judge is of the teacher's family" and "(GPT)" in kin.sentence
    assert judge_flags("runs/one/hf", {"teacher": "runs/two/hf"}) == (), "two folders are two models"
    assert judge_flags("claude-3-5-sonnet", {"teacher": "gpt-4o", "model": "some-student"}) == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/Llama-2-7b-chat-hf", "Llama"),
        ("llama3.1:8b", "Llama"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM"),
        ("Qwen2.5-7B-Instruct", "Qwen"),
        ("gpt4_1106_preview", "GPT"),
        ("o3-mini", "GPT"),
        ("mixtral-8x7b", "Mistral"),
        ("my-model", ""),
    ],
)
def test_a_family_is_read_from_the_name(name, expected):
    assert family(name) == expected
