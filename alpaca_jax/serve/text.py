"""The text of one answer as its tokens come in, up to a stop string."""

from collections.abc import Sequence
from typing import NamedTuple

from alpaca_jax.data.tokenizer import TextStream, Tokenizer
from alpaca_jax.decode.engine import Token


class Piece(NamedTuple):
    """What one step added to one choice. `offsets` are the places in the choice's text at which its tokens begin."""

    index: int
    text: str
    tokens: list[Token]
    offsets: list[int]
    finish_reason: str | None


class Answer:
    """One choice: `add` turns tokens into text, cuts it before a stop string and holds back what might become one."""

    def __init__(self, index: int, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self.index = index
        self.count = 0  # tokens generated, those of a stop string included
        self.finish_reason: str | None = None
        self._stream = TextStream(tokenizer)
        self._stops = stops
        self._held = ""  # text that is final but may be the beginning of a stop string
        self._given = 0  # characters of text handed out

    def add(self, tokens: Sequence[Token], finish_reason: str | None) -> Piece:
        """The text that is now certain. The answer's own finish reason is "stop" as soon as a stop string is complete."""
        kept: list[Token] = []
        offsets: list[int] = []
        for token in tokens:
            kept.append(token)
            offsets.append(self._given + len(self._held))
            self.count += 1
            self._held += self._stream.push(token.id)
            if self._cut():
                return self._piece(kept, offsets, "stop")
        if finish_reason is not None:
            self._held += self._stream.rest()
            return self._piece(kept, offsets, "stop" if self._cut() else finish_reason)
        return self._piece(kept, offsets, None)

    def _cut(self) -> bool:
        """Ends the held text before the first stop string in it; False where there is none."""
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self._held = self._held[: min(found)]
        return bool(found)

    def _piece(self, tokens: list[Token], offsets: list[int], finish_reason: str | None) -> Piece:
        certain = len(self._held) if finish_reason is not None else len(self._held) - self._possible()
        text, self._held = self._held[:certain], self._held[certain:]
        self._given += certain
        self.finish_reason = finish_reason
        if finish_reason == "stop":  # a token wholly behind the cut is no part of the answer
            kept = sum(offset < self._given for offset in offsets)
            tokens, offsets = tokens[:kept], offsets[:kept]
        return Piece(self.index, text, tokens, offsets, finish_reason)

    def _possible(self) -> int:
        """The length of the longest end of the held text with which a stop string begins."""
        longest = max(map(len, self._stops), default=1) - 1
        ends = range(min(longest, len(self._held)), 0, -1)
        return next((size for size in ends if any(stop.startswith(self._held[-size:]) for stop in self._stops)), 0)
