"""Examples: ids apart and joined, what is cut and what is counted; the published numbers of the whole Alpaca set."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from alpaca_jax import records
from alpaca_jax.data import template
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Counts, Example, Examples, Recipe, tokenize
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.data.tokenizer import Tokenizer

ALPACA = 52_002


@dataclasses.dataclass
class Letters:
    """A letter, a token; text that doesn't go on from other text begins with 9, as SentencePiece's begins with its dummy prefix."""

    bos_id: int | None = 1
    eos_id: int = 2
    adds_bos: bool = True
    chat_template: str | None = None

    def encode_batch(self, texts: Sequence[str], start: bool = True, special: bool = False) -> list[list[int]]:
        return [[9] * start + [ord(letter) for letter in text] for text in texts]

    def render_chat(self, messages: object, add_generation_prompt: bool = True) -> str:
        raise NotImplementedError


def make(outputs: list[str], max_length: int, truncation: str = "truncate", **letters: object) -> tuple[list[list[int]], Counts]:
    tokenizer = Letters(**letters)  # type: ignore[arg-type]
    recipe = Recipe(template.get("plain", tokenizer), tokenizer, max_length, truncation)  # type: ignore[arg-type]
    examples, counts = tokenize([records.Record("ab", output=output) for output in outputs], recipe)
    assert all(int((~example.learnt).sum()) == 4 + recipe.tokenizer.adds_bos for example in examples.take(range(len(examples))))
    return [example.ids.tolist() for example in examples.take(range(len(examples)))], counts


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
    batches = Batches(cut, BatchConfig(examples=128, sequence_length=2048), seed=0, epochs=3)
    assert (batches.steps_per_epoch, batches.left_out, batches.rows) == (406, 33, 8)
    assert min(cut.lengths[batches.indices(step)].sum() for step in range(3 * 406)) > 0.99 * 8 * 2048
