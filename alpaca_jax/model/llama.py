"""LLaMA (Touvron et al. 2023, arXiv:2302.13971) and its relatives: Flax NNX declares each weight once, `jax.lax.scan` runs the layers.

Elsewhere in the package a model is a plain nested dict of arrays (`params`); the NNX modules below only declare and apply it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from alpaca_jax.model import attention, remat, rope
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.linear import from_heads, linear, to_heads
from alpaca_jax.model.norm import rms_norm
from alpaca_jax.model.weight import Axes, Constrain, placed

Params = dict[str, Any]
INIT_SCALE = 0.02
# The matrices of the layers, by path, and how many of their dimensions after `layers` are the inputs of the product.
MATRICES: dict[tuple[str, ...], int] = {
    **{("layers", "attention", name): 1 for name in ("query", "key", "value")},
    ("layers", "attention", "out"): 2,
    **{("layers", "mlp", name): 1 for name in ("gate", "up", "down")},
}


class WeightSpec(NamedTuple):
    """What is known about a weight before it is allocated."""

    shape: tuple[int, ...]
    dtype: Any
    axes: Axes


def unconstrained(x: jax.Array, axes: Axes) -> jax.Array:
    """`x` unchanged: for a single device, where arrays need no sharding."""
    assert x.ndim == len(axes), (x.shape, axes)
    return x


class Switches(NamedTuple):
    """What only some of the layers do, as a bool for each layer; None if they are all alike."""

    turns: jax.Array | None  # whether a layer has RoPE
    slides: jax.Array | None  # whether it has the sliding window


class Context(NamedTuple):
    """What all layers of a forward pass share."""

    at: rope.Angles
    visible_BTT: jax.Array
    compute_dtype: Any
    constrain: Constrain
    window: int | None = None  # if all layers have it
    window_BTT: jax.Array | None = None  # the mask of the layers with a window, if only some have one

    def of_layer(self, own: Switches) -> "Context":
        """The context of the layer with these switches (scalars)."""
        at = self.at if own.turns is None else rope.only_if(own.turns, self.at)
        visible_BTT = self.visible_BTT
        if own.slides is not None:
            assert self.window_BTT is not None
            visible_BTT = jnp.where(own.slides, self.window_BTT, visible_BTT)
        return self._replace(at=at, visible_BTT=visible_BTT)

    def weight(self, param: nnx.Param, *axes: str) -> Any:
        """The weight (see `model.weight`) in the compute dtype, sharded as the computation needs it (gathered, if stored in shards)."""
        return placed(param.get_value(), self.compute_dtype, self.constrain, axes)

    def hidden(self, x_BTD: jax.Array) -> jax.Array:
        """The residual stream [B, T, D], sharded by batch and sequence."""
        return self.constrain(x_BTD, ("batch", "sequence", "embed_activation"))


class Declare(NamedTuple):
    """Creates the weights of a model: each call declares a weight's shape, dtype, logical axes and initializer, and nothing else does."""

    rngs: nnx.Rngs
    dtype: Any

    def matrix(self, **axes: int) -> nnx.Param:
        """A weight drawn from a normal distribution of standard deviation 0.02; the keywords are its logical axes and their sizes."""
        values = INIT_SCALE * jax.random.normal(self.rngs.params(), tuple(axes.values()), self.dtype)
        return nnx.Param(values, logical_axes=tuple(axes))

    def scale(self, **axes: int) -> nnx.Param:
        """A norm's scale, initially one."""
        return nnx.Param(jnp.ones(tuple(axes.values()), self.dtype), logical_axes=tuple(axes))

    def bias(self, **axes: int) -> nnx.Param:
        """A bias, initially zero."""
        return nnx.Param(jnp.zeros(tuple(axes.values()), self.dtype), logical_axes=tuple(axes))


class Norm(nnx.Module):
    def __init__(self, declare: Declare, **axes: int):
        self.scale = declare.scale(**axes)


class Attention(nnx.Module):
    def __init__(self, a: Architecture, declare: Declare):
        self.query = declare.matrix(layers=a.num_layers, embed=a.hidden_size, heads=a.num_heads, head_dim=a.head_dim)
        self.key = declare.matrix(layers=a.num_layers, embed=a.hidden_size, kv_heads=a.num_kv_heads, head_dim=a.head_dim)
        self.value = declare.matrix(layers=a.num_layers, embed=a.hidden_size, kv_heads=a.num_kv_heads, head_dim=a.head_dim)
        self.out = declare.matrix(layers=a.num_layers, heads=a.num_heads, head_dim=a.head_dim, embed=a.hidden_size)
        if a.qkv_bias:
            self.query_bias = declare.bias(layers=a.num_layers, heads=a.num_heads, head_dim=a.head_dim)
            self.key_bias = declare.bias(layers=a.num_layers, kv_heads=a.num_kv_heads, head_dim=a.head_dim)
            self.value_bias = declare.bias(layers=a.num_layers, kv_heads=a.num_kv_heads, head_dim=a.head_dim)
        if a.out_bias:
            self.out_bias = declare.bias(layers=a.num_layers, embed=a.hidden_size)
        if a.qk_norm:  # per head (Henry et al. 2020, arXiv:2010.04245, with RMSNorm)
            self.query_norm = Norm(declare, layers=a.num_layers, head_dim=a.head_dim)
            self.key_norm = Norm(declare, layers=a.num_layers, head_dim=a.head_dim)
        self.has = (a.qkv_bias, a.out_bias, a.qk_norm)
        self.eps = a.norm_eps

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        qkv_bias, out_bias, qk_norm = self.has
        q_BTHK = to_heads(x_BTD, context.weight(self.query, "embed", "heads", "head_dim"))
        k_BTNK = to_heads(x_BTD, context.weight(self.key, "embed", "kv_heads", "head_dim"))
        v_BTNK = to_heads(x_BTD, context.weight(self.value, "embed", "kv_heads", "head_dim"))
        if qkv_bias:
            q_BTHK = q_BTHK + context.weight(self.query_bias, "heads", "head_dim")
            k_BTNK = k_BTNK + context.weight(self.key_bias, "kv_heads", "head_dim")
            v_BTNK = v_BTNK + context.weight(self.value_bias, "kv_heads", "head_dim")
        if qk_norm:
            q_BTHK = rms_norm(q_BTHK, self.query_norm.scale[...], self.eps)
            k_BTNK = rms_norm(k_BTNK, self.key_norm.scale[...], self.eps)
        q_BTHK = checkpoint_name(rope.rotate(q_BTHK, context.at), "query")
        k_BTNK = checkpoint_name(rope.rotate(k_BTNK, context.at), "key")
        v_BTNK = checkpoint_name(v_BTNK, "value")
        mixed_BTHK = checkpoint_name(attention.attend(q_BTHK, k_BTNK, v_BTNK, context.visible_BTT, context.window), "mixed")
        out_BTD = from_heads(mixed_BTHK, context.weight(self.out, "heads", "head_dim", "embed"))
        return out_BTD + context.weight(self.out_bias, "embed") if out_bias else out_BTD


class MLP(nnx.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, a: Architecture, declare: Declare):
        self.gate = declare.matrix(layers=a.num_layers, embed=a.hidden_size, mlp=a.intermediate_size)
        self.up = declare.matrix(layers=a.num_layers, embed=a.hidden_size, mlp=a.intermediate_size)
        self.down = declare.matrix(layers=a.num_layers, mlp=a.intermediate_size, embed=a.hidden_size)
        if a.mlp_bias:
            self.gate_bias = declare.bias(layers=a.num_layers, mlp=a.intermediate_size)
            self.up_bias = declare.bias(layers=a.num_layers, mlp=a.intermediate_size)
            self.down_bias = declare.bias(layers=a.num_layers, embed=a.hidden_size)
        self.has_bias = a.mlp_bias

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        gate_BTF = self._wide(x_BTD, context, "gate")
        up_BTF = self._wide(x_BTD, context, "up")
        out_BTD = linear(jax.nn.silu(gate_BTF) * up_BTF, context.weight(self.down, "mlp", "embed"))
        return out_BTD + context.weight(self.down_bias, "embed") if self.has_bias else out_BTD

    def _wide(self, x_BTD: jax.Array, context: Context, name: str) -> jax.Array:
        x_BTF = linear(x_BTD, context.weight(getattr(self, name), "embed", "mlp"))
        if self.has_bias:
            x_BTF = x_BTF + context.weight(getattr(self, f"{name}_bias"), "mlp")
        return checkpoint_name(x_BTF, name)


class Layers(nnx.Module):
    """All layers, stacked along a leading `layers` axis; `__call__` applies one of them, on weights without that axis."""

    def __init__(self, a: Architecture, declare: Declare):
        self.attention_norm = Norm(declare, layers=a.num_layers, embed=a.hidden_size)
        self.attention = Attention(a, declare)
        self.mlp_norm = Norm(declare, layers=a.num_layers, embed=a.hidden_size)
        self.mlp = MLP(a, declare)
        self.eps = a.norm_eps

    def __call__(self, x_BTD: jax.Array, context: Context) -> jax.Array:
        with jax.named_scope("attention"):
            normed_BTD = rms_norm(x_BTD, self.attention_norm.scale[...], self.eps)
            x_BTD = context.hidden(x_BTD + self.attention(normed_BTD, context))
        with jax.named_scope("mlp"):
            normed_BTD = rms_norm(x_BTD, self.mlp_norm.scale[...], self.eps)
            return context.hidden(x_BTD + self.mlp(normed_BTD, context))


class Table(nnx.Module):
    def __init__(self, a: Architecture, declare: Declare, vocab_size: int):
        self.weight = declare.matrix(vocab=vocab_size, embed=a.hidden_size)


class Llama(nnx.Module):
    """The decoder without its output product: from tokens to hidden states."""

    def __init__(self, a: Architecture, declare: Declare, vocab_size: int):
        self.embed = Table(a, declare, vocab_size)
        self.layers = Layers(a, declare)
        self.norm = Norm(declare, embed=a.hidden_size)
        if not a.tie_embeddings:
            self.head = Table(a, declare, vocab_size)
        self.eps = a.norm_eps

    def __call__(self, tokens_BT: jax.Array, context: Context, switches: Switches, remat_policy: str) -> jax.Array:
        definition, stacked = nnx.split(self.layers)

        def layer(x_BTD: jax.Array, own: tuple[nnx.State, Switches]) -> tuple[jax.Array, None]:
            weights, flags = own
            return nnx.merge(definition, weights)(x_BTD, context.of_layer(flags)), None

        embed_VD = context.constrain(self.embed.weight[...], ("vocab", "embed"))
        x_BTD = context.hidden(embed_VD[tokens_BT].astype(context.compute_dtype))
        x_BTD, _ = jax.lax.scan(remat.wrap(layer, remat_policy), x_BTD, (stacked, switches))
        return rms_norm(x_BTD, self.norm.scale[...], self.eps)


def _build(architecture: Architecture, key: jax.Array, vocab_size: int | None, dtype: Any) -> Llama:
    return Llama(architecture, Declare(nnx.Rngs(params=key), dtype), vocab_size or architecture.vocab_size)


def _abstract(architecture: Architecture, vocab_size: int | None, dtype: Any) -> Llama:
    return nnx.eval_shape(lambda: _build(architecture, jax.random.key(0), vocab_size, dtype))


def specs(architecture: Architecture, vocab_size: int | None = None, dtype: Any = jnp.float32) -> Params:
    """A nested dict with the `WeightSpec` of every weight; allocates nothing. `vocab_size` may exceed the vocabulary to pad it."""
    _, state = nnx.split(_abstract(architecture, vocab_size, dtype))
    is_param = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
    spec = lambda param: WeightSpec(param.get_value().shape, param.get_value().dtype, param.get_metadata("logical_axes"))  # noqa: E731
    return nnx.to_pure_dict(jax.tree.map(spec, state, is_leaf=is_param))


def init(architecture: Architecture, key: jax.Array, vocab_size: int | None = None, dtype: Any = jnp.float32) -> Params:
    """Random params as `specs` describes them: matrices normal(0, 0.02), norm scales one, biases zero.

    Jit it with out_shardings to create them sharded.
    """
    _, state = nnx.split(_build(architecture, key, vocab_size, dtype))
    return nnx.to_pure_dict(state)


def forward(
    architecture: Architecture,
    params: Params,
    tokens_BT: Int[Array, "B T"],
    segments_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"],
    *,
    compute_dtype: Any = jnp.float32,
    remat: str = "none",
    constrain: Constrain = unconstrained,
) -> Float[Array, "B T D"]:
    """The hidden states [B, T, D] after the last norm, in `compute_dtype`.

    Tokens, segments (0: empty slot) and positions are int32 [B, T]; a token sees only its own segment. `remat` names what the backward
    pass recomputes (`model.remat.POLICIES`); `constrain(array, logical_axes)` shards arrays over a mesh.
    """
    vocab_size = params["embed"]["weight"].shape[0]
    definition, state = nnx.split(_abstract(architecture, vocab_size, params["embed"]["weight"].dtype))
    nnx.replace_by_pure_dict(state, params)
    context, switched = _context(architecture, segments_BT, positions_BT, compute_dtype, constrain)
    return nnx.merge(definition, state)(tokens_BT, context, switched, remat)


def run_layer(
    architecture: Architecture,
    number: int,
    layer: Params,
    x_BTD: Float[Array, "B T D"],
    segments_BT: Int[Array, "B T"],
    positions_BT: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
    """The residual stream [B, T, D] after layer `number`, in x's dtype; `layer` holds its weights without the `layers` axis."""
    one = architecture.only(number)
    definition, state = nnx.split(nnx.eval_shape(lambda: Layers(one, Declare(nnx.Rngs(params=0), x_BTD.dtype))))
    nnx.replace_by_pure_dict(state, layer)
    context, switched = _context(one, segments_BT, positions_BT, x_BTD.dtype, unconstrained)
    return nnx.merge(definition, state)(x_BTD, context.of_layer(jax.tree.map(lambda flags_L: flags_L[0], switched)))


def _context(
    architecture: Architecture, segments_BT: jax.Array, positions_BT: jax.Array, compute_dtype: Any, constrain: Constrain
) -> tuple[Context, Switches]:
    """What the layers share, and where they differ."""
    at = rope.angles(positions_BT, architecture, rope.text_lengths(architecture, segments_BT, positions_BT))
    switched = switches(architecture, segments_BT.shape[1])
    window = architecture.sliding_window if architecture.sliding else None
    alike = switched.slides is None
    context = Context(
        at=at,
        visible_BTT=attention.visible(segments_BT, window if alike else None),
        compute_dtype=jnp.dtype(compute_dtype),
        constrain=constrain,
        window=window if alike else None,
        window_BTT=None if alike else attention.visible(segments_BT, window),
    )
    return context, switched


def switches(architecture: Architecture, length: int) -> Switches:
    """Where the layers differ, bool [L], for texts of up to `length` tokens."""
    a, layers = architecture, np.arange(architecture.num_layers)
    turns = None if not a.nope_layers else jnp.asarray(~np.isin(layers, a.nope_layers))
    some_slide = 0 < len(a.sliding) < a.num_layers and length > (a.sliding_window or 0)
    return Switches(turns, jnp.asarray(np.isin(layers, a.sliding)) if some_slide else None)


def output_weight(params: Params) -> Float[Array, "V D"]:
    """The matrix [V, D] of the output product; the embedding if they are tied."""
    return params["head"]["weight"] if "head" in params else params["embed"]["weight"]


def logits(params: Params, hidden_BTD: Float[Array, "B T D"], vocab_size: int | None = None) -> Float[Array, "B T V"]:
    """fp32 logits [B, T, V] of the next token; `vocab_size` drops the rows that only pad the stored vocabulary."""
    weight_VD = output_weight(params)[:vocab_size].astype(hidden_BTD.dtype)
    return jnp.einsum("btd,vd->btv", hidden_BTD, weight_VD, preferred_element_type=jnp.float32)
