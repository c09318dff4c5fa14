"""How far a run is, as its checkpoints remember it."""

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import alpaca_jax
from alpaca_jax.config import configclass, parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.train.stopping import Best

SCHEMA = 2  # 1: no number of its own, and sums that can be computed from `goodput` (alpaca_jax 0.1.0)


def _versions() -> dict[str, str]:
    return {"alpaca-jax": alpaca_jax.__version__, "jax": importlib.metadata.version("jax")}


@configclass
class Progress:
    """What has been counted since the run's first step, restarts included: the `meta` of a checkpoint's manifest."""

    tokens_real: int = 0
    skipped_steps: int = 0
    loss: float | None = None  # of the last good step
    loss_step: int | None = None  # which one that was
    heldout: dict[str, float] = dataclasses.field(default_factory=dict)  # the figures of the newest evaluation
    evaluated: int | None = None  # the step of the newest evaluation, which measured them
    best: Best | None = None  # the best evaluation, where the run looks for it
    goodput: dict[str, float] = dataclasses.field(default_factory=dict)  # seconds of wall time by kind
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)  # what a run that resumes from here must have in common
    versions: dict[str, str] = dataclasses.field(default_factory=_versions)
    config: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the verb
    schema: int = SCHEMA

    @property
    def seconds(self) -> float:
        """Wall time in total."""
        return sum(self.goodput.values())

    def to_meta(self) -> dict[str, Any]:
        """What a checkpoint's manifest holds; `seconds` is there for readers of the manifest."""
        return to_mapping(self) | {"seconds": self.seconds}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any], where: str) -> "Progress":
        """The Progress in a manifest; UserError where a newer version wrote it or a value is not what it should be."""
        if meta.get("schema", 1) > SCHEMA:
            raise UserError(
                f"{where} was written by alpaca-jax {meta['versions']['alpaca-jax']}: resume it with that version or a newer one"
            )
        names = {field.name for field in dataclasses.fields(cls)}
        return parse(cls, {name: value for name, value in meta.items() if name in names} | {"schema": SCHEMA}, where)
