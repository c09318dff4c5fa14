"""The manifest beside generated records."""

import dataclasses
from pathlib import Path
from typing import Any

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import write_json

MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """How a records file was generated: enough to trace it, to check it and to estimate the cost of repeating it."""

    method: str
    teacher: dict[str, Any]
    sampling: dict[str, Any]
    seed: int
    records: int
    sha256: str
    counts: dict[str, int]  # what became of the answers: kept, or dropped by which filter
    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float  # by the token counts in the answers
    doubtful_dollars: float  # at most this much more, for requests whose answer never arrived
    prices: dict[str, Any]  # dollars per million tokens, and the source of that figure
    seconds: float  # of the process that wrote this
    stopped_by: str  # "count", "dollars", "requests", "patience" or "log"
    versions: dict[str, str]
    made: str  # ISO date and time, UTC
    unbelieved_answers: int = 0  # whose token counts can't be true or are missing: charged the most that they can cost
    cached_prompt_tokens: int = 0  # of the prompt tokens, those that the teacher had in its cache
    damaged_lines: int = 0  # of the log of answers, passed over
    judge: dict[str, Any] = dataclasses.field(default_factory=dict)  # of pairs: who ordered the answers, and its own bill

    def write(self, path: Path) -> None:
        """Writes the manifest to `path` atomically, as JSON."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """The manifest at `path`; a UserError where it is not one of ours."""
        from pydantic import TypeAdapter, ValidationError

        content = documents.json_object(documents.read(path), str(path))
        try:
            return TypeAdapter(cls).validate_python(content)
        except ValidationError as error:
            problem = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg'].lower()}" for each in error.errors()[:3])
            raise UserError(f"{path}: not a manifest of records ({problem}). Make the records again with `alpaca-jax generate`.") from None
