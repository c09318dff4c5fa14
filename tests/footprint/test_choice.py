"""What `auto` becomes on machines that aren't there, and what is said where nothing fits."""

import functools

import pytest

from alpaca_jax import __main__ as cli
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.footprint import choice, limit
from alpaca_jax.footprint.choice import Machine, Settings
from alpaca_jax.train import settle
from alpaca_jax.train.config import Config

LAPTOP = Machine(devices=1, precision="float32", memory=16e9)
CARDS = Machine(devices=8, precision="bfloat16", memory=80e9)
CARD = Machine(devices=1, precision="bfloat16", memory=24e9)


@functools.cache
def composed(*overrides):
    command = cli._parse(["train", *overrides])
    return cli._config(command, cli._compose(command))


def architecture(name):
    return composed(f"model={name}").model.architecture


def chosen(config, name, machine):
    found = choice.choose(settle.settings(config), architecture(name), machine)
    assert not found.open
    return found


def figures(found: Settings):
    return (
        found.model.compute_dtype,
        found.model.remat,
        found.mesh.data,
        found.mesh.fsdp,
        found.data.max_length,
        found.batch.sequence_length,
    )


@pytest.mark.parametrize(
    ("name", "machine", "expected"),
    [
        ("smollm2_135m", LAPTOP, ("float32", "none", -1, 1, 512, 512)),  # as ever
        ("smollm2_135m", CARD, ("bfloat16", "minimal", -1, 1, 2048, 2048)),
        ("llama2_7b", CARDS, ("bfloat16", "none", 1, -1, 2048, 2048)),
        ("llama3_1_70b", CARDS, ("bfloat16", "full", 1, -1, 512, 512)),  # doesn't fit: what needs least
    ],
)
def test_the_choice_fits_the_model_and_the_devices(name, machine, expected):
    config = composed("model.source=org/name")
    found = chosen(config, name, machine)
    assert figures(found) == expected and found.model.dtype == "float32"


def test_less_memory_means_more_recomputation():
    config = composed("model.source=org/name", "data.max_length=2048", "mesh=data")
    remats = [chosen(config, "tinyllama_1b", Machine(1, "bfloat16", gigabytes * 1e9)).model.remat for gigabytes in (80, 40, 26, 20)]
    assert remats == sorted(remats, key=choice.REMATS.index) and len(set(remats)) > 1


def test_what_is_given_stays():
    given = ["model.dtype=bfloat16", "model.compute_dtype=float32", "model.remat=full", "mesh=data", "data.max_length=100"]
    found = chosen(composed(*given), "llama2_7b", CARDS)
    assert figures(found) == ("float32", "full", -1, 1, 100, 100) and found.model.dtype == "bfloat16"
    assert figures(chosen(composed("batch.sequence_length=300"), "smollm2_135m", LAPTOP))[4:] == (300, 300)
    assert figures(chosen(composed("batch=tokens"), "smollm2_135m", LAPTOP))[4:] == (512, 2048)


@pytest.mark.parametrize("name", ["laptop", "alpaca_small", "alpaca_packed_small", "alpaca_7b", "alpaca_7b_packed", "alpaca_13b"])
def test_the_experiments_leave_nothing_open(name):
    config = composed(f"experiment={name}")
    assert not settle.settings(config).open
    assert config.data.max_length == (256 if name == "laptop" else 512)
    assert config.model.compute_dtype == ("float32" if name in ("laptop", "alpaca_small", "alpaca_packed_small") else "bfloat16")


def test_a_resumed_run_keeps_its_choice_but_for_the_mesh():
    first = settle.settings(composed())
    before = {"model": {"dtype": "float32", "compute_dtype": "bfloat16", "remat": "minimal"}, "data": {"max_length": 512}}
    before |= {"batch": {"sequence_length": 512}, "mesh": {"fsdp": 8}}
    found = choice.remembered(first, before)
    assert set(found.open) == {"mesh.fsdp"} and figures(found)[0:2] == ("bfloat16", "minimal")
    assert choice.remembered(first, {}) == first


def test_auto_is_a_value_like_any_other():
    config = composed()
    assert parse(Config, to_mapping(config)) == config and to_mapping(config)["mesh"]["fsdp"] == "auto"
    with pytest.raises(UserError, match=r"data\.max_length"):
        composed("data.max_length=autoo")


def test_what_can_never_fit_is_refused_with_remedies():
    found = chosen(composed("mesh=data", "model.source=org/name"), "llama2_7b", CARDS)
    needed = choice.footprint(found, architecture("llama2_7b"), CARDS)
    assert needed.weights == pytest.approx(6.738e9 * 4, rel=1e-3) and needed.kept == pytest.approx(4 * needed.weights)
    with pytest.raises(UserError, match=r"107\.8 GB are kept .* a device has 80\.0 GB: give mesh=fsdp .*optimizer\.moments=bfloat16"):
        limit.check(found, needed, CARDS)
    limit.check(found, needed, Machine(8, "bfloat16", None))


def test_exhausted_memory_is_answered_with_remedies():
    advice = limit.remedies(chosen(composed(), "smollm2_135m", LAPTOP), LAPTOP)
    with (
        pytest.raises(UserError, match=r"used up \(RESOURCE_EXHAUSTED: .*microbatches=2 .*model\.remat=full .*sequence_length=256"),
        limit.explained(advice),
    ):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")
    with pytest.raises(RuntimeError, match="INTERNAL"), limit.explained(advice):
        raise RuntimeError("INTERNAL: something else")
    with pytest.raises(UserError, match="^mine$"), limit.explained(advice):
        raise UserError("mine")


@pytest.mark.parametrize(
    ("experiment", "model", "gigabytes", "bits"), [("alpaca_7b_lora", "llama_7b", 24, 16), ("alpaca_65b_qlora", "llama_65b", 48, 4.127)]
)
def test_an_adapter_fits_one_card(experiment, model, gigabytes, bits):
    config, a = composed(f"experiment={experiment}"), architecture(model)
    needed = choice.footprint(settle.settings(config), a, Machine(1, "bfloat16", gigabytes * 1e9))
    assert config.batch.sequence_length == 2048 and needed.total < gigabytes * 1e9
    matrices = a.num_layers * (4 * a.hidden_size**2 + 3 * a.hidden_size * a.intermediate_size)
    adapter = 16 * a.num_layers * (4 * 2 * a.hidden_size + 3 * (a.hidden_size + a.intermediate_size))
    assert needed.gradients == 4 * adapter and needed.optimizer == 8 * adapter
    assert needed.weights == pytest.approx(matrices * bits / 8 + 2 * (a.num_parameters - matrices) + 4 * adapter, rel=1e-4)


def test_the_base_of_an_adapter_is_stored_as_it_is_computed():
    found = chosen(composed("model.source=org/name", "adapter=lora"), "llama2_7b", Machine(1, "bfloat16", 24e9))
    assert found.model.dtype == "bfloat16"
