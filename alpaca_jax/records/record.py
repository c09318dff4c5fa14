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
OPTIONAL = ("system", "turns", "shown", "reasoning")  # written only where there are any


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
    where: str = dataclasses.field(default="", compare=False, repr=False)  # file and line

    def __post_init__(self) -> None:
        if not self.id:
            more = [self.shown, self.reasoning] if self.shown or self.reasoning else []
            object.__setattr__(self, "id", _hashed([*self._texts(), *more]))

    def text_id(self) -> str:
        """Returns a hash of the texts alone, 16 hex digits, which copies have in common; the id of a record that the file gives none."""
        return _hashed(self._texts())

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
    return {name: value for name, value in fields.items() if value or name not in OPTIONAL}
