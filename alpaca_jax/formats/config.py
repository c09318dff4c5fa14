"""The group `model` of a config."""

import dataclasses
import re
from typing import Any, Literal

from alpaca_jax.config import configclass
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.ranges import AUTO, Natural, Positive

# A block of N layers is left out: that which turns the residual stream least, or that without which the loss is least. Or they go one by
# one, each time the one without which the loss is least.
CHOSEN = re.compile(r" *drop +(\d{1,4})(?: *,)?(?: +chosen)?(?: +(by angle|by loss|one by one))? *")
FORMS = 'N, a list such as [0, 1, 4, 5], "drop N, chosen", "drop N, chosen by loss" or "drop N, chosen one by one"'


@configclass
class Widths:
    """The sizes of a smaller model inside its layers; null: as in the source."""

    hidden_size: Positive | None = None  # channels of the residual stream
    intermediate_size: Positive | None = None  # neurons of each MLP
    num_kv_heads: Positive | None = None  # heads of keys and values; each takes the query heads that share it along


@configclass
class ModelConfig:
    """Which weights to start from, or the sizes of random ones, and how they are stored and computed with."""

    source: str | None = None  # a known name, ORG/NAME on the hub, a local folder or file; null: random weights
    base: str | None = None  # the model that an adapter is merged into or a weight difference is added to; null: the one the adapter names
    cache: str | None = None  # folder of downloaded models; null: ~/.cache/alpaca_jax/models
    keep_layers: Natural | tuple[Natural, ...] | str | None = None  # the first N layers, a list of them, or as CHOSEN says
    widths: Widths | None = None  # how wide a smaller model is; which parts of the source stay is chosen
    calibration: str | None = None  # a file of records on which layers and widths are chosen; null: packaged tasks
    architecture: Architecture | None = None  # the sizes of random weights; with a source, the sizes it must have
    tokenizer: str | None = None  # a folder, a file or the name of a known model; null: the source's own
    # auto: chosen when a verb starts, before anything is computed with it
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"  # of the stored weights
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    remat: Literal["auto", "none", "full", "attention", "minimal"] = "none"  # what the backward pass recomputes: model/remat.py
    vocab_multiple: Positive = 1  # pads the rows of the vocabulary to a multiple, so that a mesh can divide them

    def __post_init__(self) -> None:
        keep = self.keep_layers
        if keep == 0 or (isinstance(keep, str) and (not (found := CHOSEN.fullmatch(keep)) or int(found[1]) < 1)):
            raise ValueError(f"keep_layers={keep!r}: give {FORMS}")
        if isinstance(keep, tuple) and (not keep or list(keep) != sorted(set(keep))):
            raise ValueError(f"keep_layers={list(keep)}: give the numbers of the layers, from 0, in order and each only once")
        if self.source is None and (keep is not None or self.widths is not None):
            raise ValueError("keep_layers and widths take parts of a model: give model.source=NAME too, or model.architecture its sizes")

    @property
    def dropped(self) -> tuple[int, str] | None:
        """How many layers are left out where they are chosen, and by what."""
        found = CHOSEN.fullmatch(self.keep_layers) if isinstance(self.keep_layers, str) else None
        return None if found is None else (int(found[1]), found[2] or "by angle")

    def settled(self) -> "ModelConfig":
        """These settings with what is `auto` as a verb takes it that doesn't train: in float32."""
        chosen: dict[str, Any] = {"dtype": "float32", "compute_dtype": "float32", "remat": "none"}
        return dataclasses.replace(self, **{name: value for name, value in chosen.items() if getattr(self, name) == AUTO})
