"""The base model of a training run with frozen weights: they are read from there, and the checkpoints don't hold them."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import storage
from alpaca_jax.config import configclass
from alpaca_jax.errors import UserError
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.pruning.kept import Kept


@configclass
class Base:
    """Which model, by its settings and by what its files hold, and which of its weights the checkpoints lack."""

    source: str
    base: str | None  # model.base, where the source is an adapter or a difference itself
    keep_layers: int | None  # the first layers, where `kept` doesn't say which
    weights: tuple[str, ...]  # dotted names
    identity: str  # sizes and times of its files: quick to compare
    fingerprint: str  # the sha256 over its files: what counts where the identity differs, as in a copy
    kept: Kept | None = None  # the parts of that model that the base consists of

    @classmethod
    def of(cls, model: ModelConfig, source: Pretrained, weights: Sequence[str]) -> "Base":
        """The Base that `source`, opened by these settings, is; reads its files for their sha256."""
        assert model.source is not None
        return cls(
            source=_lasting(model.source),
            base=None if model.base is None else _lasting(model.base),
            keep_layers=None,
            kept=source.kept,
            weights=tuple(weights),
            identity=source.identity,
            fingerprint=source.fingerprint,
        )

    def moved(self, model: ModelConfig, source: Pretrained) -> "Base":
        """The same base, which `check` has found, at the place that these settings name now."""
        assert model.source is not None
        base = None if model.base is None else _lasting(model.base)
        return dataclasses.replace(self, source=_lasting(model.source), base=base, identity=source.identity)

    def settings(self, model: ModelConfig) -> ModelConfig:
        """`model` with the settings by which this base is opened."""
        parts: dict[str, Any] = {"keep_layers": self.keep_layers, "widths": None, "calibration": None}
        return dataclasses.replace(model, source=self.source, base=self.base, architecture=None, tokenizer=None, **parts)

    def check(self, source: Pretrained, run: Path) -> None:
        """Raises a UserError where `source` holds other weights than the base that `run` was trained on."""
        if source.identity != self.identity and source.fingerprint != self.fingerprint:
            raise UserError(
                f"{run} stands on the frozen weights of {self.source}, and that is another model now (sha256 {source.fingerprint[:12]}, "
                f"then {self.fingerprint[:12]}): put the model it was trained on back"
            )


def opened(base: Base, run: Path, open_model: Callable[[], Pretrained]) -> Pretrained:
    """The base that `run` stands on; a UserError where it is gone or another model has taken its place."""
    try:
        source = open_model()
    except UserError as error:
        raise UserError(f"{run} stands on the frozen weights of {base.source}, which can't be read: {error}") from error
    base.check(source, run)
    return source


def _lasting(source: str) -> str:
    """A path on this machine as an absolute one, so that it holds wherever the run is read from; any other name as it is."""
    return source if storage.is_remote(storage.at(source)) or not os.path.exists(source) else os.path.abspath(source)
