"""Checks at every call that arrays have the dtypes and shapes which a function's jaxtyping annotations declare, and nothing else.

A general type checker would also refuse the stand-ins that tests pass for a tokenizer or a template.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import AbstractArray


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises a TypeError where an annotated array argument or result is another than declared."""
    declared = {name: hint for name, hint in function.__annotations__.items() if isinstance(hint, type) and issubclass(hint, AbstractArray)}
    if not declared:
        return function
    signature = inspect.signature(function)

    def check(name: str, value: Any) -> None:
        as_jax = jnp.asarray(value) if isinstance(value, np.ndarray) else value  # JAX takes both
        if name in declared and not isinstance(as_jax, declared[name]):
            raise TypeError(name)  # jaxtyping says the rest

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            check(name, value)
        result = function(*args, **kwargs)
        check("return", result)
        return result

    return call
