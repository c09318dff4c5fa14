"""Checkpoints: whole or absent, checked before they are used, readable on another mesh."""

import errno

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alpaca_jax import checkpoint
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints
from alpaca_jax.errors import UserError


def items(value=1.0):
    return {"params": {"a": {"b": jnp.full((4, 3), value)}}, "optimizer": {"step": jnp.int32(value)}}


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints", CheckpointConfig(keep=2, every_steps=5))
    yield made
    made.close()


def test_a_saved_state_comes_back_and_old_ones_go(checkpoints):
    for step in (1, 2, 3):
        checkpoints.save(step, items(step), {"tokens_real": step * 10})
    checkpoints.wait()
    assert checkpoint.steps(checkpoints.folder) == [2, 3]
    assert checkpoints.newest(pytest.fail) == 3
    restored, meta = checkpoints.restore(3, abstract(items()))
    assert meta == {"tokens_real": 30}
    np.testing.assert_array_equal(restored["params"]["a"]["b"], np.full((4, 3), 3.0))
    assert int(restored["optimizer"]["step"]) == 3


def test_params_can_be_read_alone_as_numpy(checkpoints):
    checkpoints.save(7, items(2.0), {})
    checkpoints.wait()
    params = checkpoint.restore_params(checkpoints.folder)
    assert isinstance(params["a"]["b"], np.ndarray)
    assert params["a"]["b"].tolist() == np.full((4, 3), 2.0).tolist()
    with pytest.raises(UserError, match=r"no checkpoint of step 8; its steps are \[7\]"):
        checkpoint.restore_params(checkpoints.folder, 8)


def test_restored_onto_a_mesh(checkpoints):
    checkpoints.save(1, items(), {})
    checkpoints.wait()
    mesh = jax.make_mesh((2,), ("x",), devices=jax.devices()[:2])
    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    wanted = {"params": {"a": {"b": jax.ShapeDtypeStruct((4, 3), jnp.float32, sharding=place)}}}
    restored, _ = checkpoints.restore(1, wanted)
    assert restored["params"]["a"]["b"].addressable_shards[0].data.shape == (2, 3)


def test_one_flipped_byte_is_found_and_the_one_before_is_used(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, items(step), {})
    checkpoints.wait()
    victim = max((checkpoints.folder / "2").rglob("d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(UserError, match="has changed"):
        checkpoint.restore_params(checkpoints.folder, 2)
    said = []
    assert checkpoints.newest(said.append) == 1
    assert "checkpoint 2 is damaged" in said[0] and (checkpoints.folder / "2.damaged").is_dir()


def test_what_a_kill_left_of_a_save_is_removed(checkpoints):
    checkpoints.save(1, items(), {})
    checkpoints.wait()
    (checkpoints.folder / ".2.partial" / "params").mkdir(parents=True)
    assert checkpoints.newest(pytest.fail) == 1
    assert not (checkpoints.folder / ".2.partial").exists()


def test_a_full_disk_is_said_and_leaves_the_old_checkpoint(checkpoints, monkeypatch):
    checkpoints.save(1, items(), {})
    checkpoints.wait()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_hashes", full)
    checkpoints.save(2, items(), {})
    with pytest.raises(UserError, match="the disk is full"):
        checkpoints.wait()
    monkeypatch.undo()
    assert checkpoints.newest(pytest.fail) == 1


def test_due_by_steps_and_by_time(tmp_path):
    never = Checkpoints(tmp_path, CheckpointConfig(every_steps=None, every_minutes=None))
    always = Checkpoints(tmp_path, CheckpointConfig(every_minutes=0.0))
    fives = Checkpoints(tmp_path, CheckpointConfig(every_steps=5, every_minutes=None))
    assert [never.due(5), always.due(4), fives.due(4), fives.due(5)] == [False, True, False, True]


def test_an_empty_folder_has_no_checkpoint(checkpoints, tmp_path):
    assert checkpoints.newest(pytest.fail) is None
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.restore_params(tmp_path / "nowhere")
