"""Marks: what stands around them, which white space stays, and texts that notice when they are looked into."""

from collections.abc import Callable

import pytest

from alpaca_jax.data.frame import SPACE, Frame, Slot, Traced, fill, mark, parts


def test_what_stands_around_the_marks_is_filled_with_texts() -> None:
    first, second = mark(0, SPACE), mark(12, SPACE)
    made = parts(f"a {first} b{second.strip()}")
    assert made == ["a ", Slot(0, True, True), " b", Slot(12, False, False), ""]
    texts = [" x\n", *"?" * 11, " y "]
    assert fill(made, texts) == "a  x\n by"
    assert fill(parts(first.rstrip() + second.lstrip()), texts) == " xy "
    assert parts("no mark") == ["no mark"]


def test_a_frame_knows_which_texts_lose_white_space() -> None:
    frame = Frame.of([(f"{mark(0, SPACE)}?", False), (mark(1), True), (mark(2, SPACE).rstrip(), True)])
    assert [slot.number for slot in frame.slots()] == [0, 1, 2] and frame.trimmed == {1, 2}
    assert [learnt for _, learnt in frame.pieces] == [False, True, True]


@pytest.mark.parametrize(
    "change", [str.upper, str.lower, lambda text: text.replace("&", "&amp;"), repr, str.title, lambda text: " ".join(text.split())]
)
def test_a_mark_does_not_survive_a_change(change: Callable[[str], str]) -> None:
    assert len(parts(mark(0))) == 3
    assert len(parts(change(mark(0)))) == 1


LOOKS: list[Callable[[str], object]] = [
    lambda text: "a" in text,
    lambda text: text == "a",
    lambda text: "a" == text,  # noqa: SIM300
    lambda text: text < "b",
    lambda text: bool(text),
    lambda text: text[0],
    lambda text: hash(text),
    lambda text: f"{text}",
    lambda text: text.split("a"),
    lambda text: list(text),
    lambda text: text * 2,
    lambda text: text.strip("a"),
    lambda text: ("b" + text + "b").startswith("b"),
    lambda text: text.strip().upper(),
]


@pytest.mark.parametrize("look", LOOKS)
def test_a_look_is_noted(look: Callable[[str], object]) -> None:
    looks = list[str]()
    look(Traced(" a ", looks))
    assert looks


def test_writing_and_trimming_are_not() -> None:
    looks = list[str]()
    text = Traced(" a ", looks)
    assert str("x" + text + "y") == "x a y"
    assert [str(text.strip()), str(text.lstrip()), str(text.rstrip()), "".join(["b", text])] == ["a", "a ", " a", "b a "]
    assert not looks
