import dataclasses
import os
import subprocess
import sys
from typing import Annotated, Literal

import pytest
from pydantic import Discriminator

from alpaca_jax import config as configuration
from alpaca_jax.config import configclass, keys, parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.ranges import Positive


@configclass
class Inner:
    layers: int
    rate: float = 1e-4

    def __post_init__(self):
        if self.rate <= 0:
            raise ValueError(f"rate must be above 0, got {self.rate}")


@configclass
class Outer:
    name: str
    inner: Inner | None = None
    stages: tuple[Inner, ...] = ()
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)
    kind: Literal["packed", "none"] = "packed"


def _problems(mapping, cls=Outer):
    with pytest.raises(UserError) as raised:
        parse(cls, mapping, "train")
    return str(raised.value)


def test_parse_fills_nested_and_frozen():
    config = parse(Outer, {"name": 3, "inner": {"layers": 2}, "stages": [{"layers": 1, "rate": "2e-3"}], "named": {"a": {"layers": 3}}})
    assert config == Outer(name="3", inner=Inner(layers=2), stages=(Inner(layers=1, rate=2e-3),), named={"a": Inner(layers=3)})
    with pytest.raises(AttributeError):
        config.name = "other"


def test_every_problem_in_one_error_by_its_dotted_key():
    text = _problems({"nam": "x", "inner": {"layers": "many", "raet": 1}, "stages": [{"layer": 1}], "kind": "paked"})
    assert "the configuration of train has" in text
    assert "nam: there is no such key; did you mean name?" in text
    assert "inner.layers: input should be a valid integer" in text
    assert "'many'" in text
    assert "inner.raet: there is no such key; did you mean rate?" in text
    assert "stages.0.layer: there is no such key; did you mean layers?" in text
    assert "kind: input should be 'packed' or 'none' (got 'paked')" in text
    assert "name: is needed and has no default" in text


def test_a_misspelt_key_below_a_dict_is_helped():
    assert "named.a.raet: there is no such key; did you mean rate?" in _problems({"name": "x", "named": {"a": {"layers": 1, "raet": 2}}})


def test_a_key_far_from_every_other_lists_them():
    assert "inner.zzz: there is no such key; the keys here are layers, rate" in _problems({"name": "x", "inner": {"layers": 1, "zzz": 2}})


def test_rules_across_fields_speak_in_their_own_words():
    assert "inner: rate must be above 0, got -1.0" in _problems({"name": "x", "inner": {"layers": 1, "rate": -1}})


def test_a_rule_holds_in_a_subclass_too():
    @configclass
    class Later(Inner):
        more: int = 0

    assert "rate must be above 0" in _problems({"layers": 1, "rate": -1}, Later)


def test_a_pasted_key_is_not_shown():
    assert "sk-secret" not in _problems({"name": "x", "inner": {"layers": "sk-secret"}})
    assert "sk-secret" not in _problems({"name": "x", "key": "sk-secret"})


def test_to_mapping_round_trips():
    config = Outer(name="x", inner=Inner(layers=2), stages=(Inner(layers=1),), named={"a": Inner(layers=3)})
    mapping = to_mapping(config)
    assert mapping["stages"] == [{"layers": 1, "rate": 1e-4}]
    assert parse(Outer, mapping) == config


def test_suggestion():
    assert configuration.suggestion("trian", ["train", "serve"]) == "; did you mean train?"
    assert configuration.suggestion("zzz", ["train"]) == ""


def test_directory_of_a_checkout_that_is_not_installed(tmp_path):
    checkout = configuration.directory().parent
    code = "import alpaca_jax.config as c; print(c.directory())"
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    out = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str(configuration.directory())


def test_a_config_needs_no_heavy_import():
    code = "import sys, alpaca_jax.config; print(sorted({'pydantic', 'yaml', 'jax', 'hydra'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@configclass
class Circle:
    name: Literal["circle"] = "circle"
    radius: Positive = 1


@configclass
class Box:
    name: Literal["box", "crate"] = "box"
    width: Positive = 1


@configclass
class Drawing:
    shape: Annotated[Circle | Box, Discriminator("name")] = Circle()


def test_configs_in_one_place_are_told_apart_by_their_name():
    assert parse(Drawing, {"shape": {"name": "crate", "width": 3}}) == Drawing(shape=Box(name="crate", width=3))
    assert keys(Drawing) == ["shape", "shape.name", "shape.radius", "shape.width"]


@pytest.mark.parametrize(
    ("shape", "problem"),
    [
        ({"name": "crate", "width": 0}, "shape.width=0: give 1 or more"),
        ({"name": "box", "radius": 3}, "shape.radius: belongs to shape=circle; the keys of shape=box are name, width"),
        ({"name": "box", "widht": 3}, "shape.widht: there is no such key; did you mean width?"),
        ({"name": "boxx"}, "shape.name: there is no 'boxx'; did you mean box?; there are circle, box, crate"),
        ({"width": 2}, "shape.name: is needed and has no default; give shape=circle, or another of circle, box, crate"),
    ],
)
def test_what_is_wrong_in_one_of_several_configs_is_named_without_its_name_in_the_key(shape, problem):
    with pytest.raises(UserError) as raised:
        parse(Drawing, {"shape": shape})
    assert str(raised.value).splitlines()[1:] == [f"  {problem}"]
