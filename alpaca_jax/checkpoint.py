"""Checkpoints: Orbax writes the arrays in the background; ours is the promise that a folder named STEP is whole.

A checkpoint is written as `.STEP.partial`, hashed into `manifest.json`, and only then renamed to `STEP`, so that a kill at any moment
leaves either the whole of it or none; an old one is renamed to `.STEP.old` before it is deleted. Before a restore the hashes are
checked, since Orbax restores flipped bytes without a word.

On an object store nothing is renamed. There `STEP` is written in place and counts once its manifest is put, which is last; it is deleted
manifest first. Its hashes are the md5s that the store has computed of what arrived, where it keeps them, so that neither a save nor a
check reads anything back.

With several processes each writes its own shards. When Orbax's `wait_until_finished` returns, all have passed its barrier behind the last
write; then the first process alone hashes and renames, and all meet at one more barrier of the coordination service. That service runs
beside the devices' collectives, so its barriers may be awaited in a background thread while steps run. A process that failed leaves
without coming to the barrier, and JAX ends its peers.
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

AGREE_STEPS = 16  # several processes ask the first one's clock so often
SEAL_HOURS = 2.0  # the others wait at most so long for the hashes
Tree = dict[str, Any]


@configclass
class CheckpointConfig:
    """When to save and how many to keep; the last step is always saved."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0
    keep: int = 2  # newest kept
    keep_every: int | None = None  # a step it divides is saved too, and kept for ever
    asynchronous: bool = True
    concurrent_gb: float = 16.0  # at most so much is being written at a time; less of it needs less memory beside the state's copy

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep={self.keep}: at least one checkpoint must stay, or nothing could be resumed")
        for name in ("every_steps", "keep_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: give 1 or more, or null")
        if self.concurrent_gb <= 0:
            raise ValueError(f"concurrent_gb={self.concurrent_gb}: give more than 0")


class Checkpoints:
    """The checkpoints of one run in `folder/STEP/`; each holds named items (nested dicts of arrays) and a small JSON `meta`."""

    def __init__(self, folder: str | Path, config: CheckpointConfig) -> None:
        import orbax.checkpoint as ocp

        self.folder = _located(folder)
        self.config = config
        self._ocp = ocp
        self._checkpointer: Any = None  # made by the first save, which knows how large the arrays are
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._pruning = threading.Lock()
        self._held: int | None = None
        self._last_save = time.monotonic()

    def due(self, step: int) -> bool:
        """True when the config's steps or minutes since the last save have passed; raises what went wrong with that save meanwhile.

        Several processes go by the first one's clock, at every 16th step.
        """
        if self._failure is not None:
            self.wait()
        if any(every is not None and step % every == 0 for every in (self.config.every_steps, self.config.keep_every)):
            return True
        if self.config.every_minutes is None or (jax.process_count() > 1 and step % AGREE_STEPS):
            return False
        return bool(_of_the_lead(lambda: time.monotonic() - self._last_save >= 60 * self.config.every_minutes))

    def save(self, step: int, items: dict[str, Tree], meta: dict[str, Any]) -> None:
        """Starts saving; returns once the arrays are copied off the devices, unless `asynchronous` is off.

        UserError where the disk is full, here or at the next call; the checkpoints before it stay as they are.
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
        """Returns when the save that is under way is whole on disk; raises what went wrong with it."""
        if self._sealing is not None:
            self._sealing.join()
            self._sealing = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def newest(self, report: Callable[[str], None]) -> int | None:
        """The newest step that is whole, or None, once the save under way is done. What a kill left is removed; what is damaged is set
        aside and reported. The first process looks and reports, the others are told.
        """
        self.wait()
        found = _of_the_lead(lambda: self._newest(report))
        return None if found < 0 else found

    def _newest(self, report: Callable[[str], None]) -> int:
        remove(leftovers(self.folder))
        for step in reversed(steps(self.folder)):
            damage = check(self.folder / str(step))
            if damage is None:
                return step
            aside = set_aside(self.folder / str(step))
            report(f"checkpoint {step} is damaged ({damage}): set aside as {aside}; going on from the one before it")
        return -1

    def hold(self, step: int) -> bool:
        """Keeps one checkpoint from being pruned until `release`, so that another process may read it; False where it is gone already."""
        with self._pruning:
            there = whole(self.folder / str(step))
            self._held = step if there else None
            return there

    def release(self) -> None:
        """Lets go of the checkpoint that is held, and prunes what was kept for it alone."""
        with self._pruning:
            self._held = None
        self._prune()

    def restore(self, step: int, items: dict[str, Tree]) -> tuple[dict[str, Tree], dict[str, Any]]:
        """The named items, filled like the given trees of ShapeDtypeStruct with shardings, and the checkpoint's `meta`."""
        args = self._ocp.args.Composite(**{name: self._ocp.args.StandardRestore(tree) for name, tree in items.items()})
        with storage.explained(self.folder), self._ocp.Checkpointer(self._ocp.CompositeCheckpointHandler()) as reader:
            restored = reader.restore(self.folder / str(step), args=args)
        return {name: restored[name] for name in items}, rundir.read_json(self.folder / str(step) / MANIFEST)["meta"]

    def close(self) -> None:
        """Waits for the save under way and frees Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()

    def _begin(self, step: int, partial: Path) -> bool:
        """Makes room for a save; True where that step is saved already."""
        if whole(self.folder / str(step)):
            return True
        if storage.is_remote(partial):
            remove([partial])
            return False
        remove(partial.parent.glob(f"{partial.name}*"))
        self.folder.mkdir(parents=True, exist_ok=True)
        return False

    def _make(self, items: dict[str, Tree]) -> Any:
        # Orbax refuses an array that is larger than all it may have in flight.
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
        every, aside = self.config.keep_every, []
        with self._pruning:
            for step in steps(self.folder)[: -self.config.keep]:
                if (every is None or step % every) and step != self._held:
                    aside.append(withdraw(self.folder / str(step)))
        remove(aside)

    def _explained(self, error: Exception, partial: Path) -> Exception:
        if (explained := storage.explain(self.folder, error)) is not None:
            return explained
        if not disk_is_full(error):
            return error
        if is_lead():
            remove(partial.parent.glob(f"{partial.name}*"))
        return UserError(f"{self.folder}: the disk is full, the checkpoint was not saved; make room and start the same command again")


class Saved:
    """The weights of one checkpoint (default: the newest), read one by one; UserError where none is there or, on reading, it is damaged.

    `item="ema"` stands for the average of the weights, and for the params of those weights that were frozen and so have none.
    """

    def __init__(self, folder: str | Path, step: int | None = None, item: str = "params") -> None:
        folder = _located(folder)
        found = steps(folder)
        if not found or (step is not None and step not in found):
            raise UserError(f"{folder} has no checkpoint{'' if step is None else f' of step {step}'}; its steps are {found or 'none'}")
        self.step = found[-1] if step is None else step
        self.folder = folder / str(self.step)
        if not (self.folder / item).is_dir():
            items = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
            remedy = ": it was trained without optimizer.ema" if item == "ema" else ""
            raise UserError(f"the checkpoint {self.folder} has no {item}{remedy}; it has {', '.join(items)}")
        self._items = dict.fromkeys((item, "params"))  # what the first lacks is in the second

    @functools.cached_property
    def _found(self) -> dict[tuple[str, ...], tuple[str, Any]]:
        """The item that has each weight, and what Orbax knows of it."""
        import orbax.checkpoint as ocp

        found: dict[tuple[str, ...], tuple[str, Any]] = {}
        for item in self._items:
            try:
                tree = ocp.PyTreeCheckpointHandler().metadata(self.folder / item).tree
            except Exception:
                self._check()
                raise
            for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
                found.setdefault(tuple(key.key for key in keys), (item, leaf))
        return found

    @functools.cache  # noqa: B019 - one hashing of all files a checkpoint
    def _check(self) -> None:
        if damage := check(self.folder):
            raise UserError(f"the checkpoint {self.folder} is damaged ({damage}); start the training again, it goes on from the one before")

    @property
    def weights(self) -> dict[tuple[str, ...], jax.ShapeDtypeStruct]:
        """The shape and dtype of each weight by its path."""
        return {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, (_, leaf) in self._found.items()}

    def read(self, path: tuple[str, ...]) -> np.ndarray:
        """One weight."""
        import orbax.checkpoint as ocp
        from flax.traverse_util import flatten_dict, unflatten_dict

        self._check()
        item, leaf = self._found[path]
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
    """The first process's answer (an int or a bool) in every process; the others don't compute one."""
    if jax.process_count() == 1:
        return answer()
    return int(multihost_utils.broadcast_one_to_all(np.int32(answer() if is_lead() else 0)))


def _located(folder: str | Path) -> Path:
    path = storage.at(folder)
    return path if storage.is_remote(path) else path.absolute()
