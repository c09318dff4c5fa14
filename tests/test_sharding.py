"""Meshes over slices: which device lies where, what does not fit, and the same numbers as without slices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from alpaca_jax import config
from alpaca_jax.errors import UserError
from alpaca_jax.sharding import Layout, MeshConfig, arrange, make_mesh, split_slices

SLICES = MeshConfig(data=1, fsdp=-1, slices=-1)
# Along fsdp, a slice's 16 chips are a ring of neighbours in their 4 x 4 torus.
ORDER = """\
2 slices of 16 TPU v5e, mesh=slices: 2 x 16 x 1 x 1
  data 0: [0, 1, 2, 3, 7, 6, 5, 9, 10, 11, 15, 14, 13, 12, 8, 4]
  data 1: [16, 17, 18, 19, 23, 22, 21, 25, 26, 27, 31, 30, 29, 28, 24, 20]
2 slices of 16 TPU v5e, fsdp=4 tensor=4: 2 x 4 x 1 x 4
  data 0: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
  data 1: [16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]
4 nodes of 8 GPUs, mesh=slices: 4 x 8 x 1 x 1
  data 0: [0, 1, 2, 3, 4, 5, 6, 7]
  data 1: [8, 9, 10, 11, 12, 13, 14, 15]
  data 2: [16, 17, 18, 19, 20, 21, 22, 23]
  data 3: [24, 25, 26, 27, 28, 29, 30, 31]
8 processes of 1 GPU on 2 nodes, slices=2: 2 x 4 x 1 x 1
  data 0: [0, 1, 2, 3]
  data 1: [4, 5, 6, 7]
"""


@dataclasses.dataclass(frozen=True)
class Device:
    """A device as a mesh sees it."""

    id: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


@dataclasses.dataclass(frozen=True)
class Sliced(Device):
    slice_index: int = 0
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def gpus(processes, each):
    return [Device(process * each + local, process) for process in range(processes) for local in range(each)]


def tpus(slices, side=4, hosts=4):
    """Slices of side x side chips, each host holding 2 x 2 of them, in no particular order."""
    found = []
    for index in range(slices):
        for number in range(side * side):
            x, y = number % side, number // side
            host = index * hosts + (y // 2) * (side // 2) + x // 2
            found.append(Sliced(index * side * side + number, host, "tpu", "TPU v5 lite", index, (x, y, 0)))
    return found[::-1]


def ids(settings, devices):
    return np.vectorize(lambda device: device.id)(arrange(settings, split_slices(settings.slices, devices)))


def test_the_data_axis_runs_over_slices_and_all_else_stays_inside():
    devices = tpus(2)
    grid = arrange(MeshConfig(data=2, fsdp=4, tensor=2), split_slices(2, devices))
    assert grid.shape == (4, 4, 1, 2)
    assert [{device.slice_index for device in row.flat} for row in grid] == [{0}, {0}, {1}, {1}]
    assert {device.id for device in grid.flat} == set(range(32))


def test_the_order_of_devices_is_as_recorded():
    cases = {
        "2 slices of 16 TPU v5e, mesh=slices": ids(SLICES, tpus(2)),
        "2 slices of 16 TPU v5e, fsdp=4 tensor=4": ids(MeshConfig(fsdp=4, tensor=4, slices=2), tpus(2)),
        "4 nodes of 8 GPUs, mesh=slices": ids(SLICES, gpus(4, 8)),
        "8 processes of 1 GPU on 2 nodes, slices=2": ids(MeshConfig(data=1, fsdp=-1, slices=2), gpus(8, 1)),
    }
    lines = []
    for name, grid in cases.items():
        lines += [f"{name}: {' x '.join(map(str, grid.shape))}", *(f"  data {at}: {row.flatten().tolist()}" for at, row in enumerate(grid))]
    assert "\n".join(lines) + "\n" == ORDER


def test_without_reported_slices_each_process_is_one():
    assert [len(each) for each in split_slices(-1, gpus(4, 8))] == [8] * 4
    assert [len(each) for each in split_slices(2, gpus(8, 1))] == [4, 4]
    assert [[device.process_index for device in each] for each in split_slices(2, gpus(4, 1)[::-1])] == [[0, 1], [2, 3]]
    assert len(split_slices(-1, tpus(1))) == 1  # a pod of one slice has several hosts and one network


@pytest.mark.parametrize(
    ("settings", "devices", "message"),
    [
        (MeshConfig(), tpus(2), "mesh.slices=1, but the 32 TPU devices lie in 2 slices: set mesh=slices"),
        (MeshConfig(slices=4), tpus(2), "mesh.slices=4, but"),
        (MeshConfig(slices=3), gpus(4, 8), "mesh.slices=3 does not divide the 4 processes"),
        (MeshConfig(slices=3), gpus(1, 8), "mesh.slices=3 does not divide the 8 devices of one process"),
        (SLICES, gpus(2, 4)[:-1], r"slices have \[4, 3\] devices"),
        (MeshConfig(fsdp=3, slices=2), gpus(2, 8), "mesh.fsdp=3.* does not fit the 8 gpu .* of each of the 2 slices"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_said(settings, devices, message):
    with pytest.raises(UserError, match=message):
        make_mesh(settings, devices)


def test_slices_below_one_are_refused():
    with pytest.raises(ValueError, match="slices=0: give 1 or more, or -1"):
        MeshConfig(slices=0)


def test_mesh_slices_is_a_choice_of_the_command_line():
    mesh = config.directory() / "mesh" / "slices.yaml"
    assert config.parse(MeshConfig, yaml.safe_load(mesh.read_text())) == SLICES


def loss_and_gradients(settings):
    layout = Layout(make_mesh(settings, jax.devices()[:8]), settings)
    weights = jax.random.normal(jax.random.key(0), (16, 8))
    x = jax.random.normal(jax.random.key(1), (16, 16))

    @jax.jit
    def value(weights, x):
        x = layout.constrain(x, ("batch", None))
        return jnp.mean(jnp.square(jnp.tanh(x @ layout.constrain(weights, (None, None)))))

    weights = jax.device_put(weights, layout.named(("embed", "mlp"), "weights", weights.shape))
    loss, gradient = jax.value_and_grad(value)(weights, jax.device_put(x, layout.named(("batch", None), "compute")))
    return loss, gradient


@pytest.mark.parametrize(
    "settings", [MeshConfig(data=1, fsdp=-1, slices=2), MeshConfig(fsdp=2, tensor=2, slices=2)], ids=["fsdp", "tensor"]
)
def test_the_loss_over_slices_is_that_of_the_plain_mesh(settings):
    plain = loss_and_gradients(MeshConfig())
    sliced = loss_and_gradients(settings)
    for one, other in zip(plain, sliced, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
