"""Several adapters over one base: each name at the endpoint answers as the model into which its adapter is merged."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import openai
import pytest
from decoding import adapter_arrays, batch_of, program

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.adapter import export, reader, trained
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan
from alpaca_jax.formats.model import in_memory
from alpaca_jax.model import llama
from alpaca_jax.serve import models
from alpaca_jax.serve.models import Model, Models

SETTINGS = {
    "poet": AdapterConfig(rank=4, alpha=16.0),
    "coder": AdapterConfig(rank=2, alpha=16.0, targets=("q_proj", "down_proj"), rank_pattern={"layers.1.mlp.down_proj": 3}, dora=True),
}


@pytest.fixture(scope="module")
def large(architecture):
    """Weights of which a small change is heard."""
    random = np.random.default_rng(3)
    params = jax.device_get(llama.init(architecture, jax.random.key(0)))
    return jax.tree.map(lambda leaf: leaf + random.normal(0, 0.2, leaf.shape).astype(np.float32), params)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, architecture, large, tokenizer):
    """A PEFT folder for each of the settings."""
    made = {}
    for seed, (name, settings) in enumerate(SETTINGS.items()):
        made[name] = tmp_path_factory.mktemp("adapters") / name
        arrays = adapter_arrays(plan(settings, architecture), architecture, large, seed)
        export.export(made[name], trained.as_peft(made[name], arrays, settings, architecture, "org/base"), tokenizer)
    return {name: str(folder) for name, folder in made.items()}


@pytest.fixture(scope="module")
def base(architecture, large, tokenizer):
    return in_memory(architecture, tokenizer, large)


def test_each_name_answers_as_its_merged_model(running, base, folders, tokenizer):
    opened = models.opened(folders, base, "tiny")
    plain = batch_of(base.architecture, pretrained.load_params(base))._weights
    besides = weights.beside(base.architecture, [one.served for one in opened], base.read, np.float32, fused=True)
    own = weights.with_adapters(plain, besides)
    assert all(one.qkv is other.qkv and one.gate_up is other.gate_up for one, other in zip(own.layers, plain.layers, strict=True))
    batch = Batch(program(base.architecture), own, slots=4, max_length=200)
    with running(batch, adapters=opened) as server, openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["tiny", "poet", "coder"]
        with pytest.raises(openai.NotFoundError, match="this server has 'tiny', 'poet', 'coder'"):
            client.completions.create(model="else", prompt="a")
        answered, said = {}, {}
        for name in ("tiny", "poet", "coder"):
            answer = client.completions.create(model=name, prompt="Once upon", max_tokens=8, temperature=0, logprobs=0)
            echo = client.completions.create(model=name, prompt="Once upon", max_tokens=0, echo=True, logprobs=0)
            assert answer.model == echo.model == name
            answered[name], said[name] = answer.choices[0].logprobs.token_logprobs, echo.choices[0].logprobs.token_logprobs
    for name in ("tiny", "poet", "coder"):
        model = base if name == "tiny" else reader.merge(Path(folders[name]), base)
        [alone] = batch_of(base.architecture, pretrained.load_params(model)).generate([tokenizer.encode("Once upon")], 8)
        np.testing.assert_allclose(answered[name][: len(alone.ids)], alone.logprobs, atol=1e-4)
    assert len({str(each) for each in answered.values()}) == len({str(each) for each in said.values()}) == 3


def test_adapters_that_do_not_belong_here(base, folders, tmp_path, architecture, tokenizer):
    with pytest.raises(UserError, match=r"adapters.poet: the base has this name too"):
        models.opened(folders, base, "poet")
    with pytest.raises(UserError, match=r"adapters.x=.*neither a PEFT folder .* nor a training run"):
        models.opened({"x": str(tmp_path)}, base, "tiny")
    wider = dataclasses.replace(architecture, intermediate_size=64)
    other = in_memory(wider, tokenizer, jax.device_get(llama.init(wider, jax.random.key(0))))
    with pytest.raises(UserError, match=r"(?s)adapters.poet=.*has the shape"):
        models.opened(folders, other, "tiny")
    notes = [one.note for one in models.opened(folders, dataclasses.replace(base, source="here"), "tiny")]
    assert all("was trained on org/base, and is served over here" in note for note in notes)
    assert not any(one.note for one in models.opened(folders, dataclasses.replace(base, source="org/base"), "tiny"))


def test_a_request_without_a_model_is_for_the_base(tokenizer):
    each = Models([Model("tiny", tokenizer, frozenset()), Model("poet", tokenizer, frozenset(), 1)])
    assert each.get(None) is each.first and each.get("poet").number == 1 and each.get("else") is None
