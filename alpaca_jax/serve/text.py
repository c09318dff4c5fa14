"""The text of one answer as its tokens come in, up to a stop string."""

from collections.abc import Sequence
from typing import NamedTuple

from alpaca_jax.decode.generation import Token
from alpaca_jax.tokenizer import TextStream, Tokenizer


class First(NamedTuple):
    """The first token of a prompt: nothing goes before it that could make it likely."""

    id: int
    logprob: None = None
    top: None = None


class Piece(NamedTuple):
    """What one step added to one choice (by its index). `offsets`: where in the text of the choice its tokens begin."""

    choice: int
    text: str
    tokens: Sequence[Token | First]
    offsets: list[int]
    finish_reason: str | None


class Answer:
    """One choice: `add` turns tokens into text, cuts it before a stop string and holds back what might become one."""

    def __init__(self, index: int, tokenizer: Tokenizer, stops: Sequence[str], before: str = "") -> None:
        self.index = index
        self.count = 0  # tokens generated, those of a stop string included
        self.finish_reason: str | None = None
        self._stream = TextStream(tokenizer)
        self._stops = stops
        self._given = len(before)  # characters of text handed out, with those of the prompt where it goes before
        self._held = ""  # text that may be the beginning of a stop string
        self._pending: list[tuple[Token, int]] = []  # tokens whose text is not handed out, with their offsets

    def add(self, tokens: Sequence[Token], finish_reason: str | None) -> Piece:
        """The text that is now certain, with its tokens. A complete stop string is the finish reason "stop", whatever follows it."""
        for token in tokens:
            self.count += 1
            self._pending.append((token, self._given + len(self._held)))
            self._held += self._stream.push(token.id)
            if self._cut():
                return self._give(len(self._held), "stop")
        if finish_reason is None:
            return self._give(len(self._held) - self._possible(), None)
        self._held += self._stream.rest()
        if self._cut():
            return self._give(len(self._held), "stop")
        return self._give(len(self._held), finish_reason)

    def add_only(self, token: Token, stop_ids: frozenset[int]) -> Piece:
        """The answer of one token. One that stops has no text and is listed all the same: who asks for one counts on one."""
        if token.id not in stop_ids:
            return self.add([token], "length")
        self.count, self.finish_reason = 1, "stop"
        return Piece(self.index, "", [token], [self._given], "stop")

    def _cut(self) -> bool:
        """Cuts the held text before the first stop string in it and drops the tokens after it; False where there is none."""
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self._held = self._held[: min(places)]
            self._pending = [each for each in self._pending if each[1] < self._given + len(self._held)]
        return bool(places)

    def _give(self, size: int, finish_reason: str | None) -> Piece:
        text, self._held = self._held[:size], self._held[size:]
        self._given += size
        self.finish_reason = finish_reason
        ready = sum(finish_reason is not None or offset < self._given for _, offset in self._pending)
        given, self._pending = self._pending[:ready], self._pending[ready:]
        return Piece(self.index, text, [token for token, _ in given], [offset for _, offset in given], finish_reason)

    def _possible(self) -> int:
        """The length of the longest end of the held text with which a stop string begins."""
        longest = max(map(len, self._stops), default=1) - 1
        ends = range(min(longest, len(self._held)), 0, -1)
        return next((size for size in ends if any(stop.startswith(self._held[-size:]) for stop in self._stops)), 0)
