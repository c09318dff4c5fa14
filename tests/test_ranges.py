"""Every number of every configuration has a range, and what lies outside is refused by its key, its value and what to give."""

import dataclasses
import importlib
import math
import pkgutil
import re
import typing

import pytest

import alpaca_jax
from alpaca_jax import __main__ as cli
from alpaca_jax.config import configclass, parse
from alpaca_jax.errors import UserError
from alpaca_jax.hardware import HardwareConfig
from alpaca_jax.launcher.config import LauncherConfig
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.ranges import Axis, Fraction, Positive, Range, Seed, span_of
from alpaca_jax.teacher.config import Prices
from alpaca_jax.trainer.optimizer import OptimizerConfig

ODD = [-1, -0.5, 0, 1, float("nan"), math.inf, -math.inf, "1e400", 2**31, 2**63, 10**400, "9" * 5000, "many", True, [], {}]


def _classes(cls, seen=None):
    """The config classes inside `cls`, itself included."""
    seen = {} if seen is None else seen
    if cls in seen:
        return seen
    seen[cls] = typing.get_type_hints(cls, include_extras=True)
    for hint in seen[cls].values():
        for inner in _inside(hint):
            _classes(inner, seen)
    return seen


def _inside(hint):
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        yield hint
    for argument in typing.get_args(hint):
        yield from _inside(argument)


def _number(hint):
    """Whether an annotation holds an int or a float."""
    return hint in (int, float) or any(_number(argument) for argument in typing.get_args(hint) if not isinstance(argument, str))


ROOTS = [*(importlib.import_module(f"alpaca_jax.{verb}.config").Config for verb in cli.VERBS), LauncherConfig]
CLASSES = {cls: hints for root in ROOTS for cls, hints in _classes(root).items()}
FIELDS = [(cls, name, hint) for cls, hints in CLASSES.items() for name, hint in hints.items() if _number(hint)]


def test_every_number_has_a_range():
    assert len(FIELDS) > 100
    assert [f"{cls.__name__}.{name}" for cls, name, hint in FIELDS if span_of(hint) is None] == []


def test_every_verb_is_covered():
    assert {module.name for module in pkgutil.iter_modules(alpaca_jax.__path__)} >= set(cli.VERBS)


def _parsed(cls, name, given):
    """The value of the field, or what is said against it."""
    try:
        return getattr(parse(cls, {name: given}), name), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("cls", "name", "hint"), FIELDS, ids=lambda value: value if isinstance(value, str) else getattr(value, "__module__", "")
)
def test_odd_numbers_are_refused_by_key_or_lie_in_the_range(cls, name, hint):
    alone = configclass(type("Alone", (), {"__annotations__": {name: hint}, "__module__": __name__}))
    listed, named = "tuple" in str(hint), "dict" in str(hint)
    for value in ODD:
        given = [value, value] if listed and not isinstance(value, (list, dict)) else {"1": value} if named else value
        found, said = _parsed(alone, name, given)
        if said:
            assert re.search(rf"^  {name}[.0-9]*(=|: )", said, re.MULTILINE) and len(said) < 800
            continue
        numbers = found if listed else found.values() if named else [found]
        assert all(type(one) in (int, float) and one in span_of(hint) for one in numbers)
        assert all(math.isfinite(one) for one in numbers)


@pytest.mark.parametrize(
    ("cls", "given", "expected"),
    [
        (OptimizerConfig, {"learning_rate": -1}, "learning_rate=-1.0: give more than 0"),
        (OptimizerConfig, {"clip": False}, "clip=False: give a number, not true or false; null"),
        (OptimizerConfig, {"clip": 0}, "clip=0.0: give more than 0"),
        (OptimizerConfig, {"betas": [0.9, 1.0]}, "betas.1=1.0: give 0 or more and less than 1"),
        (OptimizerConfig, {"warmup": float("nan")}, "warmup=nan: give 0 or more and less than 1"),
        (OptimizerConfig, {"final": 2}, "final=2.0: give 0 to 1"),
        (Prices, {"prompt": float("nan"), "completion": 1, "source": "x"}, "prompt=nan: give 0 or more"),
        (HardwareConfig, {"peak_tflops": math.inf}, "peak_tflops=inf: give 1e+30 at most"),
    ],
)
def test_what_is_said(cls, given, expected):
    with pytest.raises(UserError, match=re.escape(expected)):
        parse(cls, given)


def test_a_config_that_code_makes_is_checked_too():
    sizes = dict(vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=4)
    Architecture(**sizes)
    for key, value in {"norm_eps": 0.0, "rope_theta": float("nan"), "head_dim": 0, "max_positions": 2**63, "num_layers": 10**7}.items():
        with pytest.raises(ValueError, match=f"^{key}={re.escape(str(value))}: give "):
            Architecture(**sizes | {key: value})


def test_the_ends_of_a_range():
    (seed,), (axis,), (part,), (size,) = (hint.__metadata__ for hint in (Seed, Axis, Fraction, Positive))
    assert [value in seed for value in (-1, 0, 2**63 - 1, 2**63)] == [False, True, True, False]
    assert [value in axis for value in (-2, -1, 0, 1)] == [False, True, False, True]
    assert [value in part for value in (-0.1, 0, 0.999, 1)] == [False, True, True, False]
    assert size.remedy(0) == "1 or more" and size.remedy(2**31) == "2147483647 at most"
    assert Range(0, 5, open_below=True).remedy(0) == "more than 0"


def test_seed_below_zero_ends_the_command_before_any_work(capsys, monkeypatch):
    monkeypatch.setattr(cli, "_run", None)
    assert cli.main(["inspect", "seed=-1"]) == 2
    assert "  seed=-1: give 0 or more" in capsys.readouterr().err
