"""Two processes that save a checkpoint together, on a disk or an object store."""

import json
import socket
import subprocess
import sys

TOGETHER = """
import json, sys
import jax
import jax.numpy as jnp
import numpy as np
jax.config.update("jax_num_cpu_devices", 1)
jax.distributed.initialize(sys.argv[2], num_processes=2, process_id=int(sys.argv[3]))
from alpaca_jax import manifest
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints

hashed, hashes = [], manifest._hashes
manifest._hashes = lambda folder, kind: hashed.append(folder.name) or hashes(folder, kind)
mesh = jax.make_mesh((2,), ("x",))
place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
made = Checkpoints(sys.argv[1], CheckpointConfig(keep=1, every_minutes=0.0))
said = []
assert made.newest(said.append) is None
for step in (1, 2, 2):
    array = jax.make_array_from_callback((4, 3), place, lambda index: np.full((4, 3), step, np.float32)[index])
    made.save(step, {"params": {"w": array}}, {"tokens_real": step})
    jax.block_until_ready(jax.jit(lambda x: x.sum())(array))  # steps go on, with collectives, while it is sealed
made.wait()
wanted = {"params": {"w": jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=place)}}
restored, meta = made.restore(made.newest(said.append), wanted)
values = [shard.data.tolist() for shard in restored["params"]["w"].addressable_shards]
due = [made.due(15), made.due(16)]
made.close()
print(json.dumps({"hashed": hashed, "said": said, "meta": meta, "values": values, "due": due}))
jax.distributed.shutdown()
"""


def together(folder):
    """The reports of the lead and the other process on three saves, of steps 1, 2 and 2 again, and a restore."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [[sys.executable, "-c", TOGETHER, str(folder), address, str(number)] for number in (0, 1)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in commands]
    texts = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    return [json.loads(out.splitlines()[-1]) for out, _ in texts]
