"""Contamination: what counts as common, the figures of the published records, and scores without what is touched."""

import itertools
import json
import random

import pytest
from rouge_score import rouge_scorer

from alpaca_jax.records import Record
from alpaca_jax.scores import prompts
from alpaca_jax.scores.contamination import RULES, Item, find, overlap, split, touched

WORDS = "the quick brown fox jumps over a lazy dog and runs away from it again".split()


def items(*texts):
    return [Item("set", str(number), text) for number, text in enumerate(texts)]


def one(text, *made):
    (touch,), count = find(made, items(text))
    assert count == len(made)
    return touch


def test_equal_is_the_same_words_in_instruction_and_input():
    asked = "Add the numbers.\n\n1, 2"
    same = [Record("add  the numbers", "1 2", "3"), Record("Add the numbers: 1 2", output="x")]
    assert one(asked, *same, Record("Add the numbers.", output="1 2"), Record("Add the numbers.", "1 2 3")).equal == 2
    assert one(asked, same[0]).record == same[0]
    assert one("???", Record("!!!")).equal == 0  # no words at all


def test_a_run_of_words_counts_wherever_it_stands_and_once_a_record():
    asked = " ".join(WORDS)  # 15 words
    for start, length in itertools.product((0, 2), (7, 8, 12, 13)):
        run = " ".join(WORDS[start : start + length]).upper()
        for made in (Record(f"x {run} y"), Record("z", f"{run}!"), Record("z", output=f"so: {run}. {run}"), Record("", output=run)):
            touch = one(asked, made, Record("nothing of it"))
            assert (touch.gram8, touch.gram13) == (length >= 8, length >= 13)
    split_run = Record(" ".join(WORDS[:5]), " ".join(WORDS[5:10]))
    assert one(asked, split_run).gram8 == 1  # instruction and input are read one after the other
    assert one(asked, Record(" ".join(WORDS[:5])), Record(" ".join(WORDS[5:10]))).gram8 == 0


def test_other_scripts_have_words_too():
    asked = "один два три четыре пять шесть семь восемь девять"
    touch = one(asked, Record("Повтори", output=asked.upper()))
    assert (touch.gram8, touch.rouge_l) == (1, 0)


def test_rouge_l_is_that_of_rouge_score_and_the_nearest_of_all(monkeypatch):
    monkeypatch.setattr(overlap, "AT_ONCE", 70)
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 14))) for _ in range(212)]
    asked, made = items(*texts[:12]), [Record(text) for text in texts[12:]]
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    touches, _ = find(made, asked)
    for touch in touches:
        scores = [scorer.score(touch.item.text, record.instruction)["rougeL"].fmeasure for record in made]
        assert touch.rouge_l == pytest.approx(max(scores), abs=1e-6)
        if touch.gram8 == 0 and touch.equal == 0:
            assert scores[made.index(touch.record)] == pytest.approx(max(scores))


def test_the_worst_record_is_an_equal_one_before_one_with_runs_before_the_nearest():
    asked = " ".join(WORDS)
    near, run, same = Record(" ".join(WORDS[::2])), Record("say", output=" ".join(WORDS[3:12])), Record(asked)
    assert one(asked, near).record == near
    assert one(asked, near, run).record == run
    assert one(asked, same, near, run).record == same


def test_scores_with_and_without_what_is_touched():
    asked, whole = "What is the capital of France?", " ".join(WORDS)
    touches, _ = find([Record("what is the capital of france today"), Record(whole)], items(asked, "Go.", whole))
    found = {each.rule: each for each in split(touches, {"0": 1.0, "1": 0.0, "2": 0.5}, 0.7)}
    assert [found[rule].touched for rule in RULES] == [1, 1, 1, 2]
    assert (found["equal"].all, found["equal"].without, found["equal"].touched_alone) == (0.5, 0.5, 0.5)
    assert (found["rouge_l"].without, found["rouge_l"].touched_alone) == (0.0, 0.75)
    unscored = split(touches, {"1": 0.25}, 0.7)
    assert [(each.items, each.touched, each.without, each.touched_alone) for each in unscored] == [(1, 0, 0.25, None)] * 4


@pytest.mark.prove
def test_the_published_records_against_the_252(data_dir):
    asked = prompts.read(data_dir / "user_oriented_instructions.jsonl")
    published = json.loads((data_dir / "alpaca_data.json").read_bytes())
    made = [Record(**each, id=str(number)) for number, each in enumerate(published)]
    touches, count = find(made, [Item(asked.name, prompt.id, prompt.text) for prompt in asked])
    assert count == 52_002
    counts = {rule: sum(touched(touch, rule, 0.7) for touch in touches) for rule in RULES}
    assert counts == {"equal": 0, "gram13": 0, "gram8": 7, "rouge_l": 3}
    by_id = {touch.item.id: touch for touch in touches}
    assert by_id["user_oriented_task_6"].gram8 == 4  # a phrase of e-mails
    assert by_id["user_oriented_task_132"].record.instruction == "Suggest a recipe for vegan crepes"
