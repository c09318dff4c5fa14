"""A chat template, taken apart: what of a conversation is shown and what is learnt."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from alpaca_jax.data.frame import SIGN, SPACE, Frame, Traced, fill, mark
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer

ONE_TURN = "give records of one turn, or a template that does"

Message = dict[str, str]


class Piece(NamedTuple):
    """A part of a record: shown, or `learnt`, which is an answer up to the one token that ends it."""

    text: str
    learnt: bool


def bos_text(tokenizer: Tokenizer) -> str:
    """Returns the text of the BOS that the tokenizer wants before a text, or ""."""
    return tokenizer.backend.token(tokenizer.bos_id) if tokenizer.adds_bos and tokenizer.bos_id is not None else ""


@dataclasses.dataclass(frozen=True)
class Form:
    """What a template writes around an answer: up to it behind the prompt, up to the token that ends it, and that token."""

    lead: str
    tail: str  # all that follows the answer: `close`, `end`, and what belongs to the next prompt
    close: str
    end: str  # "" where the template writes no such token; `end_id` is EOS then
    end_id: int
    takes_input: bool  # else the input stands below the instruction


@dataclasses.dataclass(frozen=True)
class Chat:
    """A chat template, which the tokenizer holds: prefixes of the chat are rendered, and the difference is what is learnt."""

    name: str
    tokenizer: Tokenizer
    ours: bool = False  # one of `templates/`; else it may be any

    def __post_init__(self) -> None:
        _ = self.form  # a template that can't be used is known before the first record

    @functools.cached_property
    def form(self) -> Form:
        """What the template writes around an answer; a UserError where it has no place for it, or none for the instruction."""
        instruction, response, extra = (f"{SIGN}{number}{SIGN}" for number in range(3))  # of signs that no filter changes
        user, answer = {"role": "user", "content": instruction, "input": extra}, {"role": "assistant", "content": response}
        shown, whole = self._render([user], True), self._render([user, answer], False)
        for what, place, text in (("instruction", instruction, shown), ("response", response, whole)):
            if place not in text:
                raise UserError(f"data.template={self.name} has no place for the {what}: it must write each message's content")
        if not whole.startswith(shown):
            raise UserError(
                f"data.template={self.name}: a chat with its answer must begin with the chat that asks for it "
                "(add_generation_prompt); give a template where it does"
            )
        lead, _, tail = whole[len(shown) :].partition(response)
        ending = re.search("|".join(map(re.escape, self._specials)), tail)
        if ending is None and self.ours:
            raise UserError(
                f"data.template={self.name} ends an answer with {tail.strip()}, which is no token of this tokenizer: "
                "give data.template=alpaca, vicuna, plain or, where it has a chat template, chat"
            )
        close, end = ("", "") if ending is None else (tail[: ending.start()], ending.group())
        end_id = self._specials[end] if end else self.tokenizer.eos_id
        return Form(lead, tail, close, end, end_id, takes_input=extra in shown)

    @functools.cached_property
    def _specials(self) -> dict[str, int]:
        """The special tokens by their text, of two with the same beginning the longer one first."""
        eos = self.tokenizer.eos_id
        specials = {self.tokenizer.backend.token(eos): eos, **self.tokenizer.backend.specials}
        return {text: specials[text] for text in sorted(specials, key=len, reverse=True)}

    @functools.cached_property
    def special(self) -> bool:
        # Where the template writes none, a record that spells one means the text. What another's writes may hang on the record.
        two = self._rendered(self._messages("system", "", ["first", "answer", "second", "answer"])) if self.ours else []
        return not two or any(text in piece.text for piece in two if not piece.learnt for text in self._specials)

    @property
    def special_answer(self) -> bool:
        return any(text in self.form.lead for text in self._specials)

    @property
    def end_id(self) -> int:
        return self.form.end_id

    def pieces(self, record: Record) -> list[Piece]:
        frame = self._frame(bool(record.system), bool(record.input), len(record.turns)) if record.instruction else None
        texts = [record.system, record.input, record.instruction, record.output, *itertools.chain(*record.turns)]
        if frame is None or any(not texts[number].strip() for number in frame.trimmed):  # blank, and what is beside it is trimmed
            return self.rendered(record)
        return [Piece(fill(around, texts), learnt) for around, learnt in frame.pieces]

    def rendered(self, record: Record) -> list[Piece]:
        """Returns what `pieces` does, always by rendering this very record."""
        if not record.instruction:
            raise UserError(f"record {record.id} is a text without an instruction: give data.template=text for such records")
        said = [record.instruction, record.output, *itertools.chain(*record.turns)]
        pieces = self._rendered(self._messages(record.system, record.input, said))
        if record.system.strip() not in pieces[0].text:
            raise UserError(f"data.template={self.name} leaves out the system text of record {record.id}: give a template that writes it")
        return pieces

    def prompt(self, instruction: str, input: str = "") -> str:
        return self.pieces(Record(instruction, input))[0].text

    def chat_template(self) -> str:
        return str(self.tokenizer.chat_template)

    @functools.cached_property
    def _frames(self) -> dict[tuple[bool, bool, int], Frame | None]:
        return {}

    def _frame(self, system: bool, input: bool, turns: int) -> Frame | None:
        """What stands around the texts in the pieces of every such record, or None where that hangs on the texts.

        It is rendered once: one by one would take as long as tokenizing.
        """
        key = (system, input, turns)
        if key not in self._frames:
            self._frames[key] = self._marked(system, input, 2 + 2 * turns)
        return self._frames[key]

    def _marked(self, system: bool, input: bool, said: int) -> Frame | None:
        marks, looks = [mark(number, SPACE) for number in range(2 + said)], list[str]()
        messages = self._messages(marks[0] * system, marks[1] * input, marks[2:])
        try:
            pieces = self._rendered(
                [{name: text if name == "role" else Traced(text, looks) for name, text in message.items()} for message in messages]
            )
        except UserError:
            return None  # the record itself will tell why
        frame = Frame.of(pieces)
        wanted = [number for number in range(2 + said) if number > 1 or (system, input)[number]]
        return frame if sorted(slot.number for slot in frame.slots()) == wanted and not looks else None

    def _rendered(self, messages: list[Message]) -> list[Piece]:
        before, pieces = bos_text(self.tokenizer), list[Piece]()
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            shown, whole = self._render(messages[:number], True), self._render(messages[: number + 1], False)
            if not shown.startswith(before):
                raise UserError(f"data.template={self.name} writes earlier turns in another way once there are later ones: {ONE_TURN}")
            if not (whole.startswith(shown) and whole.endswith(self.form.tail)):
                raise UserError(f"data.template={self.name} does not write every answer in the same way: {ONE_TURN}")
            answer = whole[len(shown) : len(whole) - len(self.form.tail)] + self.form.close
            pieces += [Piece(shown[len(before) :], False), Piece(answer, True)]
            before = shown + answer + self.form.end
        return pieces

    def _messages(self, system: str, input: str, said: Sequence[str]) -> list[Message]:
        """The chat of these texts: `said` in turns by the user and the assistant, the input with the first of them."""
        messages = [{"role": role, "content": text} for role, text in zip(itertools.cycle(("user", "assistant")), said, strict=False)]
        if input and self.form.takes_input:
            messages[0]["input"] = input
        elif input:
            messages[0]["content"] += f"\n\n{input}"
        return [{"role": "system", "content": system}, *messages] if system else messages

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.render_chat(messages, add_generation_prompt)
        except UserError as error:
            raise UserError(f"data.template={self.name}: {error}") from error
