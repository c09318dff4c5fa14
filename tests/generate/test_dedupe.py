import json
import random
import threading

import pytest
from rouge_score import rouge_scorer

from alpaca_jax.errors import UserError
from alpaca_jax.generate.dedupe import Evaluations, RougeSeen


def test_it_is_rouge_l(data_dir):
    """The same verdict as the reference on pairs near the threshold."""
    instructions = [record["instruction"] for record in json.loads((data_dir / "alpaca_data.json").read_text())[:3000]]
    scorer, chance = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False), random.Random(0)
    verdicts = []
    for _ in range(400):
        one = chance.choice(instructions)
        words = one.split()
        other = " ".join(chance.sample(words, max(1, int(len(words) * chance.uniform(0.6, 1.0))))) if chance.random() < 0.5 else one
        other += " " + " ".join(chance.choices(["a", "the", "of", "new", "one"], k=chance.randrange(5)))
        seen = RougeSeen(0.7)
        seen.add(one)
        expected = scorer.score(one, other)["rougeL"].fmeasure > 0.7
        assert seen.holds(other) == expected, (one, other)
        verdicts.append(expected)
    assert 40 < sum(verdicts) < 360


def test_texts_without_ascii_words_are_compared_whole():
    seen = RougeSeen(0.7)
    seen.add("東京について教えて")
    assert seen.holds("東京について教えて ")
    assert not seen.holds("富士山の高さは")
    assert not seen.holds("")


def test_nothing_is_seen_at_first():
    assert not RougeSeen(0.7).holds("Name a river.")


def test_threads_give_each_word_its_own_letter():
    seen = RougeSeen(0.7)
    texts = [f"alpha{i} beta{i} gamma{i} delta{i}" for i in range(400)]
    threads = [threading.Thread(target=lambda k=k: [seen.holds(text) for text in texts[k::8]]) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for text in texts:
        assert not seen.holds(text)
        seen.add(text)


def test_fault_7_evaluation_sets_are_kept_out(data_dir):
    path = data_dir / "user_oriented_instructions.jsonl"
    task = json.loads(path.read_text().splitlines()[0])
    evaluations = Evaluations([str(path)], 0.7)
    assert evaluations.hold(task["instruction"], "", "anything")
    assert evaluations.hold("Do what follows.", "See: " + task["instances"][0]["input"], "")
    assert not evaluations.hold("Name three rivers of Asia.", "", "The Ob, the Lena and the Amur.")


@pytest.mark.parametrize(("content", "said"), [('{"x": 1}', "record 1: has no instruction"), ("{", "can't be read")])
def test_an_evaluation_set_that_is_none(tmp_path, content, said):
    (tmp_path / "e.jsonl").write_text(content)
    with pytest.raises(UserError, match=said):
        Evaluations([str(tmp_path / "e.jsonl")], 0.7)
