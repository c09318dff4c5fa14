"""Checks at every call that arrays have the dtypes and shapes which a function's jaxtyping annotations declare, and nothing else.

A general type checker would also refuse the stand-ins that tests pass for a tokenizer or a template.
"""

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises a TypeError where an argument or result has arrays (in tuples, too) other than declared."""
    declared = {name: hint for name, hint in function.__annotations__.items() if _declares(hint)}
    if not declared:
        return function
    signature = inspect.signature(function)

    def check(name: str, value: Any) -> None:
        if name in declared and not _fits(value, declared[name]):
            raise TypeError(name)  # jaxtyping says the rest

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check(name, value)
        result = function(*args, **kwargs)
        check("return", result)
        return result

    return call


def _parts(hint: Any) -> list[Any]:
    """What a tuple, a union or a named tuple is made of."""
    if typing.get_origin(hint) in (tuple, typing.Union, types.UnionType):
        return [part for part in typing.get_args(hint) if part is not ...]
    return list(hint.__annotations__.values()) if hasattr(hint, "_fields") else []


def _declares(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(_declares, _parts(hint)))


def _fits(value: Any, hint: Any) -> bool:
    if not _declares(hint):
        return True
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return value is None or any(_declares(part) and _fits(value, part) for part in _parts(hint))
    if isinstance(value, tuple):
        return len(value) == len(_parts(hint)) and all(map(_fits, value, _parts(hint)))
    return isinstance(value, hint.dtype[np.ndarray, hint.dim_str] if isinstance(value, np.ndarray) else hint)  # JAX takes both
