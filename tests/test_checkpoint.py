"""Checkpoints: whole or absent, checked before they are used, readable on another mesh."""

import errno
import signal
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from savers import together

from alpaca_jax import checkpoint, manifest
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints
from alpaca_jax.errors import UserError
from alpaca_jax.model.llama import WeightSpec
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.guard import GuardConfig
from alpaca_jax.trainer.optimizer import OptimizerConfig


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


def test_one_that_is_being_read_stays_until_it_is_released(checkpoints):
    checkpoints.save(1, items(1), {})
    checkpoints.wait()
    assert not checkpoints.hold(9)
    assert checkpoints.hold(1)
    for step in (2, 3, 4):
        checkpoints.save(step, items(step), {})
    checkpoints.wait()
    assert checkpoint.steps(checkpoints.folder) == [1, 3, 4]
    checkpoints.release(1)
    assert checkpoint.steps(checkpoints.folder) == [3, 4]


def test_params_can_be_read_alone_as_numpy(checkpoints):
    checkpoints.save(7, items(2.0), {})
    checkpoints.wait()
    params = checkpoint.restore_params(checkpoints.folder)
    assert isinstance(params["a"]["b"], np.ndarray)
    assert params["a"]["b"].tolist() == np.full((4, 3), 2.0).tolist()
    with pytest.raises(UserError, match=r"no checkpoint of step 8; its steps are \[7\]"):
        checkpoint.restore_params(checkpoints.folder, 8)


SPECS = {
    "embed": {"weight": WeightSpec((16, 8), jnp.bfloat16, ("vocab", "embed"))},
    "layers": {"mlp": {"gate": WeightSpec((2, 8, 12), jnp.float32, ("layers", "embed", "mlp"))}},
}


def state_on(mesh, devices, name="muon"):
    """(a state with all its parts in their places, its abstract twin) on a mesh."""
    guard = GuardConfig(spike=2.0, window=3)
    optimizer = optimizers.make(OptimizerConfig(name=name, momentum=0.95, moments="bfloat16", ema=0.9), 10)
    layout = Layout(make_mesh(mesh, jax.devices()[:devices]), mesh)
    places = states.shardings(SPECS, optimizer, layout, guard)
    abstract = states.abstract(SPECS, optimizer, places, guard)
    values = np.random.default_rng(0).integers(0, 100, len(jax.tree.leaves(abstract)))
    fill = lambda leaf, value: jax.device_put(np.arange(leaf.size).reshape(leaf.shape).astype(leaf.dtype) + value, leaf.sharding)  # noqa: E731
    leaves = [fill(leaf, np.array(value, leaf.dtype)) for leaf, value in zip(jax.tree.leaves(abstract), values, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves), abstract


def as_bytes(tree):
    return [(leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", ["muon", "adafactor"])
def test_the_whole_state_moves_to_another_mesh_and_back_bit_for_bit(checkpoints, name):
    one, many = MeshConfig(), MeshConfig(data=1, fsdp=2, tensor=4)
    first, wanted_back = state_on(one, 1, name)
    _, wanted = state_on(many, 8, name)
    checkpoints.save(1, states.to_items(first), {})
    checkpoints.wait()
    spread = states.from_items(checkpoints.restore(1, states.to_items(wanted))[0])
    assert spread.trained["layers"]["mlp"]["gate"].addressable_shards[0].data.shape == (2, 4, 3)
    assert [leaf.sharding for leaf in jax.tree.leaves(spread)] == [leaf.sharding for leaf in jax.tree.leaves(wanted)]
    checkpoints.save(2, states.to_items(spread), {})
    checkpoints.wait()
    back = states.from_items(checkpoints.restore(2, states.to_items(wanted_back))[0])
    assert as_bytes(back) == as_bytes(spread) == as_bytes(first)
    assert jax.tree.structure(back) == jax.tree.structure(first)


def test_the_average_is_read_over_the_frozen_weights(checkpoints):
    saved = items(1.0)
    saved["params"]["frozen"] = jnp.full(2, 9.0)
    checkpoints.save(1, saved | {"ema": {"a": {"b": jnp.full((4, 3), 0.5)}}}, {})
    checkpoints.save(2, saved, {})
    checkpoints.wait()
    average = checkpoint.restore_params(checkpoints.folder, 1, item="ema")
    assert np.unique(average["a"]["b"]).tolist() == [0.5] and average["frozen"].tolist() == [9.0, 9.0]
    with pytest.raises(UserError, match=r"has no ema: the run had no optimizer.ema; it has optimizer, params"):
        checkpoint.restore_params(checkpoints.folder, item="ema")


def test_some_stay_for_ever(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(keep=2, keep_every=4, every_minutes=None))
    for step in (1, 4, 5, 8, 9, 10):
        checkpoints.save(step, items(step), {})
    checkpoints.close()
    assert checkpoint.steps(tmp_path) == [4, 8, 9, 10]
    assert [checkpoints.due(step) for step in (8, 9, 12)] == [True, False, True]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_one_flipped_byte_is_found_and_the_one_before_is_used(checkpoints):
    for step in (1, 2):
        checkpoints.save(step, items(step), {})
    checkpoints.wait()
    flip(max((checkpoints.folder / "2").rglob("d/*"), key=lambda path: path.stat().st_size))
    with pytest.raises(UserError, match="has changed"):
        checkpoint.restore_params(checkpoints.folder, 2)
    said = []
    assert checkpoints.newest(said.append) == 1
    assert "checkpoint 2 is damaged" in said[0] and (checkpoints.folder / "2.damaged").is_dir()
    assert checkpoints.restore(1, abstract(items()))[0]["optimizer"]["step"] == 1


def test_a_change_in_any_file_is_named(checkpoints):
    checkpoints.save(1, items(), {"tokens_real": 123456, "text": "as it was"})
    checkpoints.wait()
    whole = checkpoints.folder / "1"
    files = [path for path in whole.rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) > 5
    for path in files:
        before = path.read_bytes()
        flip(path)
        assert checkpoint.check(whole).startswith((str(path.relative_to(whole)), checkpoint.MANIFEST)), path
        path.write_bytes(before)
        assert checkpoint.check(whole) is None
    (whole / "extra").write_text("")
    assert checkpoint.check(whole) == "extra was not saved with it"
    (whole / "extra").unlink()
    files[0].unlink()
    assert "is missing" in checkpoint.check(whole) or "is absent" in checkpoint.check(whole)


@pytest.mark.parametrize("change", [lambda text: text[: len(text) // 2], lambda text: text.replace("123", "124"), lambda _: "[]"])
def test_a_manifest_cut_or_changed_sets_the_checkpoint_aside(checkpoints, change):
    for step in (1, 2):
        checkpoints.save(step, items(step), {"tokens_real": 123})
    checkpoints.wait()
    manifest = checkpoints.folder / "2" / checkpoint.MANIFEST
    manifest.write_text(change(manifest.read_text()))
    said = []
    assert checkpoints.newest(said.append) == 1
    assert "manifest.json" in said[0]


def test_what_a_kill_left_of_a_save_is_removed(checkpoints):
    checkpoints.save(1, items(), {})
    checkpoints.wait()
    (checkpoints.folder / ".2.partial" / "params").mkdir(parents=True)
    assert checkpoints.newest(pytest.fail) == 1
    assert not (checkpoints.folder / ".2.partial").exists()


def test_a_kill_in_the_middle_of_deleting_an_old_one_fools_nobody(checkpoints, monkeypatch):
    for step in (1, 2):
        checkpoints.save(step, items(step), {})
    checkpoints.wait()

    def interrupted(folder, **_):
        next(path for path in folder.rglob("*") if path.is_file()).unlink()
        raise OSError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(manifest.shutil, "rmtree", interrupted)
        checkpoints.save(3, items(3), {})
        with pytest.raises(OSError, match="killed here"):
            checkpoints.wait()
    assert (checkpoints.folder / ".1.old").is_dir()
    assert checkpoint.steps(checkpoints.folder) == [2, 3]
    assert checkpoints.newest(pytest.fail) == 3
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["2", "3"]


KILLED = """
import os, signal, sys
import jax.numpy as jnp
from alpaca_jax import manifest
from alpaca_jax.checkpoint import CheckpointConfig, Checkpoints

made = Checkpoints(sys.argv[1], CheckpointConfig())
items = {"params": {f"w{n}": jnp.full((1 << 20,), float(n)) for n in range(8)}}
made.save(1, items, {})
made.wait()
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "hashing":
    manifest._hashes = kill
made.save(2, items, {})
if sys.argv[2] == "writing":
    kill()
made.wait()
"""


@pytest.mark.parametrize("moment", ["writing", "hashing"])
def test_a_save_killed_in_its_middle_leaves_the_one_before(tmp_path, moment):
    result = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), moment], capture_output=True, text=True)
    assert result.returncode == -signal.SIGKILL, result.stderr
    left = {path.name for path in tmp_path.iterdir()}
    found = Checkpoints(tmp_path, CheckpointConfig()).newest(pytest.fail)
    assert found == 1 and left > {"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    assert checkpoint.restore_params(tmp_path)["w7"][-1] == 7.0


@pytest.mark.parametrize("where", ["write", "hash"])
def test_a_full_disk_is_said_and_leaves_the_old_checkpoint(checkpoints, monkeypatch, where):
    checkpoints.save(1, items(), {})
    checkpoints.wait()

    victim, name = {"write": (checkpoints._checkpointer, "wait_until_finished"), "hash": (manifest, "_hashes")}[where]
    whole = getattr(victim, name)

    def full(*args):
        result = whole(*args)
        if threading.current_thread().name == "checkpoint":
            raise OSError(errno.ENOSPC, "No space left on device")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(victim, name, full)
        checkpoints.save(2, items(), {})
        checkpoints._sealing.join()
        with pytest.raises(UserError, match="the disk is full"):
            checkpoints.due(3)  # the very next step hears of it
    checkpoints._checkpointer.wait_until_finished()
    assert checkpoints.newest(pytest.fail) == 1
    assert [path.name for path in checkpoints.folder.iterdir()] == ["1"]
    checkpoints.save(2, items(), {})
    checkpoints.wait()
    assert checkpoints.newest(pytest.fail) == 2


def test_two_processes_save_together_and_one_seals(tmp_path):
    lead, other = together(tmp_path)
    assert lead["hashed"] == [".1.partial", ".2.partial", "2"] and other["hashed"] == []
    assert lead["meta"] == other["meta"] == {"tokens_real": 2}
    assert lead["values"] == other["values"] == [[[2.0] * 3] * 2]
    assert lead["due"] == other["due"] == [False, True]
    assert lead["said"] == other["said"] == [] and checkpoint.steps(tmp_path) == [2]


def test_due_by_steps_and_by_time(tmp_path):
    never = Checkpoints(tmp_path, CheckpointConfig(every_steps=None, every_minutes=None))
    always = Checkpoints(tmp_path, CheckpointConfig(every_minutes=0.0))
    fives = Checkpoints(tmp_path, CheckpointConfig(every_steps=5, every_minutes=None))
    assert [never.due(5), always.due(4), fives.due(4), fives.due(5)] == [False, True, False, True]


def test_an_empty_folder_has_no_checkpoint(checkpoints, tmp_path):
    assert checkpoints.newest(pytest.fail) is None
    with pytest.raises(UserError, match="has no checkpoint"):
        checkpoint.restore_params(tmp_path / "nowhere")
