"""A prompt, and a set of them with a fingerprint."""

import dataclasses
import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What a user says: `turns[0]` is the instruction with the input below it, later turns follow up on the answers.

    `instruction` and `input` are the two parts of the first turn, for templates that render them apart. `source` is what else the file
    says of the prompt (category, dataset, reference answer).
    """

    id: str
    turns: tuple[str, ...]
    instruction: str
    input: str = ""
    system: str = ""
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        instruction: str,
        input: str = "",
        *,
        id: str = "",
        later: tuple[str, ...] = (),
        system: str = "",
        source: Mapping[str, Any] | None = None,
    ) -> "Prompt":
        """The prompt of these texts; without an id it gets a hash of them, 16 hex digits."""
        turns = (f"{instruction}\n\n{input}" if input.strip() else instruction, *later)
        own = hashlib.sha256(json.dumps([system, *turns]).encode()).hexdigest()[:16]
        return cls(id or own, turns, instruction, input if input.strip() else "", system, source or {})

    @property
    def text(self) -> str:
        """All that the user says, turn after turn."""
        return "\n\n".join(self.turns)


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Prompts in the order of their file; `notes` says in words what was odd about it, as prompts that are in it twice."""

    name: str
    place: str  # the file
    prompts: tuple[Prompt, ...]
    notes: tuple[str, ...] = ()
    beginning_of: str | None = None  # the fingerprint of the set whose first prompts these are

    @property
    def whole(self) -> str:
        """The fingerprint of the whole set, of which this may be the beginning."""
        return self.beginning_of or self.fingerprint

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the ids and texts in their order, 16 hex digits."""
        content = [[prompt.id, prompt.system, *prompt.turns] for prompt in self.prompts]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    @functools.cached_property
    def by_id(self) -> Mapping[str, Prompt]:
        """The prompts by their ids."""
        return {prompt.id: prompt for prompt in self.prompts}

    @functools.cached_property
    def by_text(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the prompts whose first turn has a folded text."""
        return _grouped((folded(prompt.turns[0]), prompt.id) for prompt in self.prompts)

    @functools.cached_property
    def by_instruction(self) -> Mapping[str, tuple[str, ...]]:
        """The ids of the prompts whose instruction, without its input, has a folded text."""
        return _grouped((folded(prompt.instruction), prompt.id) for prompt in self.prompts)

    def first(self, number: int | None) -> "PromptSet":
        """The set of the first prompts alone; all of them for None."""
        if number is None or number >= len(self):
            return self
        return dataclasses.replace(self, prompts=self.prompts[:number], beginning_of=self.whole)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found = defaultdict[str, list[str]](list)
    for text, id in pairs:
        found[text].append(id)
    return {text: tuple(ids) for text, ids in found.items()}


def folded(text: str) -> str:
    """The text with each run of white space as one space: files of one set differ in their line breaks."""
    return " ".join(text.split())
