"""Where a run starts: the state, what stays fixed, and what has been counted so far."""

import dataclasses
from collections.abc import Callable, Mapping

from alpaca_jax import checkpoint, rundir
from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.errors import UserError
from alpaca_jax.manifest import MANIFEST
from alpaca_jax.model.tree import by_name
from alpaca_jax.train.progress import Progress
from alpaca_jax.train.setup import Setup
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.state import State
from alpaca_jax.trainer.weights import BASE, Fixed


@dataclasses.dataclass(frozen=True)
class Start:
    """A point to continue from. `kept`: checkpoints hold the fixed weights too, because no source does."""

    state: State
    fixed: Fixed
    progress: Progress
    kept: bool


def latest(setup: Setup, checkpoints: Checkpoints, report: Callable[[str], None], fixed: Fixed | None = None) -> Start:
    """The Start at the newest whole checkpoint, or at step 0 where there is none; `fixed`, where it is in memory already.

    The four cases of a start are decided here:
    - new: no checkpoint is whole. The weights come from the source or are random.
    - resumed: the newest checkpoint is whole. Its fixed weights come from the source, unless the checkpoint holds them.
    - set aside: a checkpoint is damaged. It is renamed and reported, and the one before it counts as the newest.
    - rolled back: the loop asks again in the middle of a run, with `fixed` in memory, and continues after the poisoned batch.
    """
    newest = checkpoints.newest(report)
    if newest is None:
        state, fixed = setup.start()
        return Start(state, fixed, Progress(), kept=not setup.base_names)
    assembly = setup.assembly
    base_names = list(by_name(assembly.abstract_fixed[BASE]))
    kept = bool(base_names) and _holds(checkpoints, newest, base_names[0])
    items, meta = checkpoints.restore(newest, states.to_items(assembly.abstract_state, assembly.abstract_fixed[BASE] if kept else None))
    if kept:
        items["params"], base = assembly.divided(items["params"])
        fixed = {BASE: base} | (setup.others() if fixed is None else {name: part for name, part in fixed.items() if name != BASE})
    progress = Progress.from_meta(meta, str(checkpoints.folder / str(newest) / MANIFEST))
    return Start(states.from_items(items), setup.base() if fixed is None else fixed, progress, kept or not base_names)


def check_fingerprints(setup: Setup, start: Start, folder: str, moved: Mapping[str, str]) -> None:
    """Raises a UserError where a checkpoint in `folder` was trained on other data or with another tokenizer than the run has now.

    `moved` are the settings that name another place than before. What a model's source holds counts for the first step only, so it is
    compared where the run now names another one.
    """
    before = start.progress.fingerprints
    of_weights = {key: text for key, text in moved.items() if key in ("model.source", "model.base")}
    if before and of_weights and "weights" not in before and start.kept:
        raise rundir.another_run(folder, of_weights.values())  # of an older version, which didn't look into the weights
    for what in [name for name in before if name != "weights" or of_weights]:
        now = setup.fingerprints.get(what, "none")
        if now != before[what]:
            why = ": " + "; ".join(moved.values()) if moved else ", though the settings are the same"
            raise UserError(
                f"{folder}/{int(start.state.step)} was trained with other {what} (fingerprint {before[what][:12]}, now {now[:12]}){why}. "
                f"Give another dir=, or restore the {what} as before"
            )


def _holds(checkpoints: Checkpoints, step: int, name: str) -> bool:
    """Whether the params of a checkpoint hold the weight with this dotted name."""
    return tuple(name.split(".")) in checkpoint.Saved(checkpoints.folder, step).weights
