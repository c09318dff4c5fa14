import pytest

from alpaca_jax.generate.config import Filters
from alpaca_jax.generate.filters import answer_problem, instruction_problem, is_broken, is_loop, is_refusal

FILTERS = Filters()


@pytest.mark.parametrize(
    ("instruction", "problem"),
    [
        ("Name a river", "short_instruction"),
        ("word " * 151, "long_instruction"),
        ("Draw a cat with two hats.", "not_text"),
        ("Please go to the shop for me.", "not_text"),
        ("Describe the photograph's paragraph in words.", None),
        ("Profile the user by what she buys.", None),
        ("- make a list of rivers", "odd_start"),
        ("Écris une lettre à ton ami.", "odd_start"),
        ("Write a program that adds numbers.", "write_a_program"),
        ("Rewrite this text: [insert text here]", "broken_instruction"),
        ("Explain <|im_start|> to a child.", "broken_instruction"),
        ("Tell me about rivers\ufffd in Asia.", "broken_instruction"),
        ("What is the capital of France?", None),
    ],
)
def test_instructions(instruction, problem):
    assert instruction_problem(instruction, FILTERS) == problem


def test_each_filter_can_be_turned_off():
    off = Filters(min_words=1, blocklist=(), plain_start=False, broken=False, refusals=False, cut=False)
    for text in ("Draw", "- x", "Écris", "Write a program that adds.", "[insert text]"):
        assert instruction_problem(text, off) is None
    assert answer_problem("I'm sorry, but I can't help with that. ```", cut=True, filters=off) is None


@pytest.mark.parametrize(
    "output",
    [
        "As an AI language model, I don't have feelings.",
        "I'm sorry, but I can\u2019t help with that.",
        "I am just an AI and have no body.",
        "Unfortunately, I am unable to see that.",
        "I cannot provide medical advice.",
        "Sure! Could you please provide the text?",
        "Please provide me with more details.",
    ],
)
def test_refusals(output):
    assert is_refusal(output)
    assert answer_problem(output, cut=False, filters=FILTERS) == "refusal"


@pytest.mark.parametrize(
    "output",
    [
        "I'm so sorry I was late yesterday, Anna.",
        "The cakes are so good that I can't help but eat them.",
        "AI is the study of machines that act with sense.",
        "A language model assigns a probability to text.",
    ],
)
def test_what_only_sounds_like_a_refusal(output):
    assert not is_refusal(output)


@pytest.mark.parametrize(
    "output",
    [
        "a\ufffdb",
        "x\x07y",
        "Fine.<|im_end|>",
        "### Response: fine",
        "```python\nprint(1)",
        "the same old words " * 12,
        "z" * 300,
        "\u0326" * 200,
    ],
)
def test_broken_text(output):
    assert is_broken(output)


@pytest.mark.parametrize(
    "output",
    [
        "```python\nprint(1)\n```",
        "1. Eat well.\n2. Sleep well.\n3. Walk a lot.",
        "東京は日本の首都です。人口は約千四百万人です。",
        "A row of 5 < 6, and 7 > 6.",
    ],
)
def test_sound_text(output):
    assert not is_broken(output)


def test_answers():
    assert answer_problem("It goes on and", cut=True, filters=FILTERS) == "cut"
    assert answer_problem(" ... ", cut=False, filters=FILTERS) == "empty"
    assert answer_problem("Paris.", cut=False, filters=FILTERS) is None


def test_the_filters_spare_published_records(data_dir):
    import json

    outputs = [record["output"] for record in json.loads((data_dir / "alpaca_data.json").read_text())[::10]]
    assert sum(map(is_loop, outputs)) < 0.005 * len(outputs)
    assert sum(map(is_refusal, outputs)) < 0.001 * len(outputs)
