"""Where arrays live: maps the logical axes of weights and activations onto the axes of a device mesh.

Three mappings make the ZeRO stages a matter of configuration: `weights` shards what is stored, `compute` what a layer multiplies (a
stored axis that compute does not name is gathered just before use), `optimizer` the moments. The defaults are fully sharded data
parallelism over `fsdp` and Megatron's tensor parallelism over `tensor`; `optimizer: {embed: [fsdp, data]}` also shards the moments
over data.

Devices may lie in several slices, with a fast network inside each and a slow one between them (slices of TPUs, nodes of GPUs). With
`slices` the sizes describe one slice, and the data axis spans the slices: only the sum of gradients crosses the slow network.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alpaca_jax.config import configclass
from alpaca_jax.errors import UserError
from alpaca_jax.ranges import Axis, OrAuto

MESH_AXES = ("data", "fsdp", "sequence", "tensor")
Rules = dict[str, tuple[str, ...]]
Kind = Literal["weights", "compute", "optimizer"]

_TENSOR: Rules = {"vocab": ("tensor",), "heads": ("tensor",), "kv_heads": ("tensor",), "mlp": ("tensor",)}
_STORED: Rules = _TENSOR | {"embed": ("fsdp",)}
_COMPUTE: Rules = _TENSOR | {"batch": ("data", "fsdp"), "sequence": ("sequence",)}


@configclass
class MeshConfig:
    """How many devices each mesh axis has (-1: the rest) and which logical axes are sharded over it."""

    data: Axis = -1
    fsdp: Annotated[Axis, OrAuto()] = 1  # auto: 1 where a run fits a device, else all that are left
    sequence: Axis = 1
    tensor: Axis = 1
    slices: Axis = 1  # the sizes above are one slice's; the data axis has `slices` times its size (-1: as many as the devices report)
    weights: Rules = dataclasses.field(default_factory=lambda: dict(_STORED))
    compute: Rules = dataclasses.field(default_factory=lambda: dict(_COMPUTE))
    optimizer: Rules = dataclasses.field(default_factory=lambda: dict(_STORED))

    def __post_init__(self) -> None:
        sizes = [getattr(self, axis) for axis in MESH_AXES]
        if sizes.count(-1) > 1:
            raise ValueError(f"only one of the axes {', '.join(MESH_AXES)} may be -1 for the rest; got {sizes}")
        for kind in ("weights", "compute", "optimizer"):
            for logical, axes in getattr(self, kind).items():
                if unknown := set(axes) - set(MESH_AXES):
                    raise ValueError(f"{kind}.{logical} names {sorted(unknown)}; the mesh axes are {', '.join(MESH_AXES)}")


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `devices` (default: every device of the job); UserError if the sizes or slices do not fit their number."""
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
            f"{asked} does not fit the {here} {slices[0][0].platform} device(s) {where}: the product of the sizes must be "
            f"{here}; set one of them to -1 to take the rest"
        )
    return tuple(sizes.values())


def arrange(config: MeshConfig, slices: Sequence[Sequence[jax.Device]]) -> np.ndarray:
    """The devices in the shape of the mesh: slice after slice along the data axis, each in the order that suits its own network."""
    sizes = _sizes(config, slices)
    # As mesh_utils.create_hybrid_device_mesh does, but that supports only slices that the devices report or one slice per process.
    return np.concatenate([mesh_utils.create_device_mesh(sizes, list(each), allow_split_physical_axes=True) for each in slices])


def split_slices(count: int, devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """The devices of each of `count` slices (-1: as many as the devices report), in the order of their ids; UserError if sizes differ.

    If the devices report no slices (`slice_index`), or only one, consecutive processes are grouped into `count` slices. -1 then means a
    slice for each process: our launchers start one on every node.
    """
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    reported: dict[int, list[jax.Device]] = {}
    processes: dict[int, list[jax.Device]] = {}
    for device in ordered:
        reported.setdefault(getattr(device, "slice_index", 0), []).append(device)
        processes.setdefault(device.process_index, []).append(device)
    if len(reported) > 1 and count in (len(reported), -1):
        return _even([reported[index] for index in sorted(reported)])
    if len(reported) > 1 and devices[0].platform == "tpu":
        raise UserError(
            f"mesh.slices={count}, but the {len(devices)} TPU devices lie in {len(reported)} slices: set mesh=slices, "
            f"or mesh.slices={len(reported)}"
        )
    if count == 1:
        return [list(devices)]
    if count == -1:
        return _even(list(processes.values())) if devices[0].platform != "tpu" else [list(devices)]
    return _cut(count, list(processes.values()))


def _even(slices: list[list[jax.Device]]) -> list[list[jax.Device]]:
    counts = [len(each) for each in slices]
    if len(set(counts)) > 1:
        raise UserError(f"mesh.slices: the slices have {counts} devices, but a mesh needs the same number in each")
    return slices


def _cut(count: int, processes: list[list[jax.Device]]) -> list[list[jax.Device]]:
    units = processes if len(processes) > 1 else [[device] for device in processes[0]]  # a single process: for trying things out
    if len(units) % count:
        name = "processes" if len(processes) > 1 else "devices of one process"
        raise UserError(f"mesh.slices={count} does not divide the {len(units)} {name} here: use a number that does, or 1")
    each = len(units) // count
    return _even([list(itertools.chain(*units[first : first + each])) for first in range(0, len(units), each)])


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and its three mappings: says how an array with given logical axes is sharded."""

    mesh: Mesh
    config: MeshConfig = dataclasses.field(hash=False)  # its rules are dicts

    @classmethod
    def of_one_device(cls) -> "Layout":
        """All on this process's first device."""
        config = MeshConfig(data=1)
        return cls(make_mesh(config, jax.local_devices()[:1]), config)

    def spec(self, axes: Sequence[str], kind: Kind, shape: Sequence[int] | None = None) -> PartitionSpec:
        """The PartitionSpec of logical `axes`; UserError if a mesh axis would be used twice or does not divide `shape`."""
        rules = getattr(self.config, kind)
        placed = [tuple(mesh_axis for mesh_axis in rules.get(axis, ()) if self.mesh.shape[mesh_axis] > 1) for axis in axes]
        used = [mesh_axis for mesh_axes in placed for mesh_axis in mesh_axes]
        if twice := {axis for axis in used if used.count(axis) > 1}:
            raise UserError(f"mesh.{kind} uses the mesh axis {sorted(twice)} on two dimensions of an array with axes {tuple(axes)}")
        for axis, mesh_axes, size in zip(axes, placed, shape or (), strict=False):
            parts = self.parts(axis, kind)
            if size % parts:
                remedy = (
                    f"set model.vocab_multiple={parts}" if axis == "vocab" else f"choose sizes for {', '.join(mesh_axes)} that divide it"
                )
                raise UserError(
                    f"the axis {axis} of size {size} cannot be split into {parts} (mesh.{kind}.{axis}={list(mesh_axes)}): {remedy}"
                )
        return PartitionSpec(*(mesh_axes or None for mesh_axes in placed))

    def parts(self, axis: str, kind: Kind) -> int:
        """How many parts an axis is cut into."""
        return math.prod(self.mesh.shape[mesh_axis] for mesh_axis in getattr(self.config, kind).get(axis, ()))

    def named(self, axes: Sequence[str], kind: Kind, shape: Sequence[int] | None = None) -> NamedSharding:
        """`spec` as a NamedSharding on this mesh."""
        return NamedSharding(self.mesh, self.spec(axes, kind, shape))

    def constrain(self, x: jax.Array, axes: Sequence[str]) -> jax.Array:
        """`x`, inside a jitted function, sharded by the compute mapping."""
        return jax.lax.with_sharding_constraint(x, self.named(axes, "compute"))

    def tree(self, specs: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
        """The NamedSharding of each leaf in a tree of weight specs (anything with `.axes` and `.shape`)."""
        return jax.tree.map(lambda spec: self.named(spec.axes, kind, spec.shape), specs, is_leaf=lambda leaf: hasattr(leaf, "axes"))

    @property
    def batch(self) -> NamedSharding:
        """The sharding of batch arrays [B, T]."""
        return self.named(("batch", "sequence"), "compute")

    def own_rows(self, rows: int) -> slice:
        """The rows of a batch that this process's devices hold, as one range."""
        places = self.batch.addressable_devices_indices_map((rows, 1)).values()
        bounds = [index[0].indices(rows)[:2] for index in places if index is not None]
        return slice(min(start for start, _ in bounds), max(stop for _, stop in bounds))

    def place(
        self, batch: Mapping[str, np.ndarray], rows: int, axes: Mapping[str, Sequence[str]] = MappingProxyType({})
    ) -> dict[str, jax.Array]:
        """The global batch of `rows` rows, given this process's `own_rows` of it in `batch`.

        `axes` are the logical axes of arrays that aren't [B, T]; the first one is always the batch.
        """
        first = self.own_rows(rows).start

        def put(name: str, own: np.ndarray) -> jax.Array:
            def piece(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                start, stop, _ = index[0].indices(rows)
                return own[start - first : stop - first, *index[1:]]

            where = self.named(axes.get(name, ("batch", "sequence")), "compute")
            return jax.make_array_from_callback((rows, *own.shape[1:]), where, piece)

        return {name: put(name, own) for name, own in batch.items()}

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of scalars: a copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())
