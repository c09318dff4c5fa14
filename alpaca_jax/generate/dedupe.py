"""Near-duplicates by ROUGE-L, and overlap with evaluation sets."""

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rapidfuzz import process
from rapidfuzz.distance import Indel

from alpaca_jax import documents
from alpaca_jax.errors import UserError

_WORD = re.compile(r"[a-z0-9]+")
UNSEEN = "\0"  # stands for every word that no text seen so far has
MOST_BYTES = 1 << 30  # of an evaluation set
SHARED_WORDS = 13  # consecutive words in common with an evaluation set that cannot be coincidence


def words(text: str) -> list[str]:
    """The tokens that ROUGE compares: runs of ASCII letters and digits, in lower case."""
    return _WORD.findall(text.lower())


class Seen(Protocol):
    """The instructions seen so far, to recognise near-duplicates; many threads may ask while one adds."""

    def add(self, text: str) -> None:
        """Counts `text` as seen."""
        ...

    def holds(self, text: str) -> bool:
        """Whether `text` is a near-duplicate of an earlier one. It remains one, whatever else is added."""
        ...


class RougeSeen:
    """Near-duplicates by ROUGE-L against all instructions seen so far, each stored as a string with one character per word.

    The normalised Indel similarity of two such strings is their ROUGE-L F1. Texts without any ASCII word (in other scripts) would all
    be equal, so they are compared as whole strings instead.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._letters: dict[str, str] = {}
        self._keys: list[str] = []
        self._whole: set[str] = set()
        self._lock = threading.Lock()  # without it, two new words at once could get the same letter

    def add(self, text: str) -> None:
        """Counts `text` as seen."""
        with self._lock:
            key = "".join(self._letters.setdefault(word, _letter(len(self._letters))) for word in words(text))
        if key:
            self._keys.append(key)
        else:
            self._whole.add(text.strip().casefold())

    def holds(self, text: str) -> bool:
        """Whether an earlier text has a ROUGE-L F1 above the threshold with this one."""
        key = "".join(self._letters.get(word, UNSEEN) for word in words(text))
        if not key:
            return text.strip().casefold() in self._whole
        best = process.extractOne(key, list(self._keys), scorer=Indel.normalized_similarity, score_cutoff=self._threshold)
        return best is not None and best[1] > self._threshold


class Evaluations:
    """The evaluation sets that no record may overlap."""

    def __init__(self, paths: Iterable[str], threshold: float) -> None:
        self._instructions = RougeSeen(threshold)
        self._runs: set[tuple[str, ...]] = set()
        for path in paths:
            for texts in _evaluation_texts(Path(path)):
                self._instructions.add(texts[0])
                for text in texts:
                    self._runs.update(_runs(text))

    def hold(self, instruction: str, *others: str) -> bool:
        """Whether the instruction is a near-duplicate of one of theirs, or any text shares 13 consecutive words with them."""
        shared = any(run in self._runs for text in (instruction, *others) for run in _runs(text))
        return shared or self._instructions.holds(instruction)


def _letter(number: int) -> str:
    return chr(number + 1 if number < 0xD7FF else number + 0x801)  # skips the surrogates, which are not characters


def _runs(text: str) -> Iterator[tuple[str, ...]]:
    tokens = words(text)
    return (tuple(tokens[i : i + SHARED_WORDS]) for i in range(len(tokens) - SHARED_WORDS + 1))


def _evaluation_texts(path: Path) -> Iterator[Sequence[str]]:
    """The instruction and further texts of each task in a JSONL file or JSON array, in any of the usual shapes of evaluation sets."""
    content = documents.read(path, MOST_BYTES).removeprefix(b"\xef\xbb\xbf")
    try:
        items = _items(content)
    except ValueError as problem:
        raise UserError(f"decontaminate: {path} can't be read ({problem}). Give JSONL files or JSON arrays, or null.") from None
    for number, item in enumerate(items, start=1):
        task = next((text for key in ("instruction", "question", "prompt") if isinstance(text := _field(item, key), str)), None)
        if task is None:
            raise UserError(f"decontaminate: {path}, record {number}: has no instruction, question or prompt.")
        instances = _field(item, "instances")
        parts = [item, *(instances if isinstance(instances, list) else [])]
        yield [task, *(text for part in parts for key in ("input", "output") if isinstance(text := _field(part, key), str))]


def _items(content: bytes) -> list[Any]:
    if content.lstrip().startswith(b"["):
        array: list[Any] = documents.json_value(content)
        return array
    items = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                items.append(documents.json_value(line))
            except ValueError as problem:
                raise ValueError(f"line {number}: {problem}") from None
    return items


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else None
