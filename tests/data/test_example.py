"""Examples: ids apart and joined, what is cut and what is counted; the published numbers of the whole Alpaca set."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bytewise import tokenizer as bytewise
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax import records
from alpaca_jax.data import template
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Counts, Example, Examples, Recipe, prompt_ids, tokenize, turn_ids
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer

ALPACA = 52_002
BYTES = bytewise()


class Letters:
    """A letter, a token; text that doesn't go on from other text begins with 9, as SentencePiece's begins with its dummy prefix."""

    vocab_size = 300
    specials: dict[str, int] = {"<s>": 1, "</s>": 2}
    added = specials

    def encode(self, texts: list[str], start: bool, special: bool, after: str | None = None) -> list[list[int]]:
        return [[9] * (start or after is not None) + [ord(letter) for letter in text] for text in texts]

    def takes_space(self, token: str) -> bool:
        return False

    def token(self, id: int) -> str:
        return {1: "<s>", 2: "</s>"}[id]


def letters(**more: Any) -> Tokenizer:
    return Tokenizer(**{"backend": Letters(), "bos_id": 1, "eos_id": 2, "pad_id": 2, "adds_bos": True} | more)


def make(outputs: list[str], max_length: int, truncation: Any = "truncate", **more: Any) -> tuple[list[list[int]], Counts]:
    tokenizer = letters(**more)
    recipe = Recipe(template.get("plain", tokenizer), tokenizer, max_length, truncation)
    examples, counts = tokenize([records.Record("ab", output=output) for output in outputs], recipe)
    assert all(int((~example.learnt).sum()) == 4 + recipe.tokenizer.adds_bos for example in examples.take(range(len(examples))))
    return [example.ids.tolist() for example in examples.take(range(len(examples)))], counts


def text_of(ids: np.ndarray) -> str:
    return BYTES.decode(ids, skip_special=False)


def learn(name: str, made: list[records.Record], max_length: int = 1000, **more: Any) -> tuple[list[str], list[str], Counts]:
    """The examples' texts, what of them is learnt, and the counts."""
    examples, counts = tokenize(made, Recipe(template.get(name, BYTES), BYTES, max_length, **more))
    all_of_them = examples.take(range(len(examples)))
    return [text_of(each.ids) for each in all_of_them], [text_of(each.ids[each.learnt]) for each in all_of_them], counts


def test_the_first_token_is_never_learnt() -> None:
    assert Example.answering(np.arange(3, dtype=np.int32), 0).learnt.tolist() == [False, True, True]


def test_prompt_and_response_are_tokenized_apart_and_joined() -> None:
    ids, counts = make(["cd"], max_length=20)
    assert ids == [[1, 9, ord("a"), ord("b"), ord("\n"), ord("c"), ord("d"), 2]]
    assert counts == Counts(records=1, kept=1, tokens=8, target_tokens=3)
    assert make(["cd"], max_length=20, adds_bos=False)[0] == [ids[0][1:]]


def test_a_long_response_is_cut_and_loses_its_eos() -> None:
    ids, counts = make(["cdefg", "c", ""], max_length=7)
    assert [len(each) for each in ids] == [7, 7, 6]
    assert [each[-1] for each in ids] == [ord("d"), 2, 2]
    assert counts == Counts(records=3, kept=3, truncated=1, empty_output=1, tokens=20, target_tokens=5)


def test_a_long_one_is_dropped_where_that_is_asked_for() -> None:
    ids, counts = make(["cdefg", "c"], max_length=7, truncation="drop")
    assert len(ids) == 1
    assert (counts.kept, counts.dropped, counts.truncated) == (1, 1, 0)


@pytest.mark.parametrize("max_length", [4, 5])
def test_a_prompt_that_leaves_no_target_is_not_kept(max_length: int) -> None:
    ids, counts = make(["cd"], max_length)
    assert ids == []
    assert counts == Counts(records=1, no_target=1)


CONVERSATION = records.Record("Q1", "", "A1", system="Be brief.", turns=(("Q2", "A2"), ("Q3", "")))


@pytest.mark.parametrize(
    ("name", "learnt"),
    [
        ("plain", "A1</s>A2</s></s>"),
        ("alpaca", "A1</s>A2</s></s>"),
        ("chatml", "A1<|im_end|>A2<|im_end|><|im_end|>"),
        ("llama2", " A1 </s> A2 </s>  </s>"),
        ("llama3", "A1<|eot_id|>A2<|eot_id|><|eot_id|>"),
        ("vicuna", " A1</s> A2</s> </s>"),
    ],
)
def test_every_answer_is_learnt_and_nothing_else(name: str, learnt: str) -> None:
    texts, found, counts = learn(name, [CONVERSATION])
    assert found == [learnt]
    assert all(text in texts[0] for text in ("Be brief.", "Q1", "Q2", "Q3"))
    assert (counts.kept, counts.turns, counts.empty_output, counts.truncated) == (1, 2, 1, 0)


def test_a_conversation_is_cut_at_max_length() -> None:
    whole = "Be brief.\nQ1\nA1</s>\nQ2\nA2</s>\nQ3\n</s>"
    length = len("Be brief. Q1 A1E Q2 A2E Q3 E")
    for cut, learnt, turns in ((0, "A1</s>A2</s></s>", 2), (1, "A1</s>A2</s>", 1), (7, "A1</s>A", 1), (8, "A1</s>", 0), (15, "", None)):
        texts, found, counts = learn("plain", [CONVERSATION], length - cut)
        if turns is None:
            assert (texts, counts.no_target, counts.kept) == ([], 1, 0)
        else:
            assert whole.startswith(texts[0]) and found == [learnt]
            assert (counts.turns, counts.truncated, counts.tokens) == (turns, int(cut > 0), length - cut)


def test_a_later_turn_starts_anew_behind_the_token_that_ends_an_answer() -> None:
    tokenizer = letters()
    recipe = Recipe(template.get("plain", tokenizer), tokenizer, 99)
    (example,) = tokenize([records.Record("a", output="b", turns=(("c", "d"),))], recipe)[0].take([0])
    a, b, c, d, line = (ord(letter) for letter in "abcd\n")
    assert example.ids.tolist() == [1, 9, a, line, b, 2, 9, line, c, line, d, 2]


# --- text for pre-training --------------------------------------------------------------------------------------------------------


def test_a_text_is_learnt_whole() -> None:
    texts, learnt, counts = learn("text", [records.Record("", output="abcdef")])
    assert (texts, learnt) == (["abcdef</s>"], ["bcdef</s>"])  # nothing predicts the first
    assert counts == Counts(records=1, kept=1, tokens=7, target_tokens=6)
    tokenizer = letters()
    (example,) = tokenize([records.Record("", output="ab")], Recipe(template.get("text", tokenizer), tokenizer, 9))[0].take([0])
    assert example.ids.tolist() == [1, 9, ord("a"), ord("b"), 2] and example.learnt.tolist() == [False, True, True, True, True]


def test_a_long_text_is_cut_dropped_or_split() -> None:
    made = [records.Record("", output="abcdef"), records.Record("", output="xy")]
    assert learn("text", made, 4)[0] == ["abcd", "xy</s>"]
    assert learn("text", made, 4, truncation="drop")[0] == ["xy</s>"]
    texts, learnt, counts = learn("text", made, 4, truncation="split")
    assert texts == ["abcd", "def</s>", "xy</s>"]
    assert learnt == ["bcd", "ef</s>", "y</s>"]
    assert counts == Counts(records=2, kept=2, tokens=11, target_tokens=8, split=1)


@settings(deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=40), min_size=1, max_size=5), st.integers(2, 12))
def test_split_texts_lose_no_target(outputs: list[str], max_length: int) -> None:
    texts, learnt, counts = learn("text", [records.Record("", output=output) for output in outputs], max_length, truncation="split")
    assert "".join(learnt) == "".join(output[1:] + "</s>" for output in outputs)
    assert counts.target_tokens == sum(len(output) for output in outputs)
    assert counts.kept + counts.split == len(texts) and counts.kept == len(outputs)
    assert max(len(text.replace("</s>", "E")) for text in texts) <= max_length


def test_only_texts_are_split() -> None:
    with pytest.raises(UserError, match=r"data\.truncation=split cuts texts .*give data\.truncation=truncate or drop"):
        Recipe(template.get("plain", letters()), letters(), 9, "split")


# --- properties -------------------------------------------------------------------------------------------------------------------

ANSWERS = st.lists(st.tuples(st.text("xyz", min_size=1, max_size=6), st.text("abc", max_size=6)), min_size=1, max_size=4)


@settings(deadline=None)
@given(st.lists(ANSWERS, min_size=1, max_size=4), st.integers(2, 60), st.sampled_from(["truncate", "drop"]))
def test_masks_conserve_targets(conversations: list[list[tuple[str, str]]], max_length: int, truncation: str) -> None:
    made = [records.Record(said[0][0], output=said[0][1], turns=tuple(said[1:])) for said in conversations]
    texts, learnt, counts = learn("plain", made, max_length, truncation=truncation)
    whole = ["".join(answer + "</s>" for _, answer in said) for said in conversations]
    lengths = [sum(len(user) + len(answer) + 3 for user, answer in said) - 1 for said in conversations]
    if truncation == "drop":
        first = [len(said[0][0]) + 1 for said in conversations]
        assert learnt == [answers for answers, length in zip(whole, lengths, strict=True) if length <= max_length]
        assert counts.no_target == sum(length >= max_length for length in first)
    else:
        unseen = iter(whole)
        assert all(any(answers.startswith(part) for answers in unseen) for part in learnt)  # each a beginning, in order
        assert counts.truncated + counts.no_target == sum(length > max_length for length in lengths)
    assert counts.records == len(made) == counts.kept + counts.dropped + counts.no_target
    assert counts.target_tokens == sum(len(part.replace("</s>", "E")) for part in learnt)
    assert counts.tokens == sum(len(text.replace("</s>", "E")) for text in texts)


def test_the_prompt_is_what_training_shows() -> None:
    tokenizer = letters()
    made = template.get("plain", tokenizer)
    (example,) = tokenize([records.Record("ab", "c", "d")], Recipe(made, tokenizer, 99))[0].take([0])
    assert prompt_ids(made, tokenizer, "ab", "c") == example.ids[~example.learnt].tolist()


@pytest.mark.parametrize("name", ["plain", "alpaca", "chatml", "llama2", "llama3", "vicuna"])
def test_a_later_turn_is_asked_as_training_shows_it(name: str) -> None:
    tokenizer = bytewise(adds_bos=True)
    made = template.get(name, tokenizer)
    for turns in ((), (("Q2", "A2"),), (("Q2", "A2"), ("Q3", "A3"))):
        whole = records.Record("Q1", "I1", "A1", system="Be brief.", turns=turns)
        (example,) = tokenize([whole], Recipe(made, tokenizer, 999))[0].take([0])
        last = np.flatnonzero(example.learnt[1:] & ~example.learnt[:-1])[-1] + 1
        unanswered = dataclasses.replace(
            whole, output="" if not turns else "A1", turns=(*turns[:-1], *((user, "") for user, _ in turns[-1:]))
        )
        assert turn_ids(made, tokenizer, unanswered) == example.ids[:last].tolist()


@dataclasses.dataclass
class Alpaca:
    """All published records, whole, as the LLaMA tokenizer sees them; tokenized once for the tests below."""

    records: list[records.Record]
    recipe: Recipe
    examples: Examples
    counts: Counts


@pytest.fixture(scope="module")
def alpaca(data_dir: Path) -> Alpaca:
    tokenizer = Tokenizer.load(data_dir / "llama_tokenizer.model")
    read = [records.Record(**record) for record in json.loads((data_dir / "alpaca_data.json").read_bytes())]
    recipe = Recipe(template.get("alpaca", tokenizer), tokenizer, max_length=2048)
    return Alpaca(read, recipe, *tokenize(read, recipe))


def test_the_published_numbers(alpaca: Alpaca) -> None:
    tokens, of_prompts = 6_613_275, 3_203_779
    whole = Counts(records=ALPACA, kept=ALPACA, empty_output=28, tokens=tokens, target_tokens=tokens - of_prompts)
    assert alpaca.counts == whole
    prompts = np.add.reduceat(~alpaca.examples.learnt, alpaca.examples.offsets[:-1], dtype=np.int64)
    assert (int(np.median(prompts)), int(prompts.max())) == (53, 656)
    assert sum(bool(record.input) for record in alpaca.records) == 20_679
    assert int((alpaca.examples.lengths > 1024).sum()) == 2


def test_what_512_tokens_cut(alpaca: Alpaca) -> None:
    # 97 are longer, of which one is all prompt: only they need a second look.
    long = [record for record, length in zip(alpaca.records, alpaca.examples.lengths, strict=True) if length > 500]
    _, counts = tokenize(long, dataclasses.replace(alpaca.recipe, max_length=512))
    assert (counts.truncated, counts.no_target, counts.kept) == (96, 1, len(long) - 1)


@pytest.mark.prove
def test_where_one_string_would_merge_prompt_and_response(alpaca: Alpaca) -> None:
    """In 1,715 records the prompt's ids are no prefix of the joint ids, so a mask by length hides a target; on all others we agree."""
    recipe = alpaca.recipe
    texts = [recipe.template.prompt(record.instruction, record.input) + record.output for record in alpaca.records]
    merged = 0
    for example, ids in zip(alpaca.examples.take(range(ALPACA)), recipe.tokenizer.encode_batch(texts), strict=True):
        prompt_length = int((~example.learnt).sum())
        if example.ids[1:prompt_length].tolist() == ids[: prompt_length - 1]:
            assert example.ids[1:-1].tolist() == ids
        else:
            merged += 1
    assert merged == 1_715


def test_every_step_of_alpaca_fills_its_rows(alpaca: Alpaca) -> None:
    """128 examples cut at 512 lie in 8 rows of 2048, 99% full, in every step of three epochs."""
    cut = Examples.of(Example(each.ids[:512], each.learnt[:512]) for each in alpaca.examples.take(range(ALPACA)) if each.learnt[:512].any())
    batches = make_batches(cut, BatchConfig(examples=128, sequence_length=2048), seed=0, epochs=3)
    assert (batches.steps_per_epoch, batches.left_out, batches.rows) == (406, 33, 8)
    assert min(cut.lengths[batches.indices(step)].sum() for step in range(3 * 406)) > 0.99 * 8 * 2048
