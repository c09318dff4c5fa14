"""The strict and the lenient rule, on answers as models give them."""

import pytest

from alpaca_jax.scores.suites.basics.item import Question, lenient, strict

NUMBER = Question("What is 7 + 5?", "12", ("11", "13", "22"), "number")
LARGE = Question("Write 1200 with commas.", "1,200", ("1200", "1.200", "1 200"), "exact")
WORD = Question("Who is the nurse?", "Anna", ("Ben", "Oslo", "Paris"), "word")
SORTED = Question("Sort: pear, fig, apple.", "apple, fig, pear", ("fig, apple, pear", "pear, fig, apple", "apple, pear, fig"), "sequence")
CAPITALS = Question("Write the word door in capital letters.", "DOOR", ("door", "Door", "FIG"), "exact")
JSON = Question("As JSON.", '{"name": "Anna", "age": 30}', ('{"name": "Anna"}', '{"age": 30}', "{}"), "json")


@pytest.mark.parametrize(
    ("question", "text", "expected"),  # strictly right, leniently right
    [
        (NUMBER, "12", (True, True)),
        (NUMBER, "\n 12 \n", (True, True)),
        (NUMBER, "12.", (False, True)),
        (NUMBER, "7 + 5 = 12", (False, True)),
        (NUMBER, "The sum is 12.\n\nNow 12 + 1 = 13.", (False, True)),
        (NUMBER, "12 or 13", (False, False)),
        (NUMBER, "112", (False, False)),
        (NUMBER, "twelve", (False, False)),
        (LARGE, "It is 1,200.", (False, True)),
        (LARGE, "1,200,000", (False, False)),
        (LARGE, "1200", (False, False)),
        (WORD, "Anna", (True, True)),
        (WORD, "The nurse is ANNA.", (False, True)),
        (WORD, "Anna, not Ben.", (False, False)),
        (WORD, "Annabel", (False, False)),
        (SORTED, "apple, fig, pear", (True, True)),
        (SORTED, "Sorted:\n- Apple\n- Fig\n- Pear", (False, True)),
        (SORTED, "fig, apple, pear", (False, False)),
        (SORTED, "apple, fig", (False, False)),
        (CAPITALS, 'In capitals it is "DOOR".', (False, True)),
        (CAPITALS, "Door", (False, False)),
        (CAPITALS, "door DOOR", (False, False)),
        (JSON, '{"age":30,"name":"Anna"}', (True, True)),
        (JSON, '```json\n{"Name": "anna", "age": 30}\n```', (False, True)),
        (JSON, '{"name": "Anna", "age": "30"}', (False, False)),
        (JSON, "{name: Anna}", (False, False)),
    ],
)
def test_answers(question, text, expected):
    assert (strict(question, text), lenient(question, text)) == expected
