"""A file of prompts as a PromptSet."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import records, storage
from alpaca_jax.errors import UserError
from alpaca_jax.records import items as stored
from alpaca_jax.records.files import kind
from alpaca_jax.records.opening import opened
from alpaca_jax.scores.prompts import shapes
from alpaca_jax.scores.prompts.prompt import Prompt, PromptSet, folded

SHOWN = 8  # that are named one by one


def read(place: str | os.PathLike[str], key: str = "answers.prompts") -> PromptSet:
    """Returns the prompts of a file: Self-Instruct's, AlpacaEval's, MT-bench's or Vicuna's shape, our records, a list of texts, or a .txt
    file with one a line.

    A prompt that stands there twice, with the same id and text, is taken once. A UserError names file and line of one that can't be read,
    and ids that mean two different prompts; `key` is the setting that named the file.
    """
    place = str(storage.at(place))
    found, notes = dict[str, Prompt](), list[str]()
    texts, places = dict[tuple[str, ...], str](), dict[str, str]()
    for where, load in items(place, key):
        try:
            made = shapes.prompts(load())
        except ValueError as problem:
            raise UserError(f"{key}: {place}, {where}: {problem}") from None
        for prompt in made:
            same, words = found.get(prompt.id), (prompt.system, *map(folded, prompt.turns))
            if same is not None and (same.system, *map(folded, same.turns)) != words:
                raise UserError(
                    f"{key}: {place}, {where}: the id {prompt.id!r} is that of another prompt in {places[prompt.id]}; give each its own id"
                )
            if same is not None:
                notes.append(f"{where} repeats {places[prompt.id]} and is taken once")
                continue
            if words in texts:
                notes.append(f"{prompt.id} has the text of {texts[words]}")
            found[prompt.id] = prompt
            texts.setdefault(words, prompt.id)
            places[prompt.id] = where
    if not found:
        raise UserError(f"{key}: {place} holds no prompt; give a file with one prompt a line, or a JSON array of them")
    return PromptSet(Path(place).name.split(".")[0], place, tuple(found.values()), tuple(notes))


def items(place: str, key: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yields (line or record number, function that loads it) of each item of a file; the function raises a ValueError if it is broken.

    A UserError names a place where there is no file, or one that can't hold prompts or answers.
    """
    path = storage.at(place)
    with storage.explained(path):
        if path.is_dir() and not (path / records.FILE).is_file():
            raise UserError(f"{key}: {place} is a folder; give the file in it")
        if not path.exists():
            raise UserError(f"{key}: there is no file {place}; give the path of one")
    path = path / records.FILE if path.is_dir() else path
    if kind(path.name) == ".txt":
        yield from _lines(path)
    else:
        yield from stored.items(path)


def _lines(path: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    with opened(path) as content:
        for number, line in stored.lines(path, content):
            yield f"line {number}", lambda line=line: line.decode().strip()  # type: ignore[misc]


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
