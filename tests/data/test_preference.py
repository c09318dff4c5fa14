"""Pairs and marked answers as examples: what is learnt, what is left out and counted, and how they come out of the builder."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from alpaca_jax import records
from alpaca_jax.data import builder, preference, remarks, template
from alpaca_jax.data.config import BatchConfig, DataConfig
from alpaca_jax.data.example import Example, Group, Recipe
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer
from tools.prove.tiny import write_tokenizer

PAIRS = [
    Record("Q1", output="good", rejected="bad"),
    Record("Q2", output="same", rejected="same"),
    Record("Q3", output="fine", rejected=""),
    Record("Q4", output="plain"),
    Record("Q5", output="x", turns=(("R", "best"),), rejected="worst"),
]
MARKED = [Record("Q6", output="yes", desired=True), Record("Q7", output="no", desired=False)]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """A byte a token."""
    folder = tmp_path / "tokenizer"
    write_tokenizer(folder, ["</s>"], eos_token="</s>")
    return Tokenizer.load(folder)


def parts(tokenizer: Tokenizer, item: Example | Group) -> list[tuple[str, str]]:
    """The text and the learnt text of each part."""
    texts = [(part.ids, part.ids[part.learnt]) for part in item.parts]
    return [(tokenizer.decode(ids, skip_special=False), tokenizer.decode(learnt, skip_special=False)) for ids, learnt in texts]


def made(tokenizer: Tokenizer, given: list[Record], form: Any, max_length: int = 99, **more: Any) -> tuple[list[Any], Counter[str]]:
    counted = Counter[str]()
    recipe = Recipe(template.get("plain", tokenizer), tokenizer, max_length, **more)
    return list(preference.stream(given, recipe, counted, form)), counted


def test_a_pair_is_two_examples_of_one_prompt(tokenizer: Tokenizer) -> None:
    items, counted = made(tokenizer, PAIRS, "pairs")
    assert all(isinstance(item, Group) for item in items)
    learnt = [[own for _, own in parts(tokenizer, item)] for item in items]
    assert learnt == [["good</s>", "bad</s>"], ["fine</s>", "</s>"], ["best</s>", "worst</s>"]]
    for item in items:
        (one, own), (other, others) = parts(tokenizer, item)
        assert one.removesuffix(own) == other.removesuffix(others)
        assert [dict(part.facts) for part in item.parts] == [{"real": 1}, {"real": 1}]
    tokens = sum(len(item.ids) for item in items)
    assert dict(+counted) == {
        "records": 5,
        "kept": 3,
        "equal": 1,
        "without": 1,
        "empty_output": 1,
        "tokens": tokens,
        "target_tokens": sum(int(item.learnt.sum()) for item in items),
    }


def test_a_pair_is_cut_dropped_or_left_out_as_a_whole(tokenizer: Tokenizer) -> None:
    [whole], _ = made(tokenizer, [Record("Q", output="long, long", rejected="long")], "pairs")
    longest = len(whole.parts[0].ids)
    long = [Record("Q", output="long, long", rejected="long")]
    [cut], counted = made(tokenizer, long, "pairs", longest - 1)
    assert [own for _, own in parts(tokenizer, cut)] == ["long, long", "long</s>"] and counted["truncated"] == 1
    assert made(tokenizer, long, "pairs", longest - 7) == ([], counted_of(equal=1, truncated=1))
    assert made(tokenizer, long, "pairs", longest - 1, truncation="drop") == ([], counted_of(dropped=1))
    assert made(tokenizer, long, "pairs", longest - 11) == ([], counted_of(no_target=1))


def counted_of(**counts: int) -> Counter[str]:
    return Counter({"records": 1, **counts})


def test_marked_answers_carry_their_mark(tokenizer: Tokenizer) -> None:
    items, counted = made(tokenizer, [*PAIRS, *MARKED], "labelled")
    found = [(own, item.facts["desired"], item.facts["real"]) for item in items for _, own in parts(tokenizer, item)]
    assert found == [
        ("good</s>", 1, 1),
        ("bad</s>", 0, 1),
        ("fine</s>", 1, 1),
        ("</s>", 0, 1),
        ("best</s>", 1, 1),
        ("worst</s>", 0, 1),
        ("yes</s>", 1, 1),
        ("no</s>", 0, 1),
    ]
    assert (counted["records"], counted["kept"], counted["equal"], counted["without"]) == (11, 8, 2, 1)


def test_answers_are_those_of_the_chosen_and_the_wanted(tokenizer: Tokenizer) -> None:
    items, counted = made(tokenizer, [*PAIRS, *MARKED], "answers")
    assert [own for item in items for _, own in parts(tokenizer, item)][-2:] == ["x</s>best</s>", "yes</s>"]
    assert (counted["records"], counted["kept"], counted["unwanted"]) == (7, 6, 1)
    assert not any(item.facts for item in items)


def test_the_builder_keeps_each_form_apart_and_questions_together(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "pairs.jsonl"
    given = [Record(f"Q{number // 2}", output=f"good {number}", rejected="bad") for number in range(20)]
    records.write(file, given)
    config = DataConfig(template="plain", heldout=5, max_length=64, cache=str(tmp_path / "cache"))
    pairs = builder.load_examples(config, file, tokenizer, "pairs")
    answers = builder.load_examples(config, file, tokenizer)
    labelled = builder.load_examples(config, file, tokenizer, "labelled")
    assert len({pairs.fingerprint, answers.fingerprint, labelled.fingerprint}) == 3
    asked = {
        split: {text.split("good")[0] for item in store.take(range(len(store))) for text, _ in parts(tokenizer, item)[:1]}
        for split, store in pairs.examples.items()
    }
    assert len(asked["train"]) == 7 and len(asked["heldout"]) == 3 and not asked["train"] & asked["heldout"]
    assert [len(labelled.examples[split]) for split in ("train", "heldout")] == [28, 12]
    batch = make_batches(pairs.examples["train"], BatchConfig(examples=7, sequence_length=64), 0).batch(0)
    assert batch["real"].sum() == 14 and batch["segments"].max() <= batch["real"].shape[1]
    assert any("answer the question of an earlier one" in remark.text for remark in remarks.of(pairs))
    assert any("have a rejected answer, which only" in remark.text for remark in remarks.of(answers))


def test_records_without_a_pair_are_refused_by_that(tmp_path: Path, tokenizer: Tokenizer) -> None:
    file = tmp_path / "plain.jsonl"
    records.write(file, [Record("Q", output="A")])
    config = DataConfig(template="plain", cache=str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"none of the 1 records \(train\) has a rejected answer: give others as data\.records"):
        builder.load_examples(config, file, tokenizer, "pairs")
    records.write(file, [Record("Q", output="A", rejected="A")])
    with pytest.raises(UserError, match=r"1 are pairs of equal answers"):
        builder.load_examples(config, file, tokenizer, "pairs")
