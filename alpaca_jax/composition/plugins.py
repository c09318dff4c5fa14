"""What Hydra itself may be told, and what it may instantiate: our launcher, two sweepers and Optuna's samplers.

Hydra calls whatever a `_target_` names, in `hydra.callbacks`, in the launcher, in the sweeper and in anything inside them, and imports
what `hydra.searchpath` names. So its settings come from the command line alone, by a list of keys, and their sum is checked before use.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError

LAUNCHER, SWEEPER, SAMPLER = "hydra/launcher", "hydra/sweeper", "hydra/sweeper/sampler"
OUR_LAUNCHER = "hydra_plugins.alpaca_jax.ClusterLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
SWEEPERS = {"basic": BASIC_SWEEPER, "optuna": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}
SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "motpe": "MOTPESampler",
    "grid": "GridSampler",
}
# Of the sweepers. Optuna's custom_search_space is missing: it names a function.
SWEEPER_KEYS = (
    "max_batch_size", "params", "sampler", "direction", "storage", "study_name", "n_trials", "n_jobs", "max_failure_rate", "search_space",
)  # fmt: skip
TARGETS = {
    "launcher._target_": (OUR_LAUNCHER,),
    "sweeper._target_": tuple(SWEEPERS.values()),
    "sweeper.sampler._target_": tuple(f"optuna.samplers.{name}" for name in SAMPLERS.values()),
}
REMEDY = "from the command line, Hydra takes hydra/launcher, hydra.launcher.KEY, hydra/sweeper and hydra.sweeper.KEY only"


def check_word(key: str, value: str, launchers: Collection[str]) -> None:
    """Raises a UserError unless `key=value` is one of the settings of Hydra that a sweep may have."""
    known = {LAUNCHER: launchers, SWEEPER: SWEEPERS, SAMPLER: SAMPLERS}
    if key in known:
        if value not in known[key]:
            hint = suggestion(value, known[key])
            raise UserError(f"{key}={value}: there is no such {key}{hint} (there are: {', '.join(known[key])})")
    elif re.match(r"hydra\.(sweep|run)\b", key):
        raise UserError(f"{key}: the sweep's folder is dir=; hydra.launcher.folders=keys names those of its jobs")
    elif key == "hydra.searchpath":
        raise UserError(f"{key}: give your own folder of YAML as --config-dir DIR")
    else:
        _, group, *inner = [*key.split("."), "", ""]
        if group not in ("launcher", "sweeper") or any(part.startswith("_") for part in inner):
            raise UserError(f"{key}: {REMEDY}")
        if group == "sweeper" and inner[0] not in SWEEPER_KEYS:
            raise UserError(f"{key}: there is no such key{suggestion(inner[0], SWEEPER_KEYS)} (there are: {', '.join(SWEEPER_KEYS)})")


def check_settings(hydra: Mapping[str, Any]) -> None:
    """Raises a UserError if the composed settings of Hydra would have it call anything that isn't listed here."""
    if hydra.get("callbacks"):
        raise UserError(f"hydra.callbacks: {REMEDY}")
    for key, value in _special(hydra, ""):
        if value not in TARGETS.get(key, ()):
            raise UserError(f"hydra.{key}={value}: names what Hydra would call, and only launchers and sweepers of our own list may be")
    for key in hydra.get("sweeper") or {}:
        if key not in (*SWEEPER_KEYS, "_target_", "custom_search_space") or (key == "custom_search_space" and hydra["sweeper"][key]):
            raise UserError(f"hydra.sweeper.{key}: there is no such key (there are: {', '.join(SWEEPER_KEYS)})")


def _special(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The keys by which a mapping tells Hydra what to call and how, such as `_target_` and `_args_`, and their values."""
    for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ():
        here = f"{key}.{name}" if key else str(name)
        if re.fullmatch(r"_\w+_", str(name)):
            yield here, inner
        yield from _special(inner, here)
