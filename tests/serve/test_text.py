"""What is handed out of an answer, and when."""

import bytewise
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax.decode.generation import Token
from alpaca_jax.serve.text import Answer


def feed(tokenizer, text, stops, finish_reason="length"):
    """The pieces of `text`, one token (here: a byte) a step."""
    answer = Answer(0, tokenizer, stops)
    pieces = []
    ids = tokenizer.encode(text)
    for number, id in enumerate(ids):
        pieces.append(answer.add([Token(id, -1.0)], finish_reason if number == len(ids) - 1 else None))
        if pieces[-1].finish_reason is not None:
            break
    return answer, pieces


def test_text_comes_as_soon_as_it_is_certain(tokenizer):
    answer, pieces = feed(tokenizer, "one\n##two\n###\nthree", ["\n###"])
    assert [piece.text for piece in pieces[:6]] == ["o", "n", "e", "", "", ""]
    assert pieces[6].text == "\n##t"
    assert [piece.offsets for piece in pieces[5:8]] == [[], [3, 4, 5, 6], [7]]
    assert "".join(piece.text for piece in pieces) == "one\n##two"
    assert sum(len(piece.tokens) for piece in pieces) == len("one\n##two")
    assert (pieces[-1].finish_reason, answer.count) == ("stop", len("one\n##two\n###"))


def test_a_character_of_several_tokens_is_never_torn(tokenizer):
    _, pieces = feed(tokenizer, "añb", [])
    assert [piece.text for piece in pieces] == ["a", "", "ñ", "b"]
    assert [piece.offsets for piece in pieces] == [[0], [], [1, 1], [2]]


def test_what_is_held_back_is_given_at_the_end(tokenizer):
    for reason in ("length", "stop"):
        _, pieces = feed(tokenizer, "ab##", ["###"], reason)
        assert (pieces[-1].text, pieces[-1].finish_reason) == ("##", reason)
        assert sum(len(piece.tokens) for piece in pieces) == 4


def test_a_stop_string_that_the_last_token_completes(tokenizer):
    _, pieces = feed(tokenizer, "ab###", ["###"], "length")
    assert ("".join(piece.text for piece in pieces), pieces[-1].finish_reason) == ("ab", "stop")


@settings(deadline=None)
@given(st.text("abñ", max_size=20), st.lists(st.text("abñ", min_size=1, max_size=4), max_size=3))
def test_pieces_join_to_the_text_before_the_first_stop(tokenizer, text, stops):
    text += "c"
    found = [(end, text.index(stop)) for stop in stops if stop in text for end in [text.index(stop) + len(stop)]]
    _, pieces = feed(tokenizer, text, stops)
    # The stop string that is complete first counts; of those, the one that begins first.
    expected = text[: min(start for end, start in found if end == min(found)[0])] if found else text
    assert "".join(piece.text for piece in pieces) == expected
    assert pieces[-1].finish_reason == ("stop" if found else "length")


@pytest.mark.parametrize("stops", [[], ["z"]])
def test_every_token_is_given_once(tokenizer, stops):
    _, pieces = feed(tokenizer, "some text — with signs", stops)
    ids = [token.id for piece in pieces for token in piece.tokens]
    assert ids == tokenizer.encode("some text — with signs")


def test_a_single_token_that_stops_is_listed_without_a_text():
    tokenizer = bytewise.tokenizer(["</s>"], eos="</s>")
    stop, (letter,) = Token(tokenizer.eos_id, -1.0), tokenizer.encode("a")
    answer = Answer(0, tokenizer, [], before="Once")
    assert answer.add_only(stop, frozenset({stop.id})) == (0, "", [stop], [4], "stop")
    assert answer.count == 1
    assert Answer(0, tokenizer, [], before="Once").add_only(Token(letter, -1.0), frozenset({stop.id}))[1:4:2] == ("a", [4])
