"""Which layers and widths a model keeps: as its settings say, or chosen by one forward pass over calibration texts."""

import hashlib
import json
from pathlib import Path

from alpaca_jax import documents, rundir
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.formats.config import ModelConfig, Widths
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.pruning import calibration, weighing
from alpaca_jax.formats.pruning.kept import Kept, Numbers
from alpaca_jax.formats.source import sha256
from alpaca_jax.model import influence
from alpaca_jax.progress import ProgressBar
from alpaca_jax.terminal import Console

METHOD = 1  # of choosing; what another one chose is chosen again


def keep(config: ModelConfig, model: Pretrained) -> Kept | None:
    """What `config` keeps of `model`; None where that is all of it. A UserError where the model doesn't have as much.

    A choice is made once for a model, settings and texts, and kept in a file of the cache of models.
    """
    _check(config, model)
    layers = _given(config, model.architecture.num_layers)
    if config.dropped is None and config.widths is None:
        return None if config.keep_layers is None else Kept(layers=layers)
    path = _place(config, model)
    if path.is_file():
        return parse(Kept, documents.json_value(documents.read(path)), where=str(path))
    kept = choose(config, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(path, to_mapping(kept))
    return kept


def choose(config: ModelConfig, model: Pretrained) -> Kept:
    """The layers and widths that do most on the calibration texts."""
    a = model.architecture
    layers, passes = _given(config, a.num_layers), (config.dropped is not None) + (config.widths is not None)
    texts = calibration.read(config.calibration, model.tokenizer, a.max_positions)
    with ProgressBar("weighing layers", passes * a.num_layers, 0, Console(stderr=True), transient=True) as bar:
        walk = weighing.Walk(model, texts, bar.advance)
        if config.dropped is not None:
            layers = _left(walk, texts, *config.dropped)
        return Kept(layers=layers) if config.widths is None else _narrow(walk, layers, config.widths)


def _left(walk: weighing.Walk, texts: calibration.Calibration, count: int, how: str) -> Numbers:
    """The layers that are left when `count` of them go."""
    layers = range(walk.architecture.num_layers)
    if how == "one by one":
        return weighing.one_by_one(walk, count)
    if how == "by loss":
        worth = weighing.losses_without(walk, layers, count)[:-1]
    else:
        worth = influence.angular_distances([x_BTD[texts.real] for x_BTD in weighing.streams(walk)], count)
    return influence.without(len(layers), int(worth.argmin()), count)


def _narrow(walk: weighing.Walk, layers: Numbers, widths: Widths) -> Kept:
    """The parts of these layers that do most."""
    found = weighing.widths(walk, layers)
    heads, neurons, channels = widths.num_kv_heads, widths.intermediate_size, widths.hidden_size
    return Kept(
        layers=layers,
        channels=None if channels is None else influence.largest(found["channels"], channels),
        heads=None if heads is None else tuple(influence.largest(layer, heads) for layer in found["heads"]),
        neurons=None if neurons is None else tuple(influence.largest(layer, neurons) for layer in found["neurons"]),
    )


def _given(config: ModelConfig, layers: int) -> Numbers:
    """The layers that the settings name; all where they are chosen."""
    kept = config.keep_layers
    return kept if isinstance(kept, tuple) else tuple(range(kept if isinstance(kept, int) else layers))


def _check(config: ModelConfig, model: Pretrained) -> None:
    """Raises a UserError where `config` keeps more than `model` has."""
    a, kept = model.architecture, config.keep_layers
    least = max(kept) + 1 if isinstance(kept, tuple) else kept if isinstance(kept, int) else 1
    if config.dropped is not None:
        least = config.dropped[0] + 1
    if least > a.num_layers:
        raise UserError(f"model.keep_layers={_shown(kept)}: {model.source} has {a.num_layers} layers, numbered from 0")
    for name in ("hidden_size", "intermediate_size", "num_kv_heads"):
        wanted = None if config.widths is None else getattr(config.widths, name)
        if wanted is not None and wanted > getattr(a, name):
            raise UserError(f"model.widths.{name}={wanted}: {model.source} has only {getattr(a, name)}; give less, or null to keep all")


def _shown(kept: object) -> str:
    return str(list(kept)) if isinstance(kept, tuple) else str(kept)


def _place(config: ModelConfig, model: Pretrained) -> Path:
    """The file of a choice, by all that it depends on."""
    texts = None if config.calibration is None else sha256(config.calibration)
    widths = None if config.widths is None else to_mapping(config.widths)
    asked = [METHOD, model.likeness, model.tokenizer.fingerprint, config.dropped or config.keep_layers, widths, texts]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
    return Path(config.cache or "~/.cache/alpaca_jax/models").expanduser() / "kept" / f"{key}.json"
