"""The forward pass that decodes, as pure functions: (weights, cache) -> (cache with more tokens in it, next tokens), on a Layout.

A model has two forward passes. Training (`model.llama`) reads whole rows at once, keeps nothing but what the gradient needs, and scans
over stacked weights, so that one layer is compiled whatever their number. Decoding reads one token of each row, at the row's own position,
against a cache. There a scan costs a copy of every layer's weights and cache at every token, so whoever loads a model to decode keeps the
layers apart, and they are unrolled, in programs of a few layers that are called as often as it takes. A run on a mesh or an accelerator,
whose weights are stacked and have no room for a second copy, scans for its samples. The two passes are the same function of the weights: a
test compares their logits for every family.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int

from alpaca_jax.decode import layer, sampling
from alpaca_jax.decode.layer import PAGE, Cache
from alpaca_jax.decode.sides import Changed
from alpaca_jax.decode.tuning import Tuning, suited
from alpaca_jax.decode.weights import Params, Weights
from alpaca_jax.model import llama, rope
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.norm import rms_norm
from alpaca_jax.model.tree import Path, flatten, map_with_path
from alpaca_jax.model.weight import placed
from alpaca_jax.sharding import Layout

CACHE = ("batch", "kv_heads", "cache", "head_dim")  # rows over the data axes, heads over the tensor axis


class Chosen(NamedTuple):
    """The tokens of one step, and the likeliest ones in their place (P = 0 where nobody asked)."""

    ids_R: Int[Array, " R"]
    logprobs_R: Float[Array, " R"]
    top_ids_RP: Int[Array, "R P"]
    top_logprobs_RP: Float[Array, "R P"]


class Judged(NamedTuple):
    """What the model says of Q given tokens, and of the likeliest ones in their place (P = 1 at least, the likeliest first)."""

    logprobs_Q: Float32[Array, " Q"]
    top_ids_QP: Int[Array, "Q P"]
    top_logprobs_QP: Float32[Array, "Q P"]


@dataclass(frozen=True)
class Program:
    """A model's functions for decoding in `dtype` on the devices of `layout`, where its weights lie and its cache is to lie."""

    architecture: Architecture
    layout: Layout
    tuning: Tuning
    dtype: Any

    @classmethod
    def on(cls, architecture: Architecture, layout: Layout, dtype: Any) -> "Program":
        """The one that suits the devices of `layout`."""
        return cls(architecture, layout, suited(layout), jnp.dtype(dtype))

    @property
    def row_multiple(self) -> int:
        """The rows of the cache are a multiple of this: the devices that share them take the same number."""
        return self.layout.parts("batch", "compute")

    def group(self, weights: Weights) -> int:
        """How many layers one call of `decode` takes: a divisor of their number, so that all groups have the same program."""
        most = self.tuning.group if isinstance(weights.layers, list) else self.architecture.num_layers
        return max(count for count in range(1, most + 1) if self.architecture.num_layers % count == 0)

    @partial(jax.jit, static_argnums=(0, 1, 2))
    def empty(self, rows: int, length: int) -> Cache:
        """A layer's cache of zeros; `length` is a multiple of PAGE."""
        a = self.architecture
        values = jnp.zeros((rows, a.num_kv_heads, length, a.head_dim), self.dtype)
        paged = self.tuning.paged_keys
        keys = jnp.zeros((rows, a.num_kv_heads, length // PAGE, a.head_dim, PAGE), self.dtype) if paged else values
        return self._placed(Cache(keys, values))

    @partial(jax.jit, static_argnums=(0, 2, 3))
    def resize(self, cache: Cache, rows: int, length: int) -> Cache:
        """The first `rows` rows and `length` positions (a multiple of PAGE) of a cache, zeros beyond what it has."""

        def cut(leaf: jax.Array, size: int) -> jax.Array:
            kept = leaf[:rows, :, :size]
            return jnp.pad(kept, [(0, rows - kept.shape[0]), (0, 0), (0, size - kept.shape[2])] + [(0, 0)] * (leaf.ndim - 3))

        return self._placed(Cache(cut(cache.key_RNSK, length // PAGE if self.tuning.paged_keys else length), cut(cache.value_RNSK, length)))

    @partial(jax.jit, static_argnums=0)
    def take(self, cache: Cache, rows_Q: Int[Array, " Q"]) -> Cache:
        """A copy of some rows, which all devices that share the rows have."""
        return jax.tree.map(lambda leaf: self._constrain(leaf[rows_Q], ("rows", *CACHE[1:])), cache)

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def put(self, cache: Cache, own: Cache, rows_Q: Int[Array, " Q"]) -> Cache:
        """The cache with some rows replaced by `own`; one whose number is beyond the last row is dropped."""
        return self._placed(jax.tree.map(lambda leaf, new: leaf.at[rows_Q].set(new, mode="drop"), cache, own))

    @partial(jax.jit, static_argnums=0)
    def embed(
        self,
        embed_VD: Float[Array, "V D"],
        ids_RT: Int[Array, "R T"],
        starts_R: Int[Array, " R"],
        lengths_R: Int[Array, " R"] | None = None,
    ) -> tuple[Float[Array, "R*T D"], rope.Angles]:
        """What the first layer reads: the tokens' embeddings, and the rotations of their positions.

        RoPE's scaling may depend on the length of the text: of the prompt while it is read, and up to each token while decoding (None).
        """
        count = ids_RT.shape[1]
        positions_RT = starts_R[:, None] + jnp.arange(count)
        lengths_M = None if lengths_R is None else jnp.repeat(lengths_R, count)
        embed_VD = self._constrain(embed_VD, ("vocab", "embed"))
        return embed_VD[ids_RT.reshape(-1)].astype(self.dtype), rope.angles(positions_RT.reshape(-1, 1), self.architecture, lengths_M)

    @partial(jax.jit, static_argnums=0, donate_argnames="caches")
    def decode(
        self,
        weights: Any,
        first: int,
        caches: list[Cache],
        x_RD: Float[Array, "R D"],
        positions_R: Int[Array, " R"],
        at: rope.Angles,
        which_R: Int[Array, " R"] | None = None,
    ) -> tuple[list[Cache], Float[Array, "R D"]]:
        """One token of every row through the layers from `first` on, one for each of `caches`: those with it added, and the stream.

        `weights` is what `Weights.group` gives; `which_R` each row's adapter, where there are several.
        """
        run = layer.one_token if self.tuning.paged_keys else layer.tokens

        def one(x_RD: jax.Array, inputs: tuple[Any, Any, Cache]) -> tuple[jax.Array, Cache]:
            own, number, cache = inputs
            x_RD = self._constrain(x_RD, ("batch", "embed_activation"))
            cache, x_RD = run(self.architecture, own, self._switches(number), cache, x_RD, positions_R, at, which_R)
            return x_RD, self._placed(cache)

        if isinstance(weights, list):
            for index, (own, cache) in enumerate(zip(weights, caches, strict=True)):
                x_RD, caches[index] = one(x_RD, (own, first + index, cache))
            return caches, x_RD
        # Stacked weights are scanned over, so that one layer at a time is cut out; unrolled, the pieces of all would be made at once.
        cut = lambda x_RD, inputs: one(x_RD, (self._layer(weights, inputs[0]), *inputs))  # noqa: E731
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *caches)
        x_RD, stacked = jax.lax.scan(cut, x_RD, (first + jnp.arange(len(caches)), stacked))
        return [Cache(*leaves) for leaves in zip(*map(jnp.unstack, stacked), strict=True)], x_RD

    @partial(jax.jit, static_argnums=0, donate_argnames="cache")
    def prefill(
        self,
        weights: Any,
        number: int,
        cache: Cache,
        x_MD: Float[Array, "M D"],
        starts_R: Int[Array, " R"],
        at: rope.Angles,
        which_R: Int[Array, " R"] | None = None,
    ) -> tuple[Cache, Float[Array, "M D"]]:
        """T tokens of every row (M = R * T) through the layer `number`: rows that `take` gave, with them added, and the stream."""
        switches = self._switches(number)
        own = weights[0] if isinstance(weights, list) else self._layer(weights, number)
        which_M = None if which_R is None else jnp.repeat(which_R, x_MD.shape[0] // which_R.shape[0])
        cache, x_MD = layer.tokens(self.architecture, own, switches, cache, x_MD, starts_R, at, which_M)
        return jax.tree.map(lambda leaf: self._constrain(leaf, ("rows", *CACHE[1:])), cache), x_MD

    @partial(jax.jit, static_argnums=0)
    def logits(self, norm: Float[Array, " D"], head_VD: Float[Array, "V D"], x_RD: Float[Array, "R D"]) -> Float32[Array, "R _"]:
        """The scores of the next token from the last layer's stream; rows that pad the stored vocabulary are left out."""
        head_VD = self._constrain(head_VD, ("vocab", "embed")).astype(self.dtype)
        x_RD = rms_norm(x_RD, norm, self.architecture.norm_eps)
        if self.tuning.columns:
            logits_RV = layer.project(head_VD, x_RD).astype(jnp.float32)
        else:
            logits_RV = jnp.einsum("rd,vd->rv", x_RD, head_VD, preferred_element_type=jnp.float32)
        return self._constrain(logits_RV, ("batch", "scores"))[:, : self.architecture.vocab_size]

    @partial(jax.jit, static_argnums=(0, 1, 2))
    def choose(
        self, top: int, drawn: bool, norm: Float[Array, " D"], head_VD: Float[Array, "V D"], x_RD: Float[Array, "R D"], draw: sampling.Draw
    ) -> Chosen:
        """The next tokens, and the `top` likeliest; `drawn` says that some row is not greedy, which takes a much larger program."""
        logits_RV = self.logits(norm, head_VD, x_RD)
        ids_R, logprobs_R = sampling.sample(logits_RV, draw, drawn, self.tuning.blocked_argmax)
        top_RP, top_ids_RP = jax.lax.top_k(jax.nn.log_softmax(logits_RV), min(top, logits_RV.shape[1]))
        return jax.tree.map(self._everywhere, Chosen(ids_R, logprobs_R, top_ids_RP, top_RP))

    @partial(jax.jit, static_argnums=(0, 1))
    def judge(
        self,
        top: int,
        norm: Float[Array, " D"],
        head_VD: Float[Array, "V D"],
        x_MD: Float[Array, "M D"],
        places_Q: Int[Array, " Q"],
        given_Q: Int[Array, " Q"],
    ) -> Judged:
        """How likely each of `given_Q` is after the token at its place of the stream, and the `top` likeliest; float32."""
        logits_QV = self.logits(norm, head_VD, x_MD[places_Q])
        best_Q = jnp.max(logits_QV, axis=1)
        ids_V = jnp.arange(logits_QV.shape[1], dtype=jnp.int32)
        # The first of the largest, as argmax gives it, which is slow on a CPU.
        first_Q = jnp.min(jnp.where(logits_QV == best_Q[:, None], ids_V, ids_V[-1]), axis=1)
        spread_Q = jnp.log(jnp.sum(jnp.exp(logits_QV - best_Q[:, None]), axis=1))
        # Written alike for all of them: whoever compares a token's value with the largest must find it equal where it is that token.
        logprob = lambda logits_QP: logits_QP - best_Q[:, None] - spread_Q[:, None]  # noqa: E731
        given = logprob(jnp.take_along_axis(logits_QV, given_Q[:, None], axis=1))[:, 0]
        if top <= 1:
            return jax.tree.map(self._everywhere, Judged(given, first_Q[:, None], logprob(best_Q[:, None])))
        likeliest_QP, ids_QP = jax.lax.top_k(logits_QV, min(top, logits_QV.shape[1]))
        return jax.tree.map(self._everywhere, Judged(given, ids_QP, logprob(likeliest_QP)))

    def _layer(self, weights: Params, number: Any) -> Params:
        """The weights of a layer, cut out of the stack and placed as the computation wants them."""
        own = jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), weights)
        if self.layout.mesh.size == 1:
            return own
        specs = flatten(llama.specs(self.architecture)["layers"])

        def place(path: Path, leaf: Any) -> Any:
            if isinstance(leaf, Changed):
                return leaf._replace(base=place(path, leaf.base))
            axes = specs[path].axes[1:]
            return self._constrain(leaf, axes) if isinstance(leaf, jax.Array) else placed(leaf, self.dtype, self._constrain, axes)

        return map_with_path(place, own)

    def _switches(self, number: Any) -> llama.Switches:
        return jax.tree.map(lambda flags_L: flags_L[number], llama.switches(self.architecture, self.architecture.max_positions))

    def _constrain(self, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
        return x if self.layout.mesh.size == 1 else self.layout.constrain(x, axes)

    def _everywhere(self, x: jax.Array) -> jax.Array:
        return x if self.layout.mesh.size == 1 else jax.lax.with_sharding_constraint(x, self.layout.replicated)

    def _placed(self, cache: Cache) -> Cache:
        # On one device too: an array that is tied to no device would count as another kind of argument, and compile everything twice.
        return jax.tree.map(lambda leaf: self.layout.constrain(leaf, CACHE), cache)
