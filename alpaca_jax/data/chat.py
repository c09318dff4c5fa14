"""Chat templates: which text of a conversation is context and which is learnt.

A foreign template may change texts in any way, so it renders every record. Our own templates only insert texts, some of them stripped:
they are rendered once for all records of one shape, with marks in place of the texts, and then the texts are filled in.
"""

import dataclasses
import datetime
import functools
import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer, tracks

ONE_TURN = "give records of one turn, or a template that does"
# A mark is a number between signs that no filter changes, surrounded by white space that no template writes and stripping removes.
SIGN, SPACE = "\ue0f1", "\u2003"
MARK = re.compile(rf"({SPACE}?){SIGN}(\d+){SIGN}({SPACE}?)")

Message = dict[str, str]


class Piece(NamedTuple):
    """A part of a record's text: context or, where it is `learnt`, an answer without the token that ends it."""

    text: str
    learnt: bool


class Slot(NamedTuple):
    """The place of a text, and on which sides its outer white space is kept."""

    number: int
    left: bool
    right: bool

    def fill(self, texts: Sequence[str]) -> str:
        text = texts[self.number]
        text = text if self.left else text.lstrip()
        return text if self.right else text.rstrip()


class Frame(NamedTuple):
    """The text around the texts of every record of one shape: the parts of each piece, and whether it is learnt."""

    pieces: list[tuple[list[str | Slot], bool]]
    trimmed: set[int]  # the texts that are stripped

    @classmethod
    def of(cls, pieces: Sequence[Piece]) -> "Frame":
        """Returns the frame of a record that was rendered with marks as its texts."""
        frame = cls([(_parts(text), learnt) for text, learnt in pieces], set())
        slots = (part for parts, _ in frame.pieces for part in parts if isinstance(part, Slot))
        return frame._replace(trimmed={slot.number for slot in slots if not (slot.left and slot.right)})


def bos_text(tokenizer: Tokenizer) -> str:
    """Returns the text of the BOS token where the tokenizer puts one before a text, otherwise ""."""
    return tokenizer.backend.token(tokenizer.bos_id) if tokenizer.adds_bos and tokenizer.bos_id is not None else ""


@dataclasses.dataclass(frozen=True)
class Form:
    """What a template writes around an answer."""

    lead: str  # between the prompt and the answer
    tail: str  # all that follows the answer: `close`, `end`, and what belongs to the next prompt
    close: str  # between the answer and the token that ends it
    end: str  # that token; "" where the template writes none, and `end_id` is EOS
    end_id: int
    takes_input: bool  # otherwise the input goes below the instruction


@dataclasses.dataclass(frozen=True)
class Chat:
    """The tokenizer's chat template: prefixes of the chat are rendered, and what an answer adds to its prompt is learnt."""

    name: str
    tokenizer: Tokenizer
    ours: bool = False  # one of `templates/`
    now: datetime.datetime = dataclasses.field(default_factory=datetime.datetime.now)  # the same for all records that write the date

    def __post_init__(self) -> None:
        _ = self.form  # raises where the template can't be used

    @functools.cached_property
    def form(self) -> Form:
        """What the template writes around an answer; a UserError where it writes no answer or no instruction."""
        instruction, response, extra = (f"{SIGN}{number}{SIGN}" for number in range(3))
        user, answer = {"role": "user", "content": instruction, "input": extra}, {"role": "assistant", "content": response}
        prompt, whole = self._render([user], True), self._render([user, answer], False)
        for what, place, text in (("instruction", instruction, prompt), ("response", response, whole)):
            if place not in text:
                raise UserError(f"data.template={self.name} has no place for the {what}: it must write each message's content")
        if not whole.startswith(prompt):
            raise UserError(
                f"data.template={self.name}: a chat with its answer must begin with the chat that asks for it "
                "(add_generation_prompt); give a template where it does"
            )
        lead, _, tail = whole[len(prompt) :].partition(response)
        ending = re.search("|".join(map(re.escape, self._ends)), tail)
        if ending is None and self.ours:
            raise UserError(
                f"data.template={self.name} ends an answer with {tail.strip()}, which is no token of this tokenizer: "
                "give data.template=alpaca, vicuna, plain or, where it has a chat template, chat"
            )
        close, end = ("", "") if ending is None else (tail[: ending.start()], ending.group())
        end_id = self._ends[end] if end else self.tokenizer.eos_id
        return Form(lead, tail, close, end, end_id, takes_input=extra in prompt)

    @functools.cached_property
    def _specials(self) -> dict[str, int]:
        """The ids of the special tokens by their text; of two with the same beginning, the longer one comes first."""
        eos = self.tokenizer.eos_id
        specials = {self.tokenizer.backend.token(eos): eos, **self.tokenizer.backend.specials}
        return {text: specials[text] for text in sorted(specials, key=len, reverse=True)}

    @functools.cached_property
    def _ends(self) -> dict[str, int]:
        """The tokens that may end an answer: the special ones, and others that were added, as a chat's often are."""
        added = {text: id for text, id in self.tokenizer.backend.added.items() if text.strip()} | self._specials
        return {text: added[text] for text in sorted(added, key=len, reverse=True)}

    @functools.cached_property
    def bos(self) -> str:
        """The BOS token where the template writes it before a chat, otherwise ""."""
        bos = bos_text(self.tokenizer)
        return bos if self._render(self._messages("", "", ["first"]), True).startswith(bos) else ""

    @functools.cached_property
    def tracked(self) -> bool:
        """Whether the template marks what is generated, and so what is learnt."""
        return not self.ours and tracks(self.chat_template())

    def generated(self, record: Record) -> tuple[str, list[tuple[int, int]]]:
        """Returns the text of the whole record, BOS included, and the places that the template marks as generated and that are learnt."""
        messages = self._chat(record)
        try:
            text, spans = self.tokenizer.rendered_chat(messages, add_generation_prompt=False, now=self.now)
        except UserError as error:
            raise UserError(f"data.template={self.name}: {error}") from error
        self._check_written(record, text, [text] * len(record.reasoning))
        if record.shown and len(spans) != 1 + len(record.turns):
            raise UserError(
                f"{record.place()}: data.template={self.name} marks {len(spans)} texts of {1 + len(record.turns)} answers as generated, "
                "so that those that are only shown can't be told from the others; give another template, or leave the record out"
            )
        return text, [span for number, span in enumerate(spans) if number not in record.shown]

    def token_before(self, prompt: Piece) -> str | None:
        """Returns the special token that stands right before an answer, if any."""
        if not self.special or not prompt.text.endswith(tuple(self._specials)):
            return None
        return next(text for text in self._specials if prompt.text.endswith(text))

    @functools.cached_property
    def special(self) -> bool:
        # Where the template writes none, a record that spells one means the text. What a foreign one writes may depend on the record.
        two = self._rendered(self._messages("system", "", ["first", "answer", "second", "answer"])) if self.ours else []
        return not two or any(text in piece.text for piece in two if not piece.learnt for text in self._specials)

    @property
    def special_answer(self) -> bool:
        return any(text in self.form.lead for text in self._specials)

    @property
    def end_id(self) -> int:
        return self.form.end_id

    def pieces(self, record: Record) -> list[Piece]:
        if not (self.ours and record.instruction) or record.reasoning:
            return self.rendered(record)
        frame = self._frame(bool(record.system), bool(record.input), len(record.turns))
        texts = [record.system, record.input, record.instruction, record.output, *itertools.chain(*record.turns)]
        if not all(texts[number].strip() for number in frame.trimmed):
            return self.rendered(record)  # next to an empty text, the template's own white space is stripped too
        return [
            Piece("".join(part.fill(texts) if isinstance(part, Slot) else part for part in parts), learnt) for parts, learnt in frame.pieces
        ]

    def rendered(self, record: Record) -> list[Piece]:
        """Returns the pieces of the record, always by rendering it."""
        pieces = self._rendered(self._chat(record))
        self._check_written(record, pieces[0].text, [piece.text for piece in pieces if piece.learnt])
        return pieces

    def _chat(self, record: Record) -> list[Message]:
        if not record.instruction:
            raise UserError(f"{record.place()} is a text without an instruction: give data.template=text for such records")
        said = [record.instruction, record.output, *itertools.chain(*record.turns)]
        return _thinking(self._messages(record.system, record.input, said), record.reasoning)

    def _check_written(self, record: Record, prompt: str, answers: Sequence[str]) -> None:
        """Raises a UserError where the template has left out the system text or what was thought before an answer."""
        if not all(text.strip() in answer for text, answer in zip(record.reasoning, answers, strict=False)):
            raise UserError(
                f"{record.place()}: data.template={self.name} does not write the reasoning (reasoning_content): give a template that does, "
                "write it into the answer, or take it out"
            )
        if record.system.strip() not in prompt:
            raise UserError(f"data.template={self.name} leaves out the system text of {record.place()}: give a template that writes it")

    def prompt(self, instruction: str, input: str = "") -> str:
        return self.pieces(Record(instruction, input))[0].text

    def chat_template(self) -> str:
        return str(self.tokenizer.chat_template)

    @functools.cached_property
    def _frames(self) -> dict[tuple[bool, bool, int], Frame]:
        return {}

    def _frame(self, system: bool, input: bool, turns: int) -> Frame:
        key = (system, input, turns)
        if key not in self._frames:
            marks = [f"{SPACE}{SIGN}{number}{SIGN}{SPACE}" for number in range(4 + 2 * turns)]
            self._frames[key] = Frame.of(self._rendered(self._messages(marks[0] * system, marks[1] * input, marks[2:])))
        return self._frames[key]

    def _rendered(self, messages: list[Message]) -> list[Piece]:
        before, pieces = self.bos, list[Piece]()
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt, whole = self._render(messages[:number], True), self._render(messages[: number + 1], False)
            if not prompt.startswith(before):
                raise UserError(f"data.template={self.name} writes earlier turns in another way once there are later ones: {ONE_TURN}")
            if not (whole.startswith(prompt) and whole.endswith(self.form.tail)):
                raise UserError(f"data.template={self.name} does not write every answer in the same way: {ONE_TURN}")
            answer = whole[len(prompt) : len(whole) - len(self.form.tail)] + self.form.close
            pieces += [Piece(prompt[len(before) :], False), Piece(answer, True)]
            before = prompt + answer + self.form.end
        return pieces

    def _messages(self, system: str, input: str, said: Sequence[str]) -> list[Message]:
        """The chat of these texts: `said` alternates between user and assistant, and the input belongs to the first message."""
        messages = [{"role": role, "content": text} for role, text in zip(itertools.cycle(("user", "assistant")), said, strict=False)]
        if input and self.form.takes_input:
            messages[0]["input"] = input
        elif input:
            messages[0]["content"] += f"\n\n{input}"
        return [{"role": "system", "content": system}, *messages] if system else messages

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return self.tokenizer.render_chat(messages, add_generation_prompt, self.now)
        except UserError as error:
            raise UserError(f"data.template={self.name}: {error}") from error


def _thinking(messages: list[Message], reasoning: Sequence[str]) -> list[Message]:
    """The chat with what the assistant thought before each answer, under the key that chat templates read."""
    thoughts = iter(reasoning)
    return [
        message | {"reasoning_content": text} if message["role"] == "assistant" and (text := next(thoughts, "")) else message
        for message in messages
    ]


def _parts(text: str) -> list[str | Slot]:
    """The text around the marks in `text`, and a slot for each mark."""
    first, *others = MARK.split(text)
    parts: list[str | Slot] = [first]
    for left, number, right, after in zip(*(others[place::4] for place in range(4)), strict=True):
        parts += [Slot(int(number), bool(left), bool(right)), after]
    return parts
