"""The published sizes: each composes, has the published number of parameters, its golden table, and a name for every weight."""

import math
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_jax import __main__ as cli
from alpaca_jax import config as configuration
from alpaca_jax.formats import names
from alpaca_jax.help import Catalog, header
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import ALWAYS, CAN, Architecture
from alpaca_jax.model.tree import flatten
from tools import goldens

CATALOG = Catalog("train", [configuration.directory()])
WITH_SOURCE = {"auto", "base", "smollm2"}  # no sizes of their own
SCHEMES = ("huggingface", "gguf", "meta")


@pytest.fixture(scope="module")
def architectures():
    return goldens.architectures()


@pytest.mark.parametrize("name", CATALOG.options("model"))
def test_train_composes_with_it(architectures, name):
    command = cli._parse(["train", f"model={name}", "model.tokenizer=folder"])
    model = cli._config(command, cli._compose(command)).model
    assert model.tokenizer == "folder"
    assert model.architecture == architectures.get(name)
    assert (model.architecture is None) == (name in WITH_SOURCE)
    assert (model.source is None) == (name != "smollm2")


def test_its_weights_are_those_of_the_golden_table(architectures):
    folder = goldens.GOLDENS / "parameters"
    made = {name: goldens.parameters(architecture) for name, architecture in architectures.items()}
    assert {file.stem for file in folder.iterdir()} == made.keys(), "python -m tools.goldens writes and removes them"
    differing = [name for name, text in made.items() if text != (folder / f"{name}.txt").read_text()]
    assert not differing, "where that is meant: python -m tools.goldens"


def test_it_has_the_published_number_of_parameters(architectures):
    for name, architecture in architectures.items():
        text = " ".join(header(CATALOG.file(f"model/{name}.yaml")))
        total = sum(math.prod(spec.shape) for spec in flatten(llama.specs(architecture)).values())
        assert total == architecture.num_parameters, name
        if name != "tiny":
            (published,) = re.findall(r"([\d,]+) parameters", text)
            assert total == int(published.replace(",", "")), name


def test_every_weight_of_it_has_one_name(architectures):
    for architecture in architectures.values():
        check_names(architecture)


@st.composite
def relatives(draw):
    """Architectures of one to four layers with every combination of the switches that a family has."""
    family = draw(st.sampled_from(sorted(CAN)))
    can, layers, kv = CAN[family], draw(st.integers(1, 4)), draw(st.integers(1, 3))
    some_layers = st.sets(st.integers(0, layers - 1)).map(lambda chosen: tuple(sorted(chosen)))
    switches = {name: name == ALWAYS.get(family) or draw(st.booleans()) for name in ("qkv_bias", "qk_norm") if name in can}
    if "out_bias" in can:  # one switch there
        switches["out_bias"] = switches["qkv_bias"]
    if "mlp_bias" in can:
        switches["mlp_bias"] = draw(st.booleans())
    if "sliding_window" in can:
        switches["sliding_window"] = draw(st.none() | st.integers(1, 9))
    if switches.get("sliding_window") and "sliding_layers" in can:
        switches["sliding_layers"] = draw(st.none() | some_layers)
    if "nope_layers" in can:
        switches["nope_layers"] = draw(some_layers)
    return Architecture(
        family=family,
        vocab_size=draw(st.integers(2, 20)),
        hidden_size=draw(st.integers(1, 12)),
        intermediate_size=draw(st.integers(1, 12)),
        num_layers=layers,
        num_heads=kv * draw(st.integers(1, 3)),
        num_kv_heads=kv,
        head_dim=2 * draw(st.integers(1, 4)),
        tie_embeddings=draw(st.booleans()),
        **switches,
    )


@settings(max_examples=25, deadline=None)
@given(relatives())
def test_every_weight_of_any_relative_has_one_name(architecture):
    check_names(architecture)
    specs = flatten(llama.specs(architecture))
    assert sum(math.prod(spec.shape) for spec in specs.values()) == architecture.num_parameters
    assert (("layers", "attention", "query_bias") in specs) == architecture.qkv_bias
    assert (("layers", "attention", "out_bias") in specs) == architecture.out_bias
    assert (("layers", "mlp", "down_bias") in specs) == architecture.mlp_bias
    assert (("layers", "attention", "key_norm", "scale") in specs) == architecture.qk_norm


def check_names(architecture):
    """The table of names maps our weights one to one: the same paths and shapes, other names, and as many numbers there."""
    specs, known = flatten(llama.specs(architecture)), names.weights(architecture)
    assert known.keys() == specs.keys()
    for scheme in SCHEMES:
        theirs = {path: weight.tensors(scheme) for path, weight in known.items()}
        counts = Counter(name for tensors in theirs.values() for name, _ in tensors)
        assert max(counts.values()) == 1
        for path, tensors in theirs.items():
            assert known[path].shape == tuple(specs[path].shape)
            assert len(tensors) == (architecture.num_layers if path[0] == "layers" else 1)
            assert sum(math.prod(shape) for _, shape in tensors) == math.prod(specs[path].shape)
