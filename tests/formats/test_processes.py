"""Two processes that load one model: each reads the pieces of its own devices, and the pieces are right."""

import functools
import json
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from alpaca_jax.formats import files, model, pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.names import weights
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import flatten, unflatten
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.tokenizer import Tokenizer

# Large enough that the norms, which a mesh may leave whole, are next to nothing.
LARGE = Architecture(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_layers=4,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
)
MESHES = {"fsdp": {"data": 1, "fsdp": 8}, "tensor x fsdp": {"data": 1, "fsdp": 4, "tensor": 2}}
SCRIPT = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize("127.0.0.1:" + sys.argv[1], 2, int(sys.argv[2]))
import numpy as np
from alpaca_jax.formats import files, pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.tree import flatten
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh

read_at, read = files.read_at, 0

def counted(descriptor, view, offset):
    global read
    count = read_at(descriptor, view, offset)
    read += count
    return count

files.read_at = counted
opened = pretrained.open(sys.argv[3])
expected = dict(np.load(sys.argv[4]))
results = {}
for name, sizes in json.loads(sys.argv[5]).items():
    config = MeshConfig(**sizes)
    places = flatten(Layout(make_mesh(config), config).tree(llama.specs(opened.architecture), "weights"))
    read = 0
    params = flatten(pretrained.load_params(opened, place=lambda path: places[path]))
    wrong = [".".join(path) for path, array in params.items() if not array.sharding.is_equivalent_to(places[path], array.ndim)]
    for path, array in params.items():
        whole = expected[".".join(path)]
        assert array.shape == whole.shape
        assert len(array.addressable_shards) == 4
        wrong += [f"{'.'.join(path)} {shard.index}" for shard in array.addressable_shards
                  if not np.array_equal(shard.data, whole[shard.index])]
    results[name] = {"read": read, "weights": sorted(map(".".join, params)), "wrong": wrong}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def sharded(tiny_tokenizer, tmp_path_factory):
    """A folder of some shards with random weights, and the file that has them as arrays of ours by their dotted paths."""
    folder = tmp_path_factory.mktemp("sharded")
    random = np.random.default_rng(0)
    params = {path: random.standard_normal(weight.shape, np.float32) for path, weight in weights(LARGE).items()}
    made = model.in_memory(LARGE, Tokenizer.load(tiny_tokenizer), unflatten(params))
    size = sum(weight.nbytes for weight in params.values())
    huggingface_export.export(folder / "hf", made, shard_bytes=size // 8)
    assert len(list((folder / "hf").glob("*.safetensors"))) >= 8
    np.savez(folder / "params.npz", **{".".join(path): weight for path, weight in params.items()})
    return folder, size


@pytest.fixture(scope="module")
def found(sharded):
    """What each of two processes with four devices found on every mesh."""
    folder, _ = sharded
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(folder / "hf"), str(folder / "params.npz"), json.dumps(MESHES)]
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SCRIPT, str(port), str(rank), *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = []
    try:
        for process in started:
            output, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
            results.append(json.loads(output.splitlines()[-1]))
    finally:
        for process in started:
            process.kill()
    return results


@pytest.mark.parametrize("mesh", MESHES)
def test_each_process_reads_half_and_every_piece_is_right(mesh, sharded, found):
    _, size = sharded
    names = sorted(".".join(path) for path in weights(LARGE))
    for rank in found:
        assert rank[mesh]["weights"] == names
        assert rank[mesh]["wrong"] == []
        assert rank[mesh]["read"] <= 0.6 * size
    assert sum(rank[mesh]["read"] for rank in found) >= size  # all of it was counted


@pytest.mark.parametrize("mesh", MESHES)
def test_one_process_reads_each_byte_once_however_many_devices_share_it(mesh, sharded, monkeypatch):
    folder, size = sharded
    opened = pretrained.open(folder / "hf")
    config = MeshConfig(**MESHES[mesh])
    places = flatten(Layout(make_mesh(config, jax.devices()[:8]), config).tree(llama.specs(LARGE), "weights"))
    counts = []
    monkeypatch.setattr(files, "read_at", functools.partial(_counted, files.read_at, counts))
    pretrained.load_params(opened, place=lambda path: places[path])
    assert sum(counts) == size


def _counted(read_at, counts, descriptor, view, offset):
    counts.append(read_at(descriptor, view, offset))
    return counts[-1]
