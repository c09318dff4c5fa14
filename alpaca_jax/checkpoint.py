"""Checkpoints: Orbax writes the arrays in the background; this module guarantees that a folder named STEP is whole.

A checkpoint is written as `.STEP.partial`, hashed into `manifest.json`, and only then renamed to `STEP`, so that a kill at any moment
leaves all of it or nothing; an old one is renamed to `.STEP.old` before it is deleted. The hashes are checked before a restore, because
Orbax restores flipped bytes without an error.

On an object store nothing is renamed. `STEP` is written in place and counts once its manifest is there, which is uploaded last and deleted
first. Where the store keeps md5s of what it received, these are the hashes, so that neither a save nor a check reads anything back.

Each of several processes writes its own shards. When Orbax's `wait_until_finished` returns, all have passed its barrier after the last
write. Then the lead alone hashes and renames, and all meet at one more barrier of the coordination service. That service is independent
of the devices' collectives, so a background thread may wait at its barriers while steps run. A process that failed exits without
reaching the barrier, and JAX ends its peers.
"""

import functools
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from alpaca_jax import rundir, storage
from alpaca_jax.config import configclass
from alpaca_jax.distributed import is_lead
from alpaca_jax.errors import UserError, disk_is_full
from alpaca_jax.manifest import MANIFEST, check, leftovers, remove, seal, set_aside, steps, whole, withdraw
from alpaca_jax.ranges import Above0, Pause, Positive

AGREE_STEPS = 16  # several processes take the lead's clock at every 16th step
SEAL_HOURS = 2.0  # how long the others wait for the hashes at most
Tree = dict[str, Any]


@configclass
class CheckpointConfig:
    """When to save and how many to keep. The last step is always saved."""

    every_steps: Positive | None = None
    every_minutes: Pause | None = 10.0
    keep: Positive = 2  # how many of the newest are kept
    keep_every: Positive | None = None  # a step that is a multiple of it is saved too, and never deleted
    asynchronous: bool = True
    concurrent_gb: Above0 = 16.0  # most GB in flight at a time; fewer need less memory beside the copy of the state


class Checkpoints:
    """The checkpoints of one run in `folder/STEP/`; each holds named items (nested dicts of arrays) and a small JSON `meta`."""

    def __init__(self, folder: str | Path, config: CheckpointConfig) -> None:
        import orbax.checkpoint as ocp

        self.folder = _located(folder)
        self.config = config
        self._ocp = ocp
        self._checkpointer: Any = None  # created by the first save, which knows the sizes of the arrays
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._pruning = threading.Lock()
        self._held: list[int] = []
        self._favoured: list[int] = []  # the steps that were the best, the newest last
        self._last_save = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to save now, by the config's steps or minutes since the last save; raises the error that this save ended with.

        Several processes go by the lead's clock, at every 16th step.
        """
        if self._failure is not None:
            self.wait()
        if any(every is not None and step % every == 0 for every in (self.config.every_steps, self.config.keep_every)):
            return True
        minutes = self.config.every_minutes
        if minutes is None or (jax.process_count() > 1 and step % AGREE_STEPS):
            return False
        return bool(_of_the_lead(lambda: time.monotonic() - self._last_save >= 60 * minutes))

    def save(self, step: int, items: dict[str, Tree], meta: dict[str, Any]) -> None:
        """Starts a save; returns once the arrays are copied off the devices (without `asynchronous`: once all is written).

        A UserError where the disk is full, here or at the next call; earlier checkpoints stay as they are.
        """
        self.wait()
        self._last_save = time.monotonic()
        partial = self.folder / (str(step) if storage.is_remote(self.folder) else f".{step}.partial")
        if _of_the_lead(lambda: self._begin(step, partial)):
            return
        if self._checkpointer is None:
            self._checkpointer = self._make(items)
        args = self._ocp.args.Composite(**{name: self._ocp.args.StandardSave(tree) for name, tree in items.items()})
        try:
            self._checkpointer.save(partial, args=args)
        except Exception as error:
            raise self._explained(error, partial) from error
        self._sealing = threading.Thread(target=self._seal, args=(step, partial, meta), name="checkpoint")
        self._sealing.start()
        if not self.config.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Waits until the save in progress is whole on disk; raises its error."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def newest(self, report: Callable[[str], None]) -> int | None:
        """The newest step that is whole, or None, once the save in progress is done.

        Deletes what killed processes left; sets damaged checkpoints aside and reports them. The lead does this for all processes.
        """
        self.wait()
        step = _of_the_lead(lambda: self._newest(report))
        return None if step < 0 else step

    def _newest(self, report: Callable[[str], None]) -> int:
        remove(leftovers(self.folder))
        for step in reversed(steps(self.folder)):
            damage = check(self.folder / str(step))
            if damage is None:
                return step
            place = set_aside(self.folder / str(step))
            report(f"checkpoint {step} is damaged ({damage}): set aside as {place}; resuming from the one before it")
        return -1

    def hold(self, step: int) -> bool:
        """Protects a checkpoint from pruning until `release`, so that others may read it; False where it is gone already."""
        with self._pruning:
            exists = whole(self.folder / str(step))
            if exists:
                self._held.append(step)
            return exists

    def release(self, step: int) -> None:
        """Ends one protection of `hold`, and prunes."""
        with self._pruning:
            self._held.remove(step)
        self._prune()

    def favour(self, step: int) -> None:
        """Keeps the checkpoint of this step, saved already or about to be, until another one is favoured and whole."""
        with self._pruning:
            self._favoured.append(step)

    def restore(self, step: int, items: dict[str, Tree]) -> tuple[dict[str, Tree], dict[str, Any]]:
        """The named items, restored into the shapes and shardings of the given ShapeDtypeStructs, and the checkpoint's `meta`."""
        args = self._ocp.args.Composite(**{name: self._ocp.args.StandardRestore(tree) for name, tree in items.items()})
        with storage.explained(self.folder), self._ocp.Checkpointer(self._ocp.CompositeCheckpointHandler()) as reader:
            restored = reader.restore(self.folder / str(step), args=args)
        return {name: restored[name] for name in items}, rundir.read_json(self.folder / str(step) / MANIFEST)["meta"]

    def close(self) -> None:
        """Waits for the save in progress and frees Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()

    def _begin(self, step: int, partial: Path) -> bool:
        """Clears the place of a save; True where that step is saved already."""
        if whole(self.folder / str(step)):
            return True
        if storage.is_remote(partial):
            remove([partial])
            return False
        remove(partial.parent.glob(f"{partial.name}*"))
        self.folder.mkdir(parents=True, exist_ok=True)
        return False

    def _make(self, items: dict[str, Tree]) -> Any:
        # Orbax refuses an array that is larger than its limit of bytes in flight.
        largest = max(sum(shard.data.nbytes for shard in leaf.addressable_shards) for leaf in jax.tree.leaves(items))
        limit = max(self.config.concurrent_gb, 1.1 * largest / 1e9)
        handlers = {name: self._ocp.StandardCheckpointHandler(save_concurrent_gb=limit) for name in items}
        return self._ocp.AsyncCheckpointer(self._ocp.CompositeCheckpointHandler(**handlers))

    def _seal(self, step: int, partial: Path, meta: dict[str, Any]) -> None:
        try:
            self._checkpointer.wait_until_finished()
            if is_lead():
                seal(partial, step, meta)
                if partial.name != str(step):
                    os.replace(partial, self.folder / str(step))
                self._prune()
            meet = self._ocp.multihost.get_barrier_sync_fn()
            meet(key=f"checkpoint {step} is whole", timeout_ms=int(SEAL_HOURS * 3_600_000))
        except Exception as error:
            self._failure = self._explained(error, partial)

    def _prune(self) -> None:
        every, withdrawn = self.config.keep_every, []
        with self._pruning:
            saved = steps(self.folder)
            best = next((step for step in reversed(self._favoured) if step in saved), None)
            for step in saved[: -self.config.keep]:
                if (every is None or step % every) and step not in (*self._held, best):
                    withdrawn.append(withdraw(self.folder / str(step)))
        remove(withdrawn)

    def _explained(self, error: Exception, partial: Path) -> Exception:
        if (explained := storage.explain(self.folder, error)) is not None:
            return explained
        if not disk_is_full(error):
            return error
        if is_lead():
            remove(partial.parent.glob(f"{partial.name}*"))
        return UserError(f"{self.folder}: the disk is full and the checkpoint was not saved; make room and start the same command again")


class Saved:
    """The weights of one checkpoint (default: the newest), read one by one; a UserError where there is none or, on reading, it is damaged.

    `item="ema"` means the average of the weights, and the params themselves for frozen weights, which have no average.
    """

    def __init__(self, folder: str | Path, step: int | None = None, item: str = "params") -> None:
        folder = _located(folder)
        saved = steps(folder)
        if not saved or (step is not None and step not in saved):
            raise UserError(f"{folder} has no checkpoint{'' if step is None else f' of step {step}'}; its steps are {saved or 'none'}")
        self.step = saved[-1] if step is None else step
        self.folder = folder / str(self.step)
        if not (self.folder / item).is_dir():
            items = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
            remedy = ": the run had no optimizer.ema" if item == "ema" else ""
            raise UserError(f"the checkpoint {self.folder} has no {item}{remedy}; it has {', '.join(items)}")
        self._items = dict.fromkeys((item, "params"))  # a weight that the first lacks is read from the second

    @functools.cached_property
    def _leaves(self) -> dict[tuple[str, ...], tuple[str, Any]]:
        """The item that holds each weight, and Orbax's metadata of it."""
        import orbax.checkpoint as ocp

        leaves: dict[tuple[str, ...], tuple[str, Any]] = {}
        for item in self._items:
            try:
                tree = ocp.PyTreeCheckpointHandler().metadata(self.folder / item).tree
            except Exception:
                self._check()
                raise
            for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
                leaves.setdefault(tuple(key.key for key in keys), (item, leaf))
        return leaves

    @functools.cache  # noqa: B019 - hashes all files of a checkpoint once
    def _check(self) -> None:
        if damage := check(self.folder):
            raise UserError(
                f"the checkpoint {self.folder} is damaged ({damage}); start the training again, and it will resume from the one before"
            )

    @property
    def weights(self) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
        """The shape and dtype of each weight by its path."""
        return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, (_, leaf) in self._leaves.items()}

    def read(self, path: tuple[str, ...]) -> np.ndarray:
        """One weight."""
        import orbax.checkpoint as ocp
        from flax.traverse_util import flatten_dict, unflatten_dict

        self._check()
        item, leaf = self._leaves[path]
        whole = unflatten_dict({path: ocp.RestoreArgs(restore_type=np.ndarray)})
        args = ocp.args.PyTreeRestore(item=unflatten_dict({path: leaf}), restore_args=whole, partial_restore=True)
        with storage.explained(self.folder):
            restored = ocp.PyTreeCheckpointHandler().restore(self.folder / item, args=args)
        return flatten_dict(restored)[path]


def restore_params(folder: str | Path, step: int | None = None, item: str = "params") -> Tree:
    """Every weight of `Saved`, as a nested dict of numpy arrays."""
    from flax.traverse_util import unflatten_dict

    saved = Saved(folder, step, item)
    return unflatten_dict({path: saved.read(path) for path in saved.weights})


def _of_the_lead(answer: Callable[[], int]) -> int:
    """The lead's answer (an int or a bool), in every process; the others don't compute one."""
    if jax.process_count() == 1:
        return answer()
    return int(multihost_utils.broadcast_one_to_all(np.int32(answer() if is_lead() else 0)))


def _located(folder: str | Path) -> Path:
    path = storage.at(folder)
    return path if storage.is_remote(path) else path.absolute()
