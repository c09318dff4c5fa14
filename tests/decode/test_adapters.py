"""Decoding with low-rank adapters: a run's own, and several over one base; each answers as its merged model does."""

import jax
import numpy as np
import pytest
from decoding import adapter_arrays, batch_of, program

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.generation import Options
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.decode.sides import Served
from alpaca_jax.decode.tuning import CPU, PLAIN, Tuning
from alpaca_jax.model import adapter as adapters
from alpaca_jax.model import frozen, llama
from alpaca_jax.model.adapter import Adapter, Change
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten

A = Architecture(
    vocab_size=84, hidden_size=128, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, max_positions=256,
    family="qwen3", qk_norm=True, qkv_bias=True, out_bias=True,
)  # fmt: skip
PROMPTS = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [4, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9, 11]]


def drawn() -> llama.Params:
    """Weights large enough that each place of a random model has its own scores."""
    random = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + random.normal(0, 0.2, leaf.shape).astype(np.float32), llama.init(A, jax.random.key(0)))


def served(params: llama.Params, names: tuple[str, ...], ranks: tuple[int, ...], seed: int, dora: bool = False) -> Served:
    """An adapter on some weights with arrays that change the answers."""
    changes = tuple((("layers", *name.split(".")), Change(ranks, tuple(1.5 if rank else 0.0 for rank in ranks))) for name in names)
    adapter = Adapter(changes, dora)
    return Served(adapter, adapter_arrays(adapter, A, params, seed))


MANY = ("attention.query", "attention.value", "attention.out", "mlp.gate", "mlp.down")


def all_served(params: llama.Params) -> list[Served]:
    return [
        served(params, MANY, (4, 4), 1),
        served(params, ("attention.key", "mlp.up"), (0, 2), 2, dora=True),
        served(params, ("mlp.gate", "mlp.down"), (3, 3), 3),
    ]


def merged(params: llama.Params, one: Served) -> llama.Params:
    return adapters.merged(adapters.attach(params, one.adapter, one.arrays))


def bits(params: llama.Params, four: bool) -> llama.Params:
    return frozen.quantize(params) if four else jax.device_put(params, jax.devices()[0])


@pytest.mark.parametrize(
    ("sizes", "dora", "four"),
    [
        (None, True, True),
        *(
            pytest.param(*each, marks=pytest.mark.prove)
            for each in ((None, False, False), ({}, True, False), ({}, False, True), ({"data": 2, "tensor": 2}, True, False))
        ),
        pytest.param({"data": 2, "fsdp": 2}, True, True, marks=pytest.mark.prove),
    ],
    ids=["views of dora over nf4", "views", "scan of dora", "scan of nf4", "mesh", "mesh of nf4"],
)
def test_a_run_with_an_adapter_decodes_as_its_merged_model(sizes: dict[str, int] | None, dora: bool, four: bool) -> None:
    params = drawn()
    own = served(params, MANY, (4, 2), 1, dora)
    params = bits(params, four)
    expected = batch_of(A, merged(params, own), PLAIN).generate(PROMPTS, 6)
    decoding = program(A, CPU if sizes is None else PLAIN, **sizes or {})
    if sizes:
        specs = llama.specs(A)
        params = jax.device_put(params, decoding.layout.tree(frozen.specs(specs) if four else specs, "weights"))
    whole = adapters.attach(params, own.adapter, own.arrays)
    found = Batch(decoding, (weights.of_run if sizes is None else weights.stacked)(whole)).generate(PROMPTS, 6)
    assert [one.ids for one in found] == [one.ids for one in expected]
    np.testing.assert_allclose([one.logprobs for one in found], [one.logprobs for one in expected], atol=1e-4)


def several(params: llama.Params, tuning: Tuning, all_of_them: list[Served]) -> Batch:
    read = lambda path, index: np.asarray(flatten(params)[path])[index]  # noqa: E731
    batch = batch_of(A, params, tuning)
    own = batch._weights if tuning.columns else weights.unstacked(A, jax.device_put(dict(params)))
    besides = weights.beside(A, all_of_them, read, np.float32, fused=tuning.columns)
    return Batch(program(A, tuning), weights.with_adapters(own, besides), slots=8)


@pytest.mark.prove  # `serve` has the same behind its endpoint, with fewer comparisons
@pytest.mark.parametrize("tuning", [CPU, PLAIN], ids=["cpu", "plain"])
def test_several_adapters_over_one_base_answer_together_as_each_merged_model_alone(tuning: Tuning) -> None:
    params = drawn()
    adapted = all_served(params)
    models = [params, *(merged(params, one) for one in adapted)]
    expected = [batch_of(A, each, PLAIN).generate(PROMPTS, 6) for each in models]
    assert len({str(each) for each in expected}) == 4
    batch = several(params, tuning, adapted)
    asked = [
        (number, prompt) for prompt in PROMPTS[1:] for number in range(4)
    ]  # the same prompt for all: nobody takes over another's cache
    generations = [batch.admit(prompt, Options(6, adapter=number)) for number, prompt in asked]
    while batch.step():
        pass
    for (number, prompt), one in zip(asked, generations, strict=True):
        alone = expected[number][PROMPTS.index(prompt)]
        assert [token.id for token in one.tokens] == alone.ids
        np.testing.assert_allclose([token.logprob for token in one.tokens], alone.logprobs, atol=1e-4)
    scoring = Scoring(batch._program, batch._weights)
    readings = [scoring.reading(PROMPTS[0], 1, adapter=number) for number in range(4)]
    for reading in readings:
        scoring.admit(reading)
    while scoring.busy:
        scoring.step()
    for reading, model in zip(readings, models, strict=True):
        [alone] = Scoring(program(A, PLAIN), weights.stacked(jax.device_put(model))).score([(PROMPTS[0], 1)])
        np.testing.assert_allclose(reading.scored.logprobs, alone.logprobs, atol=1e-4)


def test_weights_of_another_step_compile_nothing_again(caplog: pytest.LogCaptureFixture) -> None:
    params = jax.device_put(drawn(), jax.devices()[0])
    decoding = program(A, CPU)

    def decode(seed: int) -> list[list[int]]:
        own = served(params, MANY, (4, 4), seed)
        arrays = jax.device_put(own.arrays, jax.devices()[0])
        whole = adapters.attach(params, own.adapter, arrays)
        with jax.log_compiles():
            return [one.ids for one in Batch(decoding, weights.of_run(whole)).generate(PROMPTS, 4, temperature=1.0)]

    first = decode(1)
    caplog.clear()
    assert decode(2) != first
    assert "Finished XLA compilation" not in caplog.text
