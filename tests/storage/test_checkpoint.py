"""Checkpoints on an object store: they count once their manifest is there, and are checked without being read."""

import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from savers import together

from alpaca_jax import checkpoint, storage
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints
from alpaca_jax.errors import UserError


def items(value=1.0):
    return {"params": {"a": {"b": jnp.full((4, 3), value)}}, "optimizer": {"step": jnp.int32(value)}}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture
def checkpoints(gs):
    made = Checkpoints(f"{gs}/checkpoints", CheckpointConfig(keep=2))
    yield made
    made.close()


def test_a_saved_state_comes_back_and_old_ones_go(checkpoints):
    assert checkpoint.steps(checkpoints.folder) == [] and checkpoints.newest(pytest.fail) is None
    for step in (1, 2, 3):
        checkpoints.save(step, items(step), {"tokens_real": step * 10})
    checkpoints.wait()
    assert checkpoint.steps(checkpoints.folder) == [2, 3]
    assert {name.split("/")[0] for name in storage.objects(checkpoints.folder)} == {"2", "3"}
    assert checkpoints.newest(pytest.fail) == 3
    restored, meta = checkpoints.restore(3, abstract(items()))
    assert meta == {"tokens_real": 30}
    np.testing.assert_array_equal(restored["params"]["a"]["b"], np.full((4, 3), 3.0))
    assert checkpoint.restore_params(str(checkpoints.folder))["a"]["b"].tolist() == np.full((4, 3), 3.0).tolist()


def test_a_change_in_any_object_is_named_without_reading_it(checkpoints, monkeypatch):
    checkpoints.save(1, items(), {})
    checkpoints.wait()
    whole = checkpoints.folder / "1"
    names = [name for name, found in storage.objects(whole).items() if found.size and name != checkpoint.MANIFEST]
    assert len(names) > 5 and checkpoint.check(whole) is None
    for name in names:
        before = (whole / name).read_bytes()
        (whole / name).write_bytes(bytes([before[0] ^ 1]) + before[1:])
        assert checkpoint.check(whole) == f"{name} has changed"
        (whole / name).write_bytes(before)
    (whole / names[0]).unlink()
    assert checkpoint.check(whole) == f"{names[0]} is missing"


def test_what_is_damaged_is_set_aside_and_may_be_saved_again(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, items(step), {})
    checkpoints.wait()
    (checkpoints.folder / "2" / "extra").write_bytes(b"x")
    with pytest.raises(UserError, match="extra was not saved with it"):
        checkpoint.restore_params(checkpoints.folder, 2)
    said = []
    assert checkpoints.newest(said.append) == 1
    assert "checkpoint 2 is damaged" in said[0] and (checkpoints.folder / "2" / "extra").exists()
    assert checkpoint.steps(checkpoints.folder) == [1] and checkpoints.newest(pytest.fail) == 1
    checkpoints.save(2, items(2), {})
    assert checkpoints.newest(pytest.fail) == 2


def test_a_copy_on_a_disk_is_checked_as_well(checkpoints, tmp_path):
    checkpoints.save(1, items(2.0), {})
    checkpoints.wait()
    copy = tmp_path / "checkpoints" / "1"
    storage.fetch(checkpoints.folder / "1", copy)
    assert checkpoint.restore_params(tmp_path / "checkpoints")["a"]["b"][0, 0] == 2.0
    victim = max(copy.rglob("d/*"), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[::-1])
    assert "has changed" in checkpoint.check(copy)


def test_what_was_saved_on_a_disk_is_read_from_a_store(gs, tmp_path):
    with_disk = Checkpoints(tmp_path / "checkpoints", CheckpointConfig())
    with_disk.save(1, items(5.0), {})
    with_disk.close()
    storage.send(tmp_path / "checkpoints" / "1", storage.at(f"{gs}/checkpoints/1"), last=checkpoint.MANIFEST)
    assert checkpoint.restore_params(f"{gs}/checkpoints")["a"]["b"][0, 0] == 5.0


def test_deleting_begins_with_the_manifest(checkpoints, monkeypatch):
    for step in (1, 2):
        checkpoints.save(step, items(step), {})
    checkpoints.wait()

    def killed(folder):
        raise OSError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove", lambda folder: None if folder.name == "3" else killed(folder))
        checkpoints.save(3, items(3), {})
        with pytest.raises(OSError, match="killed here"):
            checkpoints.wait()
    assert (checkpoints.folder / "1").is_dir() and checkpoint.steps(checkpoints.folder) == [2, 3]
    assert checkpoints.newest(pytest.fail) == 3
    assert not (checkpoints.folder / "1").exists()


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from alpaca_jax import manifest
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints

made = Checkpoints(sys.argv[1], CheckpointConfig())
items = {"params": {f"w{n}": jnp.full((1 << 18,), float(n)) for n in range(8)}}
made.save(1, items, {})
made.wait()
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "sealing":
    manifest._hashes = kill
made.save(2, items, {})
if sys.argv[2] == "writing":
    kill()
made.wait()
"""


@pytest.mark.parametrize("moment", ["writing", "sealing"])
def test_a_save_killed_in_its_middle_leaves_the_one_before(gs, moment):
    result = subprocess.run([sys.executable, "-c", KILLED, gs, moment], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    left = {name.split("/")[0] for name in storage.objects(storage.at(gs))}
    assert Checkpoints(gs, CheckpointConfig()).newest(pytest.fail) == 1
    assert left == {"1", "2"} or moment == "writing"
    assert {name.split("/")[0] for name in storage.objects(storage.at(gs))} == {"1"}
    assert checkpoint.restore_params(gs)["w7"][-1] == 7.0


def test_two_processes_save_together_and_one_seals(gs):
    lead, other = together(gs)
    assert lead["hashed"] == ["1", "2", "2"] and other["hashed"] == []
    assert lead["meta"] == other["meta"] == {"tokens_real": 2} and lead["values"] == other["values"] == [[[2.0] * 3] * 2]
    assert lead["said"] == other["said"] == [] and checkpoint.steps(storage.at(gs)) == [2]
