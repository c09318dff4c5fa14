"""An adapter's arrays in our layout, all layers stacked and inputs first, and as PEFT's tensors, one of each layer and outputs first."""

import numpy as np

from alpaca_jax.errors import UserError
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.adapter.peft import PREFIX, Peft
from alpaca_jax.formats.adapter.targets import matrices, names
from alpaca_jax.formats.names import Weight
from alpaca_jax.formats.tensors import abbreviated, listed
from alpaca_jax.model.adapter import Adapter, Change
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Tree, flatten, unflatten

PARTS = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}


def tensors(adapter: Adapter, arrays: Tree, architecture: Architecture) -> dict[str, np.ndarray]:
    """PEFT's tensors, float32, by their names: A [r, inputs], B [outputs, r] and DoRA's magnitude [outputs] of every changed module."""
    leaves, known = flatten(arrays), {matrix.name.path: matrix for matrix in matrices(architecture)}
    found = {}
    for path, change in adapter.changes:
        for layer, (module, rank) in enumerate(zip(names(known[path]), change.ranks, strict=True)):
            for part, name in PARTS.items() if rank else ():
                if (*path, part) in leaves:
                    one = np.asarray(leaves[(*path, part)][layer], np.float32)
                    found[f"{PREFIX}{module}.{name}"] = _theirs(part, one, rank)
    return found


def arrays(peft: Peft, architecture: Architecture) -> tuple[Adapter, Tree]:
    """The adapter of a PEFT folder, and its arrays (numpy, float32) in our layout; a UserError where it doesn't fit, or changes a table.

    Ranks and scales are those of its patterns; arrays are as wide as the largest rank of their weight, and zero beyond a layer's own.
    """
    bare = {name.removeprefix(PREFIX): name for name in peft.stored}
    changes, found = [], {}
    dora = bool(peft.config.get("use_dora"))
    for matrix in matrices(architecture):
        modules = names(matrix)
        own = [adapter_config.rank_and_scale(peft.config, name) if f"{name}.{PARTS['down']}" in bare else (0, 0.0) for name in modules]
        if not any(rank for rank, _ in own):
            continue
        change = Change(*zip(*own, strict=True))
        changes.append((matrix.name.path, change))
        for part in PARTS if dora else ("down", "up"):
            found[(*matrix.name.path, part)] = _stacked(peft, bare, matrix, change, part)
    if bare:
        raise UserError(
            f"{peft.where} changes more than the matrices of this model's layers: {listed(abbreviated(bare))}; merge it into its base "
            "first: alpaca-jax convert source=ADAPTER base=MODEL target=FOLDER"
        )
    return Adapter(tuple(changes), dora=dora), unflatten(found)


def _theirs(part: str, ours: np.ndarray, rank: int) -> np.ndarray:
    """One layer's array without what lies beyond its rank."""
    if part == "magnitude":
        return np.ascontiguousarray(ours.reshape(-1))
    matrix = ours.reshape(-1, ours.shape[-1])[:, :rank] if part == "down" else ours.reshape(len(ours), -1)[:rank]
    return np.ascontiguousarray(matrix.T)


def _stacked(peft: Peft, bare: dict[str, str], matrix: Weight, change: Change, part: str) -> np.ndarray:
    """All layers of one array; takes what it reads out of `bare`."""
    shape = _shape(matrix, change.rank, part)
    stacked = np.zeros((len(change.ranks), *shape), np.float32)
    for layer, (module, rank) in enumerate(zip(names(matrix), change.ranks, strict=True)):
        stored = next((name for name in (f"{module}.{PARTS[part]}", f"{module}.{PARTS[part]}.weight") if name in bare), None)
        if not rank:
            continue
        if stored is None:
            raise UserError(f"{peft.where}: {module} has no {PARTS[part]}; download it again")
        theirs = np.asarray(peft.load(bare.pop(stored), ()), np.float32)
        own = _shape(matrix, rank, part)
        if theirs.size != np.prod(own):
            raise UserError(f"{peft.where} does not fit this model: {module}.{PARTS[part]} has the shape {list(theirs.shape)}")
        ours = theirs.T.reshape(own)
        stacked[layer][(..., slice(rank)) if part == "down" else (slice(rank),) if part == "up" else ...] = ours
    return stacked


def _shape(matrix: Weight, rank: int, part: str) -> tuple[int, ...]:
    """The shape of one layer's array in our layout."""
    split = matrix.name.inputs
    assert split
    inputs, outputs = matrix.layer_shape[:split], matrix.layer_shape[split:]
    return {"down": (*inputs, rank), "up": (rank, *outputs), "magnitude": outputs}[part]
