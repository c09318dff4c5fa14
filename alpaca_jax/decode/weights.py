"""The weights in the layout that a decode step reads fastest: one set a layer, rows of outputs, projections of one input fused."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from alpaca_jax.model import llama
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
    switches: llama.Switches  # scalars
    # None where the architecture has none:
    qkv_bias: jax.Array | None = None  # [(H + 2N) * K]
    out_bias: jax.Array | None = None  # [D]
    qk_norm: jax.Array | None = None  # [H + N, K]


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
    switches = llama.switches(architecture, architecture.max_positions)
    layers = [_layer(architecture, params["layers"], switches, index, dtype) for index in range(architecture.num_layers)]
    return Weights(embed_VD, layers, params["norm"]["scale"].astype(dtype), head_VD)


@partial(jax.jit, static_argnames=("a", "dtype"))
def _layer(a: Architecture, stacked: Params, switches: llama.Switches, index: int, dtype: Any) -> LayerWeights:
    layer = jax.tree.map(lambda leaf: leaf[index].astype(dtype), stacked)
    attention, mlp = layer["attention"], layer["mlp"]
    hidden = layer["attention_norm"]["scale"].shape[0]
    rows = [attention[name].reshape(hidden, -1).T for name in ("query", "key", "value")]
    biases = [attention[f"{name}_bias"].reshape(-1) for name in ("query", "key", "value")] if a.qkv_bias else None
    norms = ("query_norm", a.num_heads), ("key_norm", a.num_kv_heads)
    scales = [jnp.broadcast_to(attention[name]["scale"], (heads, a.head_dim)) for name, heads in norms] if a.qk_norm else None
    return LayerWeights(
        attention_norm=layer["attention_norm"]["scale"],
        qkv=jnp.concatenate(rows),
        out=attention["out"].reshape(-1, hidden).T,
        mlp_norm=layer["mlp_norm"]["scale"],
        gate_up=jnp.concatenate([mlp["gate"].T, mlp["up"].T]),
        down=mlp["down"].T,
        switches=jax.tree.map(lambda flags: flags[index], switches),
        qkv_bias=None if biases is None else jnp.concatenate(biases),
        out_bias=attention["out_bias"] if a.out_bias else None,
        qk_norm=None if scales is None else jnp.concatenate(scales),
    )
