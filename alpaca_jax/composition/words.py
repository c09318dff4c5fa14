"""The words of a command, `key=value`, in Hydra's syntax: what its grammar can't read is text, and what isn't the verb's is refused."""

import re
from collections.abc import Collection, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hydra.errors import HydraException

from alpaca_jax.catalog import EXPERIMENT, Catalog
from alpaca_jax.composition import plugins, references
from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError
from alpaca_jax.grammar import quoted

DEEPEST = 30  # brackets inside brackets that Hydra's parser gets to see: it recurses
KEY = re.compile(r"(\+\+?|~)?[\w./@:-]+")
PAIRS = {"(": ")", "[": "]", "{": "}"}
QUOTES, ESCAPED = ("'", '"'), "\\,"
# An element of a list: a text in quotes, or all up to a comma that no backslash precedes.
ELEMENT = re.compile(r"""\s*('(?:\\'|[^'])*'\s*(?=,|$)|"(?:\\"|[^"])*"\s*(?=,|$)|(?:\\,|[^,])+)""")


def overrides(catalog: Catalog, words: Sequence[str], multirun: bool = False) -> list[str]:
    """Returns the words for Hydra: the experiment's file of this verb, group choices, and every other key forced (`++`).

    Whether a forced key exists is checked when the mapping becomes the Config, whose error names the closest key.
    """
    return [_override(catalog, word, multirun) for word in words]


def _override(catalog: Catalog, word: str, multirun: bool) -> str:
    key, _, value = word.partition("=")
    bare = key.lstrip("+~")
    choices = value.split(",") if multirun else [value]
    if not KEY.fullmatch(key) or bare.count(".") > DEEPEST:
        raise UserError(f"{key[:100]}: a key consists of names of letters, digits and underscores, joined by dots")
    if re.match(r"hydra\b", bare):
        plugins.check_word(bare, value, catalog.options(plugins.LAUNCHER))
        return _forced(key, value, multirun) if bare.startswith("hydra.") and key == bare else word
    if "@" in key:
        raise UserError(f"{key}: a group is chosen by its own name, without @; give {bare.partition('@')[0]}={value}")
    if bare == EXPERIMENT and value not in ("", "null"):
        check_choices(bare, choices, catalog.experiments())
        return f"{key}=" + ",".join(f"{name}/{catalog.base}" for name in choices)
    groups = catalog.groups()
    if bare in groups:
        if not (key.startswith("~") and not value):
            check_choices(bare, choices, catalog.options(bare))
        return word
    lists = catalog.lists()
    if bare in lists and key == bare and not value.startswith("{"):
        return _listed(catalog, key, lists[bare], value, multirun)
    if bare in lists.values():
        raise UserError(f"{word}: give a list, {next(name for name, folder in lists.items() if folder == bare)}=[{value}]")
    if bare in catalog.all_groups():
        raise UserError(f"{word}: {catalog.verb} has no group {bare} (it has: {', '.join(groups) or 'none'})")
    return word if key == EXPERIMENT or key != bare else _forced(key, value, multirun)


def _listed(catalog: Catalog, key: str, folder: str, value: str, multirun: bool) -> str:
    """A choice of several files (in a sweep: several choices) as Hydra spells it, FOLDER@KEY=[NAME,...]."""
    known, made = catalog.options(folder), []
    for one in re.findall(r"\[[^\]]*\]?|[^,\[\]]+", value) if multirun else [value]:
        names = [name.strip(" '\"") for name in one.strip(" []").split(",")]
        names = [name for name in names if name not in ("", "null")]
        if unknown := [name for name in names if name not in known]:
            hint = suggestion(unknown[0], known)
            raise UserError(
                f"{key}={value}: there is no {folder} {unknown[0]!r}{hint} (there are: {', '.join(known)}); "
                f"one of your own is written as {key}.NAME.KEY=VALUE, or into DIR/{folder}/NAME.yaml with --config-dir DIR"
            )
        made.append(f"[{','.join(names)}]")
    return f"{folder}@{key}={','.join(made) or '[]'}"


def check_choices(group: str, choices: Collection[str], known: Collection[str]) -> None:
    """Raises a UserError that names the first of `choices` that isn't `known`."""
    for choice in choices:
        if choice not in known:
            hint = suggestion(choice, known)
            raise UserError(f"{group}={choice}: there is no such {group}{hint} (there are: {', '.join(known) or 'none'})")


def _forced(key: str, value: str, multirun: bool = False) -> str:
    """`++key=value`; a value that Hydra's grammar can't read, such as a path with a bracket, is quoted as plain text."""
    references.check({key: value})
    parsed = _parsed(value)
    if parsed is None:
        inside = value[1:-1] if value.startswith("[") and value.endswith("]") else None
        if _depth(value) > DEEPEST or (inside is None and not multirun):
            return f"++{key}={quoted(value)}"
        return f"++{key}={_each(key, value)}" if inside is None else f"++{key}=[{_each(key, inside)}]"
    if isinstance(parsed, (int, float)) and not isinstance(parsed, bool) and str(parsed) != value and not multirun:
        # As text, 1.10 stays a version and 1e5 a name; where a number is due, it is read from the text.
        return f"++{key}={quoted(value)}"
    return f"++{key}={value}"


def _each(key: str, values: str) -> str:
    """Values between commas, with quotes around those that the grammar can't read."""
    each = [match[1].strip() for match in ELEMENT.finditer(values)]
    if len(each) > 1 and not all(map(_balanced, each)):
        raise UserError(
            f"{key}={values}: commas separate values, and one here stands inside brackets or quotes; "
            f"""put quotes around each text, as in {key}='["one", "two"]'"""
        )
    return ",".join(one if _parsed(f"[{one}]") else quoted(one.replace(ESCAPED, ",")) for one in each)


def _parsed(text: str) -> Any:
    """What Hydra's grammar reads ([None] for null); None if it can't read it."""
    if _depth(text) > DEEPEST:
        return None
    try:
        (override,) = OverridesParser.create().parse_overrides([f"++key={text}"])
    except (HydraException, ValueError):  # an integer of thousands of digits is a ValueError
        return None
    value: Any = override.value()
    if isinstance(value, list | dict) and not _plain(value):
        return None
    return [None] if value is None else value


def _plain(value: Any) -> bool:
    """Whether there is no function of Hydra's grammar, such as choice(a,b), inside a list: there it is text."""
    inner = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return isinstance(value, list | dict | str | int | float | QuotedString | None) and all(map(_plain, inner))


def _depth(text: str) -> int:
    """The most brackets that are open at once."""
    deepest = depth = 0
    for sign in text:
        depth += (sign in PAIRS) - (depth > 0 and sign in PAIRS.values())
        deepest = max(deepest, depth)
    return deepest


def _balanced(text: str) -> bool:
    """Whether brackets outside of quotes that enclose the text are closed again."""
    waiting = []
    for sign in "" if text[:1] in QUOTES and text[-1] == text[0] else text:
        if sign in PAIRS:
            waiting.append(PAIRS[sign])
        elif sign in PAIRS.values() and (not waiting or waiting.pop() != sign):
            return False
    return not waiting
