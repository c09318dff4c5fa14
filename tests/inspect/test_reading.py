"""What is shown is what the training step gets, character by character."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.data import template
from alpaca_jax.data.example import Example, Recipe, tokenize
from alpaca_jax.data.pack import collate
from alpaca_jax.inspect import reading
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer

RECORDS = [
    Record("Translate to German.", "It's 20.50 €", " Es kostet 20,50 €\n"),
    Record("Say nothing."),
    Record("Hi", output="Yes? 🙂", system="Be kind.", turns=(("Bye </s> now", "So soon?"),)),
]


def examples(tokenizer, name="chatml"):
    return tokenize(RECORDS, Recipe(template.get(name, tokenizer), tokenizer, 2048))[0].take(range(3))


def check(example, tokenizer):
    spans = reading.spans(example, tokenizer)
    assert "".join(span.text for span in spans) == tokenizer.decode(example.ids, skip_special=False)
    return spans


@pytest.mark.parametrize("name", ["alpaca", "chatml", "plain"])
def test_spans_join_to_the_text_and_learnt_ones_are_the_answers(tokenizer, name):
    answers = [[" Es kostet 20,50 €\n"], [""], ["Yes? 🙂", "So soon?"]]
    for example, expected in zip(examples(tokenizer, name), answers, strict=True):
        learnt = "".join(span.text for span in check(example, tokenizer) if span.learnt and not span.special)
        assert learnt.replace("<|im_end|>", "") == "".join(expected)


def test_a_special_token_is_told_from_its_spelling(tokenizer):
    _, _, talk = examples(tokenizer, "alpaca")
    assert any("Bye </s> now" in span.text and not span.special for span in check(talk, tokenizer))
    assert {span.text for span in check(talk, tokenizer) if span.special} == {"<s>", "</s>"}


def test_spaces_survive_a_sentencepiece_tokenizer(data_dir):
    llama = Tokenizer.load(data_dir / "llama_tokenizer.model")
    euro, _, _ = examples(llama, "alpaca")
    first, *_, last = check(euro, llama)
    assert first.text == last.text.replace("/", "") == "<s>" and last.learnt
    assert any(span.text == " Es kostet 20,50 €\n" and span.learnt for span in check(euro, llama))


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=20), min_size=1, max_size=8))
def test_rows_give_back_the_examples_of_the_batch(masks):
    made = [Example(np.arange(1, len(mask) + 1, dtype=np.int32) + 100 * i, np.array([False, *mask[1:]])) for i, mask in enumerate(masks)]
    batch = collate(made, len(made), 24)
    rows = reading.rows(batch, 100)
    assert len(rows) == len(made)
    found = sorted((example.ids.tolist(), example.learnt.tolist()) for row in rows for example in row.examples)
    assert found == sorted((example.ids.tolist(), example.learnt.tolist()) for example in made)
    assert all(row.tokens + row.empty == 24 for row in rows)
    assert sum(row.learnt for row in rows) == batch["weights"].sum()
    assert len(reading.rows(batch, 1)) == 1
