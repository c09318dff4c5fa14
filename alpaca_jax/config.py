"""A composed mapping becomes a frozen dataclass, or one clear error that names the dotted keys."""

import dataclasses
import difflib
import enum
import os
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, dataclass_transform

from alpaca_jax.errors import UserError

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def configclass(cls: type[T]) -> type[T]:
    """Returns `cls` as a frozen, keyword-only dataclass which `parse` fills without accepting a key it doesn't have."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    # pydantic reads this attribute; the module of a config needs no pydantic to be imported.
    made.__pydantic_config__ = {"extra": "forbid", "coerce_numbers_to_str": True}  # type: ignore[attr-defined]
    return made


def parse(cls: type[T], mapping: Mapping[str, Any], where: str = "") -> T:
    """Returns `cls` filled from `mapping`; raises one UserError that lists every problem by its dotted key."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(cls).validate_python(dict(mapping))
    except ValidationError as error:
        problems = [_line(cls, problem) for problem in error.errors()]
    heading = f"the configuration{f' of {where}' if where else ''} has {_count(len(problems), 'problem')}:"
    raise UserError("\n  ".join([heading, *problems]))


def to_mapping(config: Any) -> dict[str, Any]:
    """Returns `config` as nested plain dicts, lists and scalars, ready for YAML or JSON."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def directory() -> Path:
    """Returns the folder of the packaged YAML, whether installed from a wheel, editable, or run from a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "train.yaml").is_file():
            return folder
    raise UserError(f"configs/ was found neither in {package} nor beside it: install the package again (`pip install .`)")


def suggestion(name: str, names: typing.Iterable[str]) -> str:
    """Returns "; did you mean NAME?" with the nearest of `names`, or "" where none is near."""
    near = difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _line(cls: type, problem: Mapping[str, Any]) -> str:
    *parents, last = problem["loc"] or ("configuration",)
    key = ".".join(str(part) for part in problem["loc"]) or "configuration"
    value = problem["input"]
    if problem["type"] == "unexpected_keyword_argument":
        known = _fields(cls, parents)
        remedy = suggestion(str(last), known) or (f"; the keys here are {', '.join(sorted(known))}" if known else "")
        return f"{key}: there is no such key{remedy}"
    if problem["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{key}: is needed and has no default; give {key}=VALUE"
    if problem["type"] == "value_error":
        own = str(problem["ctx"]["error"])
        return f"{key}: {own}" if problem["loc"] else own
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{key}: {message} (got {_shown(key, value)})"


def _shown(key: str, value: Any) -> str:
    # A key pasted into the wrong field must not reach a terminal or a log.
    if isinstance(value, str) and (value.startswith("sk-") or re.search(r"(^|[._])(token|key)$", key)):
        return "a value that is not shown"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields(cls: Any, path: typing.Sequence[Any]) -> list[str]:
    """The names of the fields of the config that lies at `path` below `cls`."""
    for part in path:
        if not dataclasses.is_dataclass(cls):
            break
        hints = typing.get_type_hints(cls)
        if part in hints:  # an index of a list or the tag of a union has no field of its own
            cls = _config_in(hints[part])
    return [field.name for field in dataclasses.fields(cls)] if dataclasses.is_dataclass(cls) else []


def _config_in(hint: Any) -> Any:
    """The first config class inside an annotation such as `Architecture | None` or `tuple[Stage, ...]`."""
    if dataclasses.is_dataclass(hint):
        return hint
    found = (_config_in(argument) for argument in typing.get_args(hint))
    return next((config for config in found if config is not types.NoneType and config is not None), None)


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
