"""The forward pass that decodes: the training's own function of the weights for every family, on one device or many."""

import dataclasses
import functools
import operator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from decoding import batch_of, program

from alpaca_jax.config import parse
from alpaca_jax.decode import ahead, weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.tuning import CPU, PLAIN, suited
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture

CONFIGS = Path(__file__).parents[2] / "configs" / "model"


def sizes_in(name: str) -> dict[str, Any]:
    """What a file and those it builds on say of the architecture."""
    file = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) or {}
    below = [sizes_in(base) for base in file.get("defaults", ()) if base != "_self_"]
    return functools.reduce(operator.or_, [*below, file.get("architecture") or {}], {})


LENGTH = 40  # beyond the shrunk window, and beyond the context that RoPE's scaling starts from


def shrunk(name: str) -> Architecture:
    """The model of a file in tiny sizes, each of its switches as it is."""
    a = parse(Architecture, sizes_in(name))
    kv_heads = 4 if a.num_kv_heads == a.num_heads else 2
    sizes = {"vocab_size": 91, "hidden_size": 24, "intermediate_size": 40, "num_heads": 4, "num_kv_heads": kv_heads, "head_dim": 8}
    layers = 4 if a.nope_layers else 1
    scaling = a.rope_scaling and dataclasses.replace(a.rope_scaling, factor=8.0, original_max_positions=16)
    return dataclasses.replace(
        a,
        **sizes,
        num_layers=layers,
        max_positions=128,
        rope_theta=1e4,
        norm_eps=1e-5,
        rope_scaling=scaling,
        sliding_window=a.sliding_window and 9,
        sliding_layers=a.sliding_layers and tuple(layer for layer in a.sliding_layers if layer < layers),
        nope_layers=tuple(layer for layer in a.nope_layers if layer < layers),
    )


# One name for each set of switches: most files differ in their sizes only.
FAMILIES = {shrunk(path.stem): path.stem for path in sorted(CONFIGS.glob("*.yaml")) if sizes_in(path.stem)}
FAMILIES[dataclasses.replace(shrunk("tiny"), qkv_bias=True, out_bias=True, mlp_bias=True)] = "llama with every bias"


def drawn(architecture: Architecture) -> llama.Params:
    """Weights large enough that each place of a random model has its own scores; biases and scales that show."""
    random = np.random.default_rng(0)
    params = jax.device_get(llama.init(architecture, jax.random.key(0)))
    return jax.tree.map(lambda leaf: leaf + random.normal(0, 0.2, leaf.shape).astype(np.float32), params)


@pytest.mark.parametrize("architecture", FAMILIES, ids=FAMILIES.values())
def test_decoding_and_training_give_equal_logits_for_every_family(architecture: Architecture) -> None:
    params, ids = drawn(architecture), np.random.default_rng(1).integers(0, 91, LENGTH).astype(np.int32)
    ones, positions = np.ones((1, LENGTH), np.int32), np.arange(LENGTH, dtype=np.int32)[None]
    forward = jax.jit(lambda params: llama.logits(params, llama.forward(architecture, params, ids[None], ones, positions))[0])
    expected = forward(params)
    for tuning in (CPU, PLAIN):
        decoding = dataclasses.replace(program(architecture, tuning), tuning=dataclasses.replace(tuning, group=4))
        own = batch_of(architecture, params, tuning)._weights
        read = LENGTH - 4  # the prompt in one piece, and the rest a token at a time
        caches = [decoding.empty(1, 64) for _ in range(architecture.num_layers)]
        x_MD, at = decoding.embed(own.embed_VD, ids[None, :read], np.zeros(1, np.int32), np.full(1, LENGTH, np.int32))
        for number, cache in enumerate(caches):
            caches[number], x_MD = decoding.prefill(own.group(number, 1), np.int32(number), cache, x_MD, np.zeros(1, np.int32), at)
        found = [decoding.logits(own.norm, own.head_VD, x_MD)]
        for place in range(read, LENGTH):
            x_RD, at = decoding.embed(own.embed_VD, ids[None, place : place + 1], np.full(1, place, np.int32), np.full(1, LENGTH, np.int32))
            group = own.group(0, architecture.num_layers)
            caches, x_RD = decoding.decode(group, np.int32(0), caches, x_RD, np.full(1, place, np.int32), at)
            found.append(decoding.logits(own.norm, own.head_VD, x_RD))
        np.testing.assert_allclose(np.concatenate(found), expected, atol=3e-4)


def test_the_switches_of_the_families_are_all_among_them() -> None:
    for switch in ("rope_scaling", "tie_embeddings", "sliding_window", "nope_layers", "qkv_bias", "qk_norm", "mlp_bias"):
        assert {bool(getattr(one, switch)) for one in FAMILIES} == {True, False}, switch


QWEN = Architecture(
    vocab_size=84, hidden_size=32, intermediate_size=48, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, max_positions=256,
    family="qwen3", qk_norm=True, qkv_bias=True, out_bias=True, sliding_window=20, sliding_layers=(1,),
)  # fmt: skip


@pytest.mark.parametrize("sizes", [{"data": 2, "tensor": 2}, {"fsdp": 2}], ids=str)
def test_a_mesh_gives_the_tokens_of_one_device(sizes: dict[str, int]) -> None:
    params = drawn(QWEN)
    random = np.random.default_rng(2)
    prompts = [random.integers(0, 84, length).tolist() for length in (3, 45, 130, 45, 9)]
    prompts.append([*prompts[1][:30], 5])  # reads what another has read
    sampling = {"temperature": 0.8, "top_p": 0.9, "seed": [1, 2, 3, 4, 5, 6]}
    alone = batch_of(QWEN, params, PLAIN, slots=4)
    decoding = program(QWEN, PLAIN, **sizes)
    placed = jax.device_put(params, decoding.layout.tree(llama.specs(QWEN), "weights"))
    spread = Batch(decoding, weights.of_run(placed), slots=4)
    for settings in ({}, sampling) if "data" in sizes else ({},):
        one, many = (each.generate(prompts, 8, **settings) for each in (alone, spread))
        assert [each.ids for each in one] == [each.ids for each in many]
        np.testing.assert_allclose([each.logprobs for each in one], [each.logprobs for each in many], atol=1e-4)
    kv_heads = 2 // sizes.get("tensor", 1)
    assert spread._caches[0].value_RNSK.sharding.shard_shape(spread._caches[0].value_RNSK.shape)[1] == kv_heads
    assert spread._rows % (sizes.get("data", 1) * sizes.get("fsdp", 1)) == 0


def test_unstacked_weights_are_the_same_and_leave_no_second_copy() -> None:
    params = jax.device_put(drawn(QWEN))
    prompts = [[1, 2, 3], [4, 5]]
    expected = batch_of(QWEN, params, PLAIN).generate(prompts, 5)
    own = weights.unstacked(QWEN, params)
    assert "layers" not in params
    assert Batch(program(QWEN, PLAIN), own).generate(prompts, 5) == expected


def test_a_runs_own_weights_are_not_copied() -> None:
    params = jax.device_put(drawn(QWEN), jax.devices()[0])
    own = weights.of_run(params)
    up, size = params["layers"]["mlp"]["up"], params["layers"]["mlp"]["up"][0].nbytes
    places = [layer["mlp"]["up"].unsafe_buffer_pointer() - up.unsafe_buffer_pointer() for layer in own.layers]
    assert places == [0, size, 2 * size]
    prompts = [[1, 2, 3], [4, 5]]
    answers = Batch(program(QWEN, CPU), own).generate(prompts, 5), batch_of(QWEN, params).generate(prompts, 5)
    for one, other in zip(*answers, strict=True):
        assert one.ids == other.ids and one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_a_runs_next_step_has_its_weights_for_itself_once_it_has_decoded() -> None:
    def is_updated_in_place() -> bool:
        params = jax.device_put(drawn(QWEN), jax.devices()[0])
        up = params["layers"]["mlp"]["up"]
        place = up.unsafe_buffer_pointer()
        Batch(program(QWEN, CPU), weights.of_run(params)).generate([[1, 2, 3], [4, 5]], 5)
        updated: jax.Array = jax.jit(lambda leaf: leaf + 1, donate_argnums=0)(up)
        return updated.unsafe_buffer_pointer() == place

    # A decoding step that was begun ahead, and whose tokens nobody has read, may hold the weights a moment longer; a view would for ever.
    assert any(is_updated_in_place() for _ in range(5))


def test_bfloat16_is_computed_where_it_is_asked_for() -> None:
    params = drawn(QWEN)
    decoding = program(QWEN, PLAIN, "bfloat16")
    x_RD, _ = decoding.embed(jnp.asarray(params["embed"]["weight"]), np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
    assert x_RD.dtype == decoding.empty(1, 64).value_RNSK.dtype == jnp.bfloat16
    half, full = (Batch(program(QWEN, PLAIN, dtype), weights.of_run(jax.device_put(params))) for dtype in ("bfloat16", "float32"))
    one, other = (each.generate([[1, 2, 3]], 1)[0] for each in (half, full))
    assert one.logprobs == pytest.approx(other.logprobs, abs=0.1)
    assert one.logprobs != other.logprobs


def test_the_cpus_tricks_are_for_one_cpu() -> None:
    assert suited(program(QWEN).layout) == CPU
    assert suited(program(QWEN, data=2).layout) == PLAIN


def test_what_is_compiled_ahead_is_what_a_batch_needs(caplog: pytest.LogCaptureFixture) -> None:
    """Any difference in the kind of an argument would compile a program a second time: a cache that is tied to no device, say."""
    decoding, prompt = batch_of(QWEN, drawn(QWEN)), list(range(40))
    blank = weights.blank(QWEN, "float32")
    # Strict promotion is set for this thread alone, and another one compiles for it.
    with jax.log_compiles(), jax.numpy_dtype_promotion("standard"):
        ahead.compile_smallest(decoding._program, blank)
        assert "Finished XLA compilation" in caplog.text
        caplog.clear()
        decoding.generate([prompt], 4)
        decoding.generate([prompt], 4, temperature=1.0)
    assert "Finished XLA compilation" not in caplog.text
