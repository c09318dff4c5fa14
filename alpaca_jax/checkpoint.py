"""Checkpoints: Orbax writes the arrays in the background; ours is the promise that a folder named STEP is whole.

A checkpoint is written as `.STEP.partial`, hashed into `manifest.json`, and only then renamed to `STEP`, so that a kill at any moment
leaves either the whole of it or none. Before a restore the hashes are checked, since Orbax restores flipped bytes without a word.
"""

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alpaca_jax import rundir
from alpaca_jax.config import configclass
from alpaca_jax.distributed import is_lead
from alpaca_jax.errors import UserError

MANIFEST = "manifest.json"
Tree = dict[str, Any]


@configclass
class CheckpointConfig:
    """When to save and how many to keep; the last step is always saved."""

    every_steps: int | None = None
    every_minutes: float | None = 10.0
    keep: int = 2
    asynchronous: bool = True
    concurrent_gb: int = 16  # at most so much is being written at a time; less of it needs less memory beside the state's copy

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep={self.keep}: at least one checkpoint must stay, or nothing could be resumed")
        if self.concurrent_gb < 1:
            raise ValueError(f"concurrent_gb={self.concurrent_gb}: give 1 or more")


class Checkpoints:
    """The checkpoints of one run in `folder/STEP/`; each holds named items (nested dicts of arrays) and a small JSON `meta`."""

    def __init__(self, folder: str | Path, config: CheckpointConfig) -> None:
        import orbax.checkpoint as ocp

        self.folder = Path(folder).absolute()
        self.config = config
        self._ocp = ocp
        self._checkpointer: Any = None  # made by the first save, which knows how large the arrays are
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._last_save = time.monotonic()

    def due(self, step: int) -> bool:
        """True when the config's steps or minutes since the last save have passed."""
        by_steps = self.config.every_steps is not None and step % self.config.every_steps == 0
        minutes = (time.monotonic() - self._last_save) / 60
        return by_steps or (self.config.every_minutes is not None and minutes >= self.config.every_minutes)

    def save(self, step: int, items: dict[str, Tree], meta: dict[str, Any]) -> None:
        """Starts saving; returns once the arrays are copied off the devices, unless `asynchronous` is off.

        UserError where the disk is full, here or at the next call; the checkpoints before it stay as they are.
        """
        self.wait()
        self._last_save = time.monotonic()
        if (self.folder / str(step)).exists():
            return
        partial = self.folder / f".{step}.partial"
        if is_lead():
            shutil.rmtree(partial, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
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
        """The newest step that is whole, or None. What a killed save left is removed; a damaged checkpoint is set aside and reported."""
        for partial in self.folder.glob(".*.partial"):
            shutil.rmtree(partial)
        for step in reversed(steps(self.folder)):
            damage = check(self.folder / str(step))
            if damage is None:
                return step
            aside = self.folder / f"{step}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(self.folder / str(step), aside)
            report(f"checkpoint {step} is damaged ({damage}): set aside as {aside}; going on from the one before it")
        return None

    def restore(self, step: int, items: dict[str, Tree]) -> tuple[dict[str, Tree], dict[str, Any]]:
        """The named items, filled like the given trees of ShapeDtypeStruct with shardings, and the checkpoint's `meta`."""
        args = self._ocp.args.Composite(**{name: self._ocp.args.StandardRestore(tree) for name, tree in items.items()})
        with self._ocp.Checkpointer(self._ocp.CompositeCheckpointHandler()) as reader:
            restored = reader.restore(self.folder / str(step), args=args)
        return {name: restored[name] for name in items}, rundir.read_json(self.folder / str(step) / MANIFEST)["meta"]

    def close(self) -> None:
        """Waits for the save under way and frees Orbax's threads."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()

    def _make(self, items: dict[str, Tree]) -> Any:
        # Orbax refuses an array that is larger than all it may have in flight.
        largest = max(sum(shard.data.nbytes for shard in leaf.addressable_shards) for leaf in jax.tree.leaves(items))
        limit = max(self.config.concurrent_gb, 1 + largest // 10**9)
        handlers = {name: self._ocp.StandardCheckpointHandler(save_concurrent_gb=limit) for name in items}
        return self._ocp.AsyncCheckpointer(self._ocp.CompositeCheckpointHandler(**handlers))

    def _seal(self, step: int, partial: Path, meta: dict[str, Any]) -> None:
        try:
            self._checkpointer.wait_until_finished()
            if is_lead():
                rundir.write_json(partial / MANIFEST, {"step": step, "meta": meta, "sha256": _hashes(partial)})
                os.replace(partial, self.folder / str(step))
                for old in steps(self.folder)[: -self.config.keep]:
                    shutil.rmtree(self.folder / str(old))
        except Exception as error:
            self._failure = self._explained(error, partial)

    def _explained(self, error: Exception, partial: Path) -> Exception:
        full = "No space left" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full:
            return error
        shutil.rmtree(partial, ignore_errors=True)
        return UserError(f"{self.folder}: the disk is full, the checkpoint was not saved; make room and start the same command again")


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, ascending."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit()) if folder.is_dir() else []


def check(checkpoint: Path) -> str | None:
    """None where every file of the checkpoint has the content that was saved, else what is wrong with it."""
    try:
        expected = json.loads((checkpoint / MANIFEST).read_bytes())["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is absent or unreadable"
    found = _hashes(checkpoint)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} {'is missing' if name not in found else 'was not saved with it' if name not in expected else 'has changed'}"
    return None


def restore_params(folder: str | Path, step: int | None = None) -> Tree:
    """The params of a checkpoint (default: the newest) as a nested dict of numpy arrays; UserError where none is there or it is damaged."""
    import orbax.checkpoint as ocp

    folder = Path(folder).absolute()
    found = steps(folder)
    if not found or (step is not None and step not in found):
        raise UserError(f"{folder} has no checkpoint{'' if step is None else f' of step {step}'}; its steps are {found or 'none'}")
    chosen = folder / str(found[-1] if step is None else step)
    if damage := check(chosen):
        raise UserError(f"the checkpoint {chosen} is damaged ({damage}); start the training again, it goes on from the one before")
    handler = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(chosen / "params").tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return handler.restore(chosen / "params", args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _hashes(checkpoint: Path) -> dict[str, str]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path != checkpoint / MANIFEST)
    hashes = {}
    for path in files:
        with path.open("rb") as file:
            hashes[str(path.relative_to(checkpoint))] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
