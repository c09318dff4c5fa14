"""The sizes and switches that define a LLaMA or one of its relatives."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import BIG, AtLeastTwo, Natural, Positive, Range

Family = Literal["llama", "mistral", "qwen2", "qwen3", "smollm3"]

# CAN: what a family's config.json can express beyond a plain LLaMA. ALWAYS: what its code always has.
CAN: dict[str, tuple[str, ...]] = {
    "llama": ("qkv_bias", "out_bias", "mlp_bias"),
    "mistral": ("sliding_window",),
    "qwen2": ("qkv_bias", "sliding_window", "sliding_layers"),
    "qwen3": ("qk_norm", "qkv_bias", "out_bias", "sliding_window", "sliding_layers"),
    "smollm3": ("nope_layers", "qkv_bias", "out_bias", "mlp_bias", "sliding_window", "sliding_layers"),
}
ALWAYS = {"qwen2": "qkv_bias", "qwen3": "qk_norm"}
# The largest sizes, far above those of any published model: with them, the number of all weights fits 64 bits and their list fits memory.
LARGEST = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 22,
    "num_layers": 2_000,
    "num_heads": 1 << 14,
    "num_kv_heads": 1 << 14,
    "head_dim": 1 << 14,
    "max_positions": (1 << 31) - 1,  # positions are int32
}
FACTOR = 1e6  # factors of RoPE's scaling are from 1 / FACTOR to FACTOR
POWER = BIG
Vocabulary = Annotated[int, Range(1, LARGEST["vocab_size"])]
Width = Annotated[int, Range(1, LARGEST["hidden_size"])]
Middle = Annotated[int, Range(1, LARGEST["intermediate_size"])]
Layers = Annotated[int, Range(1, LARGEST["num_layers"])]
Heads = Annotated[int, Range(1, LARGEST["num_heads"])]
HeadDim = Annotated[int, Range(1, LARGEST["head_dim"])]
Power = Annotated[float, Range(1, BIG, open_below=True, give="more than 1, such as 10000: RoPE divides by its powers")]
Epsilon = Annotated[
    float, Range(1 / BIG, 1, open_above=True, give="a number from 1e-30 to 1, such as 1e-5: it keeps a norm from dividing by 0")
]
Factor = Annotated[float, Range(1 / FACTOR, FACTOR)]
FactorOr0 = Annotated[float, Range(1 / FACTOR, FACTOR, also=0)]  # 0 is none, as for its authors
Extension = Annotated[float, Range(1, FACTOR)]


@configclass
class RopeScaling:
    """How to change RoPE's frequencies for a longer context than the model was trained on; `model.rope` has the formulas."""

    kind: Literal["linear", "dynamic", "llama3", "yarn", "longrope"]
    factor: Extension = 1.0
    original_max_positions: AtLeastTwo | None = None  # the context before the extension; null (dynamic only): max_positions
    low_freq_factor: Factor = 1.0  # llama3
    high_freq_factor: Factor = 4.0  # llama3
    beta_fast: Factor = 32.0  # yarn
    beta_slow: Factor = 1.0  # yarn
    attention_factor: Factor | None = None  # yarn and longrope; null: as the method computes it
    mscale: FactorOr0 | None = None  # yarn
    mscale_all_dim: FactorOr0 | None = None  # yarn
    truncate: bool = True  # yarn
    short_factor: tuple[Factor, ...] | None = None  # longrope
    long_factor: tuple[Factor, ...] | None = None  # longrope

    def __post_init__(self) -> None:
        if self.kind in ("llama3", "yarn", "longrope") and self.original_max_positions is None:
            raise ValueError(f"{self.kind} needs original_max_positions, the context length before the extension")
        if self.kind == "llama3" and not self.low_freq_factor < self.high_freq_factor:
            raise ValueError(f"low_freq_factor ({self.low_freq_factor}) must be below high_freq_factor ({self.high_freq_factor})")
        if self.kind == "longrope" and (self.short_factor is None or self.long_factor is None):
            raise ValueError("longrope needs short_factor and long_factor: one factor for each pair of a head's dimensions")


@configclass
class Architecture:
    """The sizes and switches of a LLaMA decoder (Touvron et al. 2023, arXiv:2302.13971) or a relative, as its checkpoint gives them."""

    vocab_size: Vocabulary
    hidden_size: Width
    intermediate_size: Middle
    num_layers: Layers
    num_heads: Heads
    num_kv_heads: Heads
    head_dim: HeadDim
    rope_theta: Power = 10000.0
    norm_eps: Epsilon = 1e-5
    max_positions: Positive = 2048
    tie_embeddings: bool = False
    family: Family = "llama"  # the name other programs use; decides the form of config.json
    rope_scaling: RopeScaling | None = None
    sliding_window: Positive | None = None  # a token sees itself and the window - 1 tokens before it
    sliding_layers: tuple[Natural, ...] | None = None  # layers with the window, counted from 0; null: all, if sliding_window is set
    nope_layers: tuple[Natural, ...] = ()  # layers without RoPE
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads}): each key/value head "
                "serves a group of query heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even: RoPE rotates pairs of dimensions")
        self._check_scaling()
        self._check_layers()
        self._check_family()

    def _check_scaling(self) -> None:
        scaling, pairs = self.rope_scaling, self.head_dim // 2
        if scaling is None:
            return
        if scaling.kind == "dynamic" and pairs == 1:
            raise ValueError("dynamic rope_scaling needs a head_dim of 4 or more: it leaves the first pair of dimensions unchanged")
        if scaling.kind == "longrope":
            lengths = (len(scaling.short_factor or ()), len(scaling.long_factor or ()))
            if lengths != (pairs, pairs):
                raise ValueError(
                    f"rope_scaling has a short_factor of {lengths[0]} numbers and a long_factor of {lengths[1]}: both need "
                    f"{pairs}, one for each pair of dimensions in a head_dim of {self.head_dim}"
                )

    def _check_layers(self) -> None:
        if self.sliding_layers is not None and self.sliding_window is None:
            raise ValueError("sliding_layers says which layers have a window: give sliding_window too, the number of tokens they see")
        for name in ("sliding_layers", "nope_layers"):
            numbers = getattr(self, name) or ()
            if list(numbers) != sorted(set(numbers)) or not all(0 <= number < self.num_layers for number in numbers):
                raise ValueError(f"{name} ({list(numbers)}) must name layers from 0 to {self.num_layers - 1} in order, each only once")

    def _check_family(self) -> None:
        used = self._switches
        if _fits(self.family, used):
            return
        able = [family for family in CAN if _fits(family, used)]
        if lacking := [name for name in used if name not in CAN[self.family]]:
            problem = f"no {self.family} has {' or '.join(lacking)}"
        elif (needed := ALWAYS.get(self.family)) and needed not in used:
            problem = f"every {self.family} has {needed}: set it to true"
        else:
            problem = f"a {self.family} has both qkv_bias and out_bias, or neither"
        remedy = f"these settings fit family: {' or '.join(able)}" if able else "no other family fits these settings either"
        raise ValueError(f"family: {problem}; {remedy}")

    @property
    def _switches(self) -> list[str]:
        """The fields that differ from a plain LLaMA."""
        some_slide = 0 < len(self.sliding) < self.num_layers
        names = ("sliding_window", "nope_layers", "qkv_bias", "out_bias", "qk_norm", "mlp_bias")
        on = {name: bool(getattr(self, name)) for name in names}
        return [name for name, used in {**on, "sliding_layers": some_slide}.items() if used]

    @property
    def sliding(self) -> tuple[int, ...]:
        """The layers whose tokens see only `sliding_window` tokens."""
        if self.sliding_window is None:
            return ()
        return tuple(range(self.num_layers)) if self.sliding_layers is None else self.sliding_layers

    @property
    def num_parameters(self) -> int:
        """The number of weights, without padding of the vocabulary and with tied embeddings counted once."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads
        layer = self.hidden_size * (self.head_dim * heads + 3 * self.intermediate_size + 2)
        layer += self.qkv_bias * self.head_dim * (self.num_heads + 2 * self.num_kv_heads) + self.out_bias * self.hidden_size
        layer += self.qk_norm * 2 * self.head_dim + self.mlp_bias * (2 * self.intermediate_size + self.hidden_size)
        tables = 1 if self.tie_embeddings else 2
        return self.num_layers * layer + tables * self.vocab_size * self.hidden_size + self.hidden_size

    def with_layers(self, count: int) -> "Architecture":
        """The same model with only its first `count` layers."""
        return self.keeping(range(count))

    def keeping(self, layers: Sequence[int]) -> "Architecture":
        """The same model with only these layers, in this order."""
        assert layers and all(0 <= layer < self.num_layers for layer in layers), layers
        sliding = tuple(place for place, layer in enumerate(layers) if layer in self.sliding)
        return dataclasses.replace(
            self,
            num_layers=len(layers),
            sliding_window=self.sliding_window if sliding else None,
            sliding_layers=None if len(sliding) in (0, len(layers)) else sliding,
            nope_layers=tuple(place for place, layer in enumerate(layers) if layer in self.nope_layers),
        )

    def only(self, layer: int) -> "Architecture":
        """The same model with only that layer; equal for layers of the same kind."""
        return dataclasses.replace(
            self,
            num_layers=1,
            sliding_window=self.sliding_window if layer in self.sliding else None,
            sliding_layers=None,
            nope_layers=(0,) if layer in self.nope_layers else (),
        )


def _fits(family: str, used: list[str]) -> bool:
    can = CAN[family]
    one_switch = "qkv_bias" in can and "out_bias" in can  # `attention_bias` in config.json sets both
    return (
        all(name in can for name in used)
        and (family not in ALWAYS or ALWAYS[family] in used)
        and not (one_switch and ("qkv_bias" in used) != ("out_bias" in used))
    )


def stored_vocab_size(vocab_size: int, multiple: int) -> int:
    """The number of rows stored for `vocab_size` tokens, rounded up to a `multiple` so that a mesh can divide them."""
    return -(-vocab_size // multiple) * multiple
