"""The record: an instruction with its answer, or a text, as every stage hands it to the next."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from alpaca_jax.rundir import write_atomic

OnError = Literal["stop", "skip"]
FILE = "records.jsonl"
SAID = ("rejected", "desired")  # written unless None
OPTIONAL = ("system", "turns", "shown", "reasoning", *SAID)  # written only where there are any


@dataclasses.dataclass(frozen=True)
class Record:
    """An instruction with its answer, and the later `turns` (user, assistant); a text for pre-training has only an `output`.

    `id` is a hash of the texts unless the file has one.
    """

    instruction: str
    input: str = ""
    output: str = ""
    id: str = ""
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()
    shown: tuple[int, ...] = ()  # the answers that are read and not learnt, by number: 0 is `output`, 1 the answer of the first turn
    reasoning: tuple[str, ...] = ()  # what the assistant thought before each of its answers; () where it never did
    rejected: str | None = None  # a worse last answer
    desired: bool | None = None  # whether the last answer is wanted; None: nobody has said
    where: str = dataclasses.field(default="", compare=False, repr=False)  # file and line

    def __post_init__(self) -> None:
        if not self.id:
            more: list[Any] = [self.shown, self.reasoning] if self.shown or self.reasoning else []
            more += [self.rejected, self.desired] if self.is_preference else []
            object.__setattr__(self, "id", _hashed([*self._texts(), *more]))

    @property
    def is_preference(self) -> bool:
        """Whether the record says that its last answer is better than another one, or wanted, or not."""
        return self.rejected is not None or self.desired is not None

    @property
    def answer(self) -> str:
        """The last answer."""
        return self.turns[-1][1] if self.turns else self.output

    def answering(self, answer: str) -> "Record":
        """Returns the record with another last answer, which is the only one that is learnt."""
        fields = {"turns": (*self.turns[:-1], (self.turns[-1][0], answer))} if self.turns else {"output": answer}
        return dataclasses.replace(self, **fields, shown=tuple(range(len(self.turns))), rejected=None, desired=None)

    def asked(self) -> list[Any]:
        """Returns all that comes before the last answer."""
        return [*self.answering("")._texts(), self.reasoning[:-1]]

    def text_id(self) -> str:
        """Returns a hash of the texts alone, 16 hex digits, which copies have in common; the id of a record that the file gives none.

        Of a preference it is a hash of what was asked: the answers to one question are on one side of a split, as copies are.
        """
        return _hashed(self.asked() if self.is_preference else self._texts())

    def place(self) -> str:
        """Returns the file and line of the record, or its id where they aren't known."""
        return self.where or f"record {self.id}"

    def _texts(self) -> list[Any]:
        texts: list[Any] = [self.instruction, self.input, self.output]
        return [*texts, self.system, self.turns] if self.system or self.turns else texts


def write(path: Path, records: Iterable[Record]) -> str:
    """Writes a JSONL file at `path` atomically, and returns its sha256."""
    content = "".join(json.dumps(_written(record), ensure_ascii=False) + "\n" for record in records).encode()
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def _hashed(texts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _written(record: Record) -> dict[str, Any]:
    """The record as JSON: a text for pre-training as `text`, others without what is empty of OPTIONAL."""
    fields = dataclasses.asdict(record)
    del fields["where"]
    if not record.instruction:
        return {"text": record.output, "id": record.id, "provenance": fields["provenance"]}
    return {name: value for name, value in fields.items() if name not in OPTIONAL or value or (name in SAID and value is not None)}
