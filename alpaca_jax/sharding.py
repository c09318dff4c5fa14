"""Where arrays live: logical axes of weights and activations mapped onto the axes of a device mesh.

Three mappings, so that ZeRO stages are configurations: `weights` places what is stored, `compute` what a layer multiplies with (a stored
axis that compute does not name is gathered just before use), `optimizer` the moments. The defaults are fully sharded data parallelism
over `fsdp` and Megatron's tensor parallelism over `tensor`; `optimizer: {embed: [fsdp, data]}` shards the moments over data as well.

Devices may lie in several slices with a fast network inside each and a slow one between them (slices of TPUs, nodes of GPUs). With
`slices` the sizes describe one slice, and the data axis goes on over the slices: all that crosses the slow network is the sum of gradients.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alpaca_jax.config import configclass
from alpaca_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
Rules = dict[str, tuple[str, ...]]
Kind = Literal["weights", "compute", "optimizer"]

_TENSOR: Rules = {"vocab": ("tensor",), "heads": ("tensor",), "kv_heads": ("tensor",), "mlp": ("tensor",)}
_STORED: Rules = _TENSOR | {"embed": ("fsdp",)}
_COMPUTE: Rules = _TENSOR | {"batch": ("data", "fsdp"), "sequence": ("sequence",)}


@configclass
class MeshConfig:
    """How many devices each mesh axis has (-1: the rest) and which logical axes lie on it."""

    data: int = -1
    fsdp: int = 1
    sequence: int = 1
    tensor: int = 1
    slices: int = 1  # the sizes above are one slice's; the data axis has `slices` times its size (-1: as many as the devices tell)
    weights: Rules = dataclasses.field(default_factory=lambda: dict(_STORED))
    compute: Rules = dataclasses.field(default_factory=lambda: dict(_COMPUTE))
    optimizer: Rules = dataclasses.field(default_factory=lambda: dict(_STORED))

    def __post_init__(self) -> None:
        sizes = [getattr(self, axis) for axis in MESH_AXES]
        if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
            raise ValueError(
                f"the axes {', '.join(MESH_AXES)} take sizes of 1 or more, and one of them may be -1 for the rest; got {sizes}"
            )
        if self.slices < 1 and self.slices != -1:
            raise ValueError(f"slices takes 1 or more, or -1 for as many as the devices tell; got {self.slices}")
        for kind in ("weights", "compute", "optimizer"):
            for logical, axes in getattr(self, kind).items():
                if unknown := set(axes) - set(MESH_AXES):
                    raise ValueError(f"{kind}.{logical} names {sorted(unknown)}; the mesh axes are {', '.join(MESH_AXES)}")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of all devices (default: every device of the job); UserError where sizes or slices do not fit their number."""
    devices = jax.devices() if devices is None else list(devices)
    slices = split_slices(config.slices, devices)
    axis_types = (AxisType.Auto,) * len(MESH_AXES)
    if len(slices) == 1:
        return jax.make_mesh(_sizes(config, slices), MESH_AXES, devices=devices, axis_types=axis_types)
    return Mesh(arrange(config, slices), MESH_AXES, axis_types=axis_types)


def _sizes(config: MeshConfig, slices: Sequence[Sequence[jax.Device]]) -> tuple[int, ...]:
    """The size of each axis inside one slice."""
    sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
    here = len(slices[0])
    fixed = math.prod(size for size in sizes.values() if size != -1)
    sizes = {axis: here // fixed if size == -1 else size for axis, size in sizes.items()}
    if math.prod(sizes.values()) != here:
        asked = ", ".join(f"mesh.{axis}={getattr(config, axis)}" for axis in MESH_AXES)
        where = "here" if len(slices) == 1 else f"of each of the {len(slices)} slices"
        raise UserError(
            f"{asked} does not fit the {here} {slices[0][0].platform} device(s) {where}: the sizes must multiply to "
            f"{here}; set one of them to -1 to take the rest"
        )
    return tuple(sizes.values())


def arrange(config: MeshConfig, slices: Sequence[Sequence[jax.Device]]) -> np.ndarray:
    """The devices in the mesh's shape: slice after slice along the data axis, each in the order that suits its own network."""
    sizes = _sizes(config, slices)
    # What mesh_utils.create_hybrid_device_mesh does, which takes its slices from the devices or makes one of each process, and no others.
    return np.concatenate([mesh_utils.create_device_mesh(sizes, list(each), allow_split_physical_axes=True) for each in slices])


def split_slices(count: int, devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """The devices of each of `count` slices (-1: as many as the devices tell), in the order of their numbers; UserError where they differ.

    Where the devices tell of no slices (`slice_index`), or of one, `count` of them are made of consecutive processes. -1 then means a
    slice for each process: our launchers start one on every node.
    """
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    told: dict[int, list[jax.Device]] = {}
    processes: dict[int, list[jax.Device]] = {}
    for device in ordered:
        told.setdefault(getattr(device, "slice_index", 0), []).append(device)
        processes.setdefault(device.process_index, []).append(device)
    if len(told) > 1 and count in (len(told), -1):
        return _even([told[index] for index in sorted(told)])
    if len(told) > 1 and devices[0].platform == "tpu":
        raise UserError(
            f"mesh.slices={count}, but the {len(devices)} TPU devices lie in {len(told)} slices: set mesh=slices, "
            f"or mesh.slices={len(told)}"
        )
    if count == 1:
        return [list(devices)]
    if count == -1:
        return _even(list(processes.values())) if devices[0].platform != "tpu" else [list(devices)]
    return _cut(count, list(processes.values()))


def _even(slices: list[list[jax.Device]]) -> list[list[jax.Device]]:
    counts = [len(each) for each in slices]
    if len(set(counts)) > 1:
        raise UserError(f"mesh.slices: the slices have {counts} devices, and a mesh needs the same number in each")
    return slices


def _cut(count: int, processes: list[list[jax.Device]]) -> list[list[jax.Device]]:
    units = processes if len(processes) > 1 else [[device] for device in processes[0]]  # one process: to try things out
    if len(units) % count:
        name = "processes" if len(processes) > 1 else "devices of one process"
        raise UserError(f"mesh.slices={count} does not divide the {len(units)} {name} here: give a number that does, or 1")
    each = len(units) // count
    return _even([list(itertools.chain(*units[first : first + each])) for first in range(0, len(units), each)])


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and its three mappings: answers where an array with these logical axes lives."""

    mesh: Mesh
    config: MeshConfig = dataclasses.field(hash=False)  # its rules are dicts

    @classmethod
    def of_one_device(cls) -> "Layout":
        """All on this process's first device."""
        config = MeshConfig(data=1)
        return cls(make_mesh(config, jax.local_devices()[:1]), config)

    def spec(self, axes: Sequence[str], kind: Kind, shape: Sequence[int] | None = None) -> PartitionSpec:
        """The PartitionSpec of logical `axes`; UserError where a mesh axis would be used twice or does not divide `shape`."""
        rules = getattr(self.config, kind)
        placed = [tuple(mesh_axis for mesh_axis in rules.get(axis, ()) if self.mesh.shape[mesh_axis] > 1) for axis in axes]
        used = [mesh_axis for mesh_axes in placed for mesh_axis in mesh_axes]
        if twice := {axis for axis in used if used.count(axis) > 1}:
            raise UserError(f"mesh.{kind} puts the mesh axis {sorted(twice)} on two dimensions of one array with axes {tuple(axes)}")
        for axis, mesh_axes, size in zip(axes, placed, shape or (), strict=False):
            parts = self.parts(axis, kind)
            if size % parts:
                remedy = (
                    f"set model.vocab_multiple={parts}" if axis == "vocab" else f"choose sizes for {', '.join(mesh_axes)} that divide it"
                )
                raise UserError(f"the axis {axis} of {size} cannot be split in {parts} (mesh.{kind}.{axis}={list(mesh_axes)}): {remedy}")
        return PartitionSpec(*(mesh_axes or None for mesh_axes in placed))

    def parts(self, axis: str, kind: Kind) -> int:
        """How many parts an axis is cut into."""
        return math.prod(self.mesh.shape[mesh_axis] for mesh_axis in getattr(self.config, kind).get(axis, ()))

    def named(self, axes: Sequence[str], kind: Kind, shape: Sequence[int] | None = None) -> NamedSharding:
        """`spec` as a NamedSharding on this mesh."""
        return NamedSharding(self.mesh, self.spec(axes, kind, shape))

    def constrain(self, x: jax.Array, axes: Sequence[str]) -> jax.Array:
        """`x`, inside a jitted function, placed as the compute mapping says."""
        return jax.lax.with_sharding_constraint(x, self.named(axes, "compute"))

    def tree(self, specs: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
        """The NamedSharding of every leaf of a tree of weight specs (anything with `.axes` and `.shape`)."""
        return jax.tree.map(lambda spec: self.named(spec.axes, kind, spec.shape), specs, is_leaf=lambda leaf: hasattr(leaf, "axes"))

    @property
    def batch(self) -> NamedSharding:
        """Where batch arrays [B, T] lie."""
        return self.named(("batch", "sequence"), "compute")

    def own_rows(self, rows: int) -> slice:
        """Which of a batch's rows this process's devices hold, in one piece."""
        places = self.batch.addressable_devices_indices_map((rows, 1)).values()
        bounds = [index[0].indices(rows)[:2] for index in places if index is not None]
        return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))

    def place(self, batch: Mapping[str, np.ndarray], rows: int) -> dict[str, jax.Array]:
        """The global batch of `rows` rows, of which `batch` holds those that `own_rows` names."""
        first = self.own_rows(rows).start

        def put(own: np.ndarray) -> jax.Array:
            def piece(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                start, stop, _ = index[0].indices(rows)
                return own[start - first : stop - first, index[1]]

            return jax.make_array_from_callback((rows, own.shape[1]), self.batch, piece)

        return {name: put(own) for name, own in batch.items()}

    @property
    def replicated(self) -> NamedSharding:
        """Where scalars lie: on every device."""
        return NamedSharding(self.mesh, PartitionSpec())
