"""What the settings of distillation refuse, and tokenizers that mean something else."""

import dataclasses

import bytewise
import pytest
from tokenizers import Tokenizer as Library

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer.backends import Json
from alpaca_jax.train.distill import vocabulary
from alpaca_jax.train.distill.config import DistillConfig


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "give either objective.teacher=MODEL, or several"),
        ({"teacher": "a", "teachers": {"b": {"source": "b"}}}, "give either objective.teacher=MODEL, or several"),
        ({"teacher": "a", "signal": "draws", "divergence": "reverse"}, "signal=draws gives the forward divergence only, not reverse"),
        ({"teacher": "a", "signal": "top", "tail": False, "divergence": "jsd"}, "tail=false makes the jsd divergence infinite"),
        ({"teacher": "http://host:8000/v1", "signal": "exact"}, "is a server, which tells its most probable tokens"),
        ({"teacher": "http://host:8000/v1", "signal": "top", "temperature": 2}, "is a server, which tells its most probable tokens"),
        ({"teachers": {"a": {"source": "http://host/v1"}, "b": {"source": "b"}}, "signal": "top"}, "a teacher on a server is the only one"),
        ({"teacher": "a", "beta": 1.5}, "beta=1.5: give 0 to 1"),
        ({"teacher": "a", "draws": 300}, "draws=300"),
    ],
)
def test_what_does_not_go_together_is_said(given, message):
    with pytest.raises(UserError, match=message):
        parse(DistillConfig, given)


def test_tokens_are_compared_not_counted():
    own = bytewise.tokenizer()
    longer = bytewise.tokenizer()
    assert vocabulary.shared(own, longer, "teacher") == own.vocab_size
    other = bytewise.tokenizer(("<s>", "</s>", "<|im_end|>", "<|im_start|>", *bytewise.SPECIALS[4:]))
    with pytest.raises(UserError, match=r"teacher BIG has another tokenizer.*token 2 is '<\|im_end\|>' there and '<\|im_start\|>' here"):
        vocabulary.shared(own, other, "BIG")


def test_the_tokens_that_one_side_has_at_the_end_are_left_out():
    own = bytewise.tokenizer()
    library = Library.from_str(own.backend.files()["tokenizer.json"].decode())
    library.add_special_tokens(["<extra>"])
    longer = dataclasses.replace(own, backend=Json(library.to_str()))
    assert longer.vocab_size == own.vocab_size + 1
    assert vocabulary.shared(own, longer, "teacher") == vocabulary.shared(longer, own, "teacher") == own.vocab_size
