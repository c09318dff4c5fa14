"""The group `adapter` of a config: which matrices get a low-rank change, how large it is, and what the base beneath it is stored in."""

from dataclasses import field
from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Fraction, Range

LARGEST_RANK = 1 << 16
LARGEST_ALPHA = 1e6
ALL = "all-linear"

Rank = Annotated[int, Range(1, LARGEST_RANK)]
Alpha = Annotated[float, Range(0, LARGEST_ALPHA, open_below=True)]


@configclass
class AdapterConfig:
    """A LoRA adapter (Hu et al. 2021, arXiv:2106.09685) over frozen weights; names and patterns mean what they mean in PEFT."""

    rank: Rank = 16
    alpha: Alpha = 32.0  # the change is multiplied by alpha / rank
    targets: str | tuple[str, ...] = ALL  # the ends of modules' names; or one pattern that a whole name matches
    rank_pattern: dict[str, Rank] = field(default_factory=dict)  # pattern of a name's end -> rank; the first that matches counts
    alpha_pattern: dict[str, Alpha] = field(default_factory=dict)  # the same for alpha
    rslora: bool = False  # alpha / sqrt(rank) instead (arXiv:2312.03732)
    dora: bool = False  # a trained magnitude for each output too (arXiv:2402.09353)
    dropout: Fraction = 0.0  # of what a change reads, another mask in every layer and step
    base: Literal["nf4"] | None = None  # nf4: the base's matrices in four bits (QLoRA, arXiv:2305.14314); null: in model.dtype
    double_quant: bool = True  # nf4's scales in eight bits, 4.13 bits a weight instead of 4.5

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError('targets is empty: give all-linear, a pattern, or names such as ["q_proj", "v_proj"]')

    @property
    def nf4(self) -> Literal["single", "double"] | None:
        """How the base is quantised; None in full precision."""
        if self.base is None:
            return None
        return "double" if self.double_quant else "single"
