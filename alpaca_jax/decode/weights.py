"""The weights in the layout that a decode step reads fastest: one set a layer, rows of outputs, projections of one input fused."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alpaca_jax.model.architecture import Architecture

Params = dict[str, Any]


class LayerWeights(NamedTuple):
    """One layer. Matrices are [outputs, inputs]: see `layer.project` for why."""

    attention_norm: jax.Array  # [D]
    qkv: jax.Array  # [(H + 2N) * K, D]
    out: jax.Array  # [D, H * K]
    mlp_norm: jax.Array  # [D]
    gate_up: jax.Array  # [2F, D]
    down: jax.Array  # [D, F]


class Weights(NamedTuple):
    """A whole model, ready to decode."""

    embed_VD: jax.Array
    layers: list[LayerWeights]
    norm: jax.Array  # [D]
    head_VD: jax.Array  # the same array as embed_VD where the output is tied


def prepare(architecture: Architecture, params: Params, dtype: Any = None) -> Weights:
    """`params` (see `model.llama`) rearranged for decoding, in `dtype` (None: as they are); a padded vocabulary is trimmed."""
    dtype = dtype or params["embed"]["weight"].dtype
    trim = jax.jit(lambda table_VD: table_VD[: architecture.vocab_size].astype(dtype))
    embed_VD = trim(params["embed"]["weight"])
    head_VD = trim(params["head"]["weight"]) if "head" in params else embed_VD
    layers = [_layer(params["layers"], index, dtype) for index in range(architecture.num_layers)]
    return Weights(embed_VD, layers, params["norm"]["scale"].astype(dtype), head_VD)


@partial(jax.jit, static_argnames="dtype")
def _layer(stacked: Params, index: int, dtype: Any) -> LayerWeights:
    layer = jax.tree.map(lambda leaf: leaf[index].astype(dtype), stacked)
    attention, mlp = layer["attention"], layer["mlp"]
    hidden = layer["attention_norm"]["scale"].shape[0]
    rows = [attention[name].reshape(hidden, -1).T for name in ("query", "key", "value")]
    return LayerWeights(
        attention_norm=layer["attention_norm"]["scale"],
        qkv=jnp.concatenate(rows),
        out=attention["out"].reshape(-1, hidden).T,
        mlp_norm=layer["mlp_norm"]["scale"],
        gate_up=jnp.concatenate([mlp["gate"].T, mlp["up"].T]),
        down=mlp["down"].T,
    )
