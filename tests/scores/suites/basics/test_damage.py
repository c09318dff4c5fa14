"""The suite tells a damaged SmolLM2 from the whole one: takes minutes, and the model."""

import math
import statistics

import jax
import numpy as np
import pytest

from alpaca_jax.formats import pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.model import llama
from alpaca_jax.model.tree import flatten
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites.basics.config import BasicsConfig
from alpaca_jax.scores.suites.basics.score import score
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh

OFF = (12, 15, 18, 21)  # of 30 layers
ONE = MeshConfig(data=1)


def scored(config, off=()):
    """The suite's samples for SmolLM2 whose layers `off` add nothing to the stream."""
    source = pretrained.open(ModelConfig(source="smollm2-135m-instruct"))
    layout = Layout(make_mesh(ONE, jax.devices()[:1]), ONE)
    places = flatten(layout.tree(llama.specs(source.architecture), "weights"))

    def load():
        params = pretrained.load_params(source, "float32", places.__getitem__, stored_vocab=source.architecture.vocab_size)
        for room, name in (("attention", "out"), ("mlp", "down")):
            weight = np.array(params["layers"][room][name])
            weight[list(off)] = 0
            params["layers"][room][name] = jax.device_put(weight, jax.devices()[0])
        return params

    loaded = Loaded(
        source="smollm2-135m-instruct",
        format="",
        tokenizer=source.tokenizer,
        template_name="chat",
        architecture=source.architecture,
        layout=layout,
        dtype="float32",
        compute_dtype="float32",
        eos_ids=tuple(source.eos_ids),
        load=load,
    )
    return score(loaded, config)["samples"]


@pytest.mark.prove
@pytest.mark.timeout(3600)
def test_a_model_with_layers_switched_off_scores_lower_by_three_standard_errors(smollm2):
    config = BasicsConfig(limit=25)  # with 10, the standard error of `choice` is too large for that
    whole, damaged = scored(config), scored(config, OFF)
    for metric in ("lenient", "choice", "probability"):
        differences = [one[metric] - other[metric] for one, other in zip(whole, damaged, strict=True)]
        error = statistics.stdev(differences) / math.sqrt(len(differences))
        assert statistics.fmean(differences) > 3 * error, metric
        mean = statistics.fmean(sample[metric] for sample in whole)
        assert 0.15 < mean < 0.85, metric  # neither too hard nor too easy for so small a model
