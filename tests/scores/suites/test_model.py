"""The rows that the harness's requests become: BOS once, contexts cut on the left, stop strings and limits as tasks give them."""

import contextlib
from types import SimpleNamespace

import pytest
from bytewise import tokenizer
from random_models import byte_level

from alpaca_jax.data import template
from alpaca_jax.errors import UserError
from alpaca_jax.scores.suites.backend import Likelihood
from alpaca_jax.scores.suites.model import HarnessModel

CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Remembers:
    """A backend that says how long each row is, and remembers what it was asked."""

    def __init__(self, max_length=64):
        self.max_length = max_length

    def likelihoods(self, rows, told):
        self.rows = rows
        return [Likelihood(-float(len(ids) - start), False) for ids, start in rows]

    def generate(self, asks, told):
        self.asks = asks
        return ["an answer"] * len(asks)


@contextlib.contextmanager
def untold(what, total):
    yield lambda done: None


def model(backend, chat=None, **more):
    """A model with a token for each byte."""
    tokens = tokenizer(**{"adds_bos": True} | more)
    return HarnessModel(backend, tokens, untold, chat and template.get(chat, tokens)), tokens


def request(*args):
    return SimpleNamespace(args=args)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("text", ["a question", "<s>a question", "<s><s>a question"])
def test_bos_stands_before_a_text_once(adds_bos, text):
    asked, tokens = model(Remembers(), adds_bos=adds_bos)
    ids = asked.encode(text)
    assert ids.count(tokens.bos_id) == (adds_bos or text.startswith("<s>"))
    assert tokens.decode(ids) == "a question"
    assert ids[0] == tokens.bos_id or not adds_bos


@pytest.mark.parametrize("chat_template", [CHATML, CHATML.removeprefix("{{ bos_token }}")])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_stands_before_a_chat_once_whoever_writes_it(adds_bos, chat_template):
    asked, tokens = model(Remembers(), "chat", adds_bos=adds_bos, chat_template=chat_template)
    text = asked.apply_chat_template([{"role": "user", "content": "hi"}])
    assert asked.encode(text).count(tokens.bos_id) == (adds_bos or chat_template.startswith("{{ bos_token }}"))
    assert text.endswith("<|im_start|>assistant\n")
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The best answer is "}]
    assert asked.apply_chat_template(begun, add_generation_prompt=False).endswith("assistant\nThe best answer is")


def test_a_pair_is_split_where_the_continuation_begins():
    asked, tokens = model(Remembers(), adds_bos=True)
    ids, start = asked.pair("ab ", "cd")
    assert tokens.decode(ids[start:]) == " cd" and tokens.decode(ids[:start]) == "ab"
    for context in ("", "   "):
        ids, start = asked.pair(context, "cd")
        assert start == 1 and ids[0] == tokens.bos_id and tokens.decode(ids[1:]) == f"{context}cd"
    without, tokens = model(Remembers(), adds_bos=False, bos="none")
    assert without.pair("", "cd")[0][0] == tokens.eos_id


def test_what_the_tokenizer_merges_is_scored_with_the_continuation():
    merging = byte_level()
    asked = HarnessModel(Remembers(), merging, untold)
    assert len(merging.encode("the")) == 1
    ids, start = asked.pair("th", "e")  # together they are one token
    assert 1 <= start < len(ids) and merging.decode(ids[start:]) == "the"


def test_a_context_without_room_loses_its_beginning():
    backend = Remembers(max_length=16)
    asked, tokens = model(backend)
    assert asked.loglikelihood([request("x" * 30 + "y", "answer"), request("short", "answer")]) == [(-6.0, False)] * 2
    (long, start), _ = backend.rows
    assert len(long) == 16 and tokens.decode(long[start:]) == "answer" and tokens.decode(long[:start]) == "x" * 9 + "y"
    assert asked.truncated == 1
    with pytest.raises(UserError, match="an answer of 20 tokens can't be scored in the model's 16 positions"):
        asked.loglikelihood([request("x", "y" * 20)])


def test_a_generation_has_the_tasks_settings():
    backend = Remembers(max_length=40)
    asked, tokens = model(backend)
    settings = {"until": ["\n", ""], "max_gen_toks": 8, "do_sample": False, "temperature": 0.7}
    assert asked.generate_until([request("x" * 50, settings), request("y", {"until": "stop", "max_tokens": 3, "temperature": 0.5})]) == [
        "an answer",
        "an answer",
    ]
    greedy, drawn = backend.asks
    assert (greedy.stops, greedy.max_tokens, greedy.temperature, len(greedy.prompt)) == (("\n",), 8, 0.0, 32)
    assert (drawn.stops, drawn.max_tokens, drawn.temperature, tokens.decode(drawn.prompt)) == (("stop",), 3, 0.5, "y")
    with pytest.raises(UserError, match="answers of up to 256 tokens leave no room .* give max_tokens=N, fewer"):
        asked.generate_until([request("x", {})])


def test_a_whole_text_is_scored_once_in_windows():
    backend = Remembers(max_length=8)
    asked, tokens = model(backend)
    assert asked.loglikelihood_rolling([request("abcdefghijklmnop"), request("xyz")]) == [-16.0, -3.0]
    scored = [id for ids, start in backend.rows for id in ids[start:]]
    assert tokens.decode(scored) == "abcdefghijklmnopxyz"
    assert all(len(ids) <= 8 and start >= 1 for ids, start in backend.rows)
