"""What `auto` becomes: the precision, the recomputation, the mesh and the lengths that fit the model and the devices that are there.

Of what fits, the first in this order is taken: long examples before short ones, all on every device before weights that are sharded,
little recomputation before much. On CPUs a model stays in float32, with 512 tokens. The frozen base of an adapter is stored in what is
computed with, since nothing small is ever added to it.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from alpaca_jax.data.config import BatchConfig, DataConfig
from alpaca_jax.footprint.estimate import Footprint, Load, estimate, rows_a_device
from alpaca_jax.formats.adapter import targets
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.ranges import AUTO
from alpaca_jax.sharding import MeshConfig
from alpaca_jax.trainer.optimizer import OptimizerConfig

LONGEST, SHORTEST = 2048, 512  # tokens of an example on an accelerator; 512 on a CPU
REMATS = ("none", "minimal", "attention", "full")
SHARE = 0.9  # of a device's memory that is planned with


@dataclasses.dataclass(frozen=True)
class Machine:
    """The devices of a run: how many, what they compute with, and the bytes of memory of each (None: unknown)."""

    devices: int
    precision: str  # float32 | bfloat16
    memory: float | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """The groups of a train config that hold what may be `auto`."""

    model: ModelConfig
    data: DataConfig
    batch: BatchConfig
    mesh: MeshConfig
    optimizer: OptimizerConfig
    microbatches: int = 1
    adapter: AdapterConfig | None = None

    @property
    def open(self) -> dict[str, Any]:
        """Where `auto` stands, by dotted key."""
        values = {
            "model.dtype": self.model.dtype,
            "model.compute_dtype": self.model.compute_dtype,
            "model.remat": self.model.remat,
            "data.max_length": self.data.max_length,
            "batch.sequence_length": self.batch.sequence_length,
            "mesh.fsdp": self.mesh.fsdp,
        }
        return {key: value for key, value in values.items() if value == AUTO}

    def having(self, values: Mapping[str, Any]) -> "Settings":
        """These settings with other values, by dotted key."""
        groups: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = value
        return dataclasses.replace(self, **{group: dataclasses.replace(getattr(self, group), **each) for group, each in groups.items()})


def remembered(settings: Settings, before: Mapping[str, Any]) -> Settings:
    """`settings` with what an earlier start of the same run chose; its mesh is free to change, and is chosen again."""
    known = {}
    for key in settings.open:
        group, _, name = key.partition(".")
        value = (before.get(group) or {}).get(name)
        if group != "mesh" and value not in (None, AUTO):
            known[key] = value
    return settings.having(known)


def choose(settings: Settings, architecture: Architecture, machine: Machine) -> Settings:
    """`settings` without any `auto`: the first that fits, or else what needs least."""
    if not settings.open:
        return settings
    candidates = [settings.having(values) for values in _candidates(settings, architecture, machine)]
    if machine.memory is None:
        return candidates[0]
    fitting = (each for each in candidates if footprint(each, architecture, machine).total <= SHARE * machine.memory)
    return next(fitting, candidates[-1])


def footprint(settings: Settings, architecture: Architecture, machine: Machine, rows: int | None = None) -> Footprint:
    """The bytes of a device under settings without `auto`; `rows` of a step, once they are known."""
    mesh, batch, optimizer = settings.mesh, settings.batch, settings.optimizer
    fixed = math.prod(size for size in (mesh.data, mesh.fsdp, mesh.sequence, mesh.tensor) if size > 0)
    rest = max(1, machine.devices // fixed)
    data, fsdp = (rest if size == -1 else size for size in (mesh.data, mesh.fsdp))
    rows = batch.rows if rows is None else rows
    parts = data * fsdp * settings.microbatches
    return estimate(
        Load(
            architecture=architecture,
            dtype=settings.model.dtype,
            compute_dtype=settings.model.compute_dtype,
            remat=settings.model.remat,
            rows=rows_a_device(batch.examples, batch.tokens, rows, batch.sequence_length, batch.packing == "packed", parts),
            length=max(1, batch.sequence_length // mesh.sequence),
            shards=max(1, fsdp) * max(1, mesh.tensor) if mesh.weights.get("embed") == ("fsdp",) else 1,
            optimizer=optimizer.name,
            moments=optimizer.moments,
            momentum=optimizer.momentum is not None,
            ema=optimizer.ema is not None,
            adapter=None if settings.adapter is None else targets.plan(settings.adapter, architecture),
            nf4=None if settings.adapter is None else settings.adapter.nf4,
        )
    )


def lengths(data: DataConfig, batch: BatchConfig, precision: str, most: int | None) -> list[tuple[int, int]]:
    """(data.max_length, batch.sequence_length) to choose from where one of them is open, the longest first; a model takes `most` tokens."""
    most = most or LONGEST
    if data.max_length != AUTO:
        return [(data.max_length, data.max_length if batch.sequence_length == AUTO else batch.sequence_length)]
    longest = LONGEST if precision == "bfloat16" else SHORTEST
    if batch.sequence_length != AUTO:  # a row holds the longest example
        return [(min(batch.sequence_length, longest, most), batch.sequence_length)]
    each = {min(longest >> halved, most) for halved in range(longest.bit_length()) if longest >> halved >= SHORTEST}
    return [(length, length) for length in sorted(each, reverse=True)]


def _candidates(settings: Settings, architecture: Architecture, machine: Machine) -> Iterator[dict[str, Any]]:
    """All values for what is open, the best first."""
    both = lengths(settings.data, settings.batch, machine.precision, architecture.max_positions)
    for (length, row), mesh, remat in itertools.product(both, _meshes(settings, architecture, machine), REMATS):
        values = {
            "model.dtype": "float32" if settings.adapter is None else machine.precision,
            "model.compute_dtype": machine.precision,
            "model.remat": remat,
            "data.max_length": length,
            "batch.sequence_length": row,
        }
        yield {key: value for key, value in values.items() if key in settings.open} | mesh


def _meshes(settings: Settings, architecture: Architecture, machine: Machine) -> list[dict[str, Any]]:
    if "mesh.fsdp" not in settings.open:
        return [{}]
    mesh, together = settings.mesh, {"mesh.fsdp": 1}
    others = mesh.sequence * mesh.tensor * max(1, mesh.data) * max(1, mesh.slices)
    rest = machine.devices // max(1, others)
    if rest < 2 or mesh.sequence < 1 or mesh.tensor < 1 or architecture.hidden_size % rest:
        return [together]
    return [together, {"mesh.fsdp": -1} | ({"mesh.data": 1} if mesh.data == -1 else {})]
