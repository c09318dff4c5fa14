"""Beside each marked answer stands the same prompt with another prompt's answer."""

import numpy as np
import pytest

from alpaca_jax.data.example import Example, Examples
from alpaca_jax.errors import UserError
from alpaca_jax.train.preference.kto import Mismatched


def store(*texts):
    """Examples of (prompt, answer, desired), each a list of ids."""
    made = [Example.answering(np.array([*prompt, *answer], np.int32), len(prompt)) for prompt, answer, _ in texts]
    facts = [{"real": 1.0, "desired": desired} for _, _, desired in texts]
    return Examples.of([Example(one.ids, one.learnt, facts=own) for one, own in zip(made, facts, strict=True)])


def test_each_prompt_meets_the_next_answer_to_another_prompt():
    texts = Mismatched(store(([1, 2], [10, 11], 1.0), ([1, 2], [12], 0.0), ([3], [13, 14, 15], 1.0)), 64)
    assert texts.others.tolist() == [2, 2, 0]  # the second answer is to the first one's own prompt
    groups = texts.take([0, 1, 2])
    assert [group.parts[1].ids.tolist() for group in groups] == [[1, 2, 13, 14, 15], [1, 2, 13, 14, 15], [3, 10, 11]]
    assert [group.parts[1].learnt.sum() for group in groups] == [3, 3, 2]
    assert [group.parts[1].facts["desired"] for group in groups] == [1.0, 0.0, 1.0]
    assert texts.lengths.tolist() == [len(group.ids) for group in groups]


def test_a_mismatched_text_is_cut_to_the_longest_length():
    texts = Mismatched(store(([1] * 5, [2], 1.0), ([3], [4] * 6, 0.0)), 7)
    [group] = texts.take([0])
    assert group.parts[1].ids.tolist() == [1] * 5 + [4] * 2 and texts.lengths.tolist() == [6 + 7, 7 + 2]


def test_answers_to_one_prompt_alone_are_refused():
    with pytest.raises(UserError, match="answers to different prompts"):
        _ = Mismatched(store(([1], [2], 1.0), ([1], [3], 0.0)), 8).others
