"""Turns a composed mapping into a frozen dataclass, or into one clear error that names the dotted keys; finds `configs/`."""

import dataclasses
import difflib
import enum
import functools
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from alpaca_jax import familiar, ranges
from alpaca_jax.errors import UserError
from alpaca_jax.masking import masked

T = TypeVar("T")
NAME = "name"  # the field by which several config classes in one place are told apart


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configclass(cls: type[T]) -> type[T]:
    """Returns `cls` as a frozen, keyword-only dataclass whose numbers are in their ranges, and for which `parse` accepts no unknown key."""
    own = getattr(cls, "__post_init__", lambda self: None)

    def post_init(self: Any) -> None:
        ranges.check(self)
        own(self)

    cls.__post_init__ = post_init  # type: ignore[attr-defined]
    frozen = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    # pydantic reads this attribute, so that a module of configs doesn't have to import pydantic.
    frozen.__pydantic_config__ = {"extra": "forbid", "coerce_numbers_to_str": True}  # type: ignore[attr-defined]
    return frozen


def parse(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Returns `cls` filled from `mapping`; raises a single UserError that lists every problem by its dotted key."""
    from pydantic import ValidationError

    try:
        return _adapter(cls).validate_python(dict(mapping))  # type: ignore[arg-type]
    except ValidationError as error:
        problems = [_line(cls, problem) for problem in error.errors()]
    heading = f"the configuration{f' of {where}' if where else ''} has {_count(len(problems), 'problem')}:"
    raise UserError("\n  ".join([heading, *problems]))


def to_mapping(config: Any) -> dict[str, Any]:
    """Returns `config` as nested plain dicts, lists and scalars, ready for YAML or JSON."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def directory() -> Path:
    """Returns the folder of the packaged YAML: of a wheel, an editable install or a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"configs/ is neither in {package} nor beside it: install the package again (`pip install .`)")


def suggestion(name: str, names: typing.Iterable[str]) -> str:
    """Returns "; did you mean NAME?" with the closest of `names`, or "" where none is close."""
    close = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


@functools.cache  # whoever waits for a job reads its file many times a second
def _adapter(cls: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(cls)


def _line(cls: type, problem: Mapping[str, Any]) -> str:
    place, inside = _place(cls, problem["loc"])
    last = (place or ("configuration",))[-1]
    key = ".".join(map(str, place)) or "configuration"
    value = problem["input"]
    if problem["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return _wrong_name(inside, key, value)
    if problem["type"] == "unexpected_keyword_argument":
        here = _place(cls, problem["loc"][:-1])[1]
        known = _fields(here)
        if others := _others(cls, problem["loc"], str(last)):
            return f"{key}: {others} are {', '.join(sorted(known))}"
        remedy = (
            familiar.key(str(last), keys(cls))
            or suggestion(str(last), known)
            or (f"; the keys here are {', '.join(sorted(known))}" if known else "")
        )
        return f"{key}: there is no such key{remedy}"
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{key}: is needed and has no default; give {key}=VALUE"
    if problem["type"] == "value_error":
        own = problem["ctx"]["error"]
        if isinstance(own, ranges.OutOfRange):
            return f"{key}={_printable(key, value)}: {own}"
        return f"{key}: {own}" if problem["loc"] else str(own)
    message = problem["msg"][0].lower() + problem["msg"][1:]
    remedy = ""
    if problem["type"] == "tuple_type" and isinstance(value, str):
        remedy = f"""; a list is given in brackets, with quotes around its texts, as in '{key}=["one", "two"]'"""
    return f"{key}: {message} (got {_printable(key, value)}){remedy}"


def _printable(key: str, value: Any) -> str:
    # A secret that was pasted into the wrong field must not reach a terminal or a log.
    if isinstance(value, str) and (value.startswith("sk-") or re.search(r"(^|[._])(token|key)$", key)):
        return "a value that is not shown"
    text = repr(masked(value) if isinstance(value, str) else value)  # whole: a part of a secret would not be recognised
    return text if len(text) <= 80 else text[:77] + "..."


def _wrong_name(hint: Any, key: str, value: Any) -> str:
    """Of configs that are told apart by their name: that the given one is none of them."""
    names = list(_named(hint))
    given = value.get(NAME) if isinstance(value, Mapping) else value
    if given is None:
        return f"{key}.{NAME}: is needed and has no default; give {key}={names[0]}, or another of {', '.join(names)}"
    return f"{key}.{NAME}: there is no {_printable(key, given)}{suggestion(str(given), names)}; there are {', '.join(names)}"


def _place(cls: Any, path: typing.Sequence[Any]) -> tuple[list[Any], Any]:
    """The parts of `path` below `cls` that are keys or indices, without the names of configs in unions; and the annotation there."""
    place, hint = [], cls
    for part in path:
        named = _named(hint)
        if part in named:
            hint = named[part]
            continue
        inside = _config_in(hint)
        if inside is None and isinstance(part, str) and len(set(typing.get_args(hint)) - {types.NoneType}) > 1:
            continue  # which of several kinds of values pydantic tried
        hints = typing.get_type_hints(inside) if inside is not None else {}
        hint = hints.get(part, hint)  # an index of a list has no annotation of its own
        place.append(part)
    return place, hint


def _others(cls: Any, path: typing.Sequence[Any], key: str) -> str:
    """Where `key` is one of another config than the named one in its place: which one it belongs to, in words."""
    if len(path) < 3:
        return ""
    *above, name, _ = path
    place, hint = _place(cls, above)
    owner = next((other for other, config in _named(hint).items() if key in _fields(config)), None)
    group = ".".join(map(str, place))
    return "" if owner is None else f"belongs to {group}={owner}; the keys of {group}={name}"


def _fields(hint: Any) -> list[str]:
    """The field names of the first config class inside an annotation."""
    found = _config_in(hint)
    return [] if found is None else [field.name for field in dataclasses.fields(found)]


def _configs_in(hint: Any) -> list[Any]:
    """The config classes inside an annotation such as `Architecture | None` or `tuple[Stage, ...]`."""
    if dataclasses.is_dataclass(hint):
        return [hint]
    return [config for argument in typing.get_args(hint) for config in _configs_in(argument)]


def _named(hint: Any) -> dict[str, Any]:
    """Of an annotation with several config classes, which are told apart by the Literal of their field `name`: each by its names."""
    configs = [] if dataclasses.is_dataclass(hint) else _configs_in(hint)
    if len(configs) < 2:
        return {}
    return {name: config for config in configs for name in typing.get_args(typing.get_type_hints(config).get(NAME))}


def keys(cls: Any) -> list[str]:
    """Returns the dotted keys of a config class, those of the configs inside it included."""
    return list(_keys(cls))


def _keys(cls: Any, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items() if dataclasses.is_dataclass(cls) else ():
        yield prefix + name
        inside = [key for config in _configs_in(hint) for key in _keys(config, f"{prefix}{name}.")]
        yield from dict.fromkeys(inside)


def _config_in(hint: Any) -> Any:
    """The first config class inside an annotation, None where there is none."""
    return next(iter(_configs_in(hint)), None)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
