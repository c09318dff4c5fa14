"""adapter_config.json, PEFT's description of an adapter."""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.formats.adapter import patterns
from alpaca_jax.formats.adapter.settings import LARGEST_ALPHA, LARGEST_RANK

FILE = "adapter_config.json"
# Settings that change the weights in unsupported ways unless they have the value of a plain LoRA.
PLAIN = {
    "bias": "none",
    "fan_in_fan_out": False,
    "lora_bias": False,
    "layer_replication": None,
    "trainable_token_indices": None,
    "target_parameters": None,
    "alora_invocation_tokens": None,
    "arrow_config": None,
    "use_qalora": False,
    "use_bdlora": None,
    "kasa_config": None,
    "monteclora_config": None,
}
# These initialisations subtract something from the base, so that the adapter belongs to the remainder.
INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")


MOST_BYTES = 4 << 20
MOST_PATTERNS = 2_000  # more than any model has matrices


def read(folder: Path) -> dict[str, Any]:
    """Returns the content of the file; a UserError where PEFT didn't write it."""
    file = folder / FILE
    config = documents.json_object(documents.read(file, MOST_BYTES), str(file))
    if not isinstance(config.get("peft_type"), str):
        raise UserError(f"{file} was not written by PEFT: it has no peft_type; download it again")
    for key, due in TYPES.items():
        if config.get(key) is not None and not due.fits(config[key]):
            text = repr(config[key])
            raise UserError(f"{file}: {key} is {text[:80]}, and should be {due.words}; download it again")
    return config


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises a UserError that names the settings which can't be merged."""
    if config["peft_type"] != "LORA":
        raise UserError(f"{folder / FILE}: an adapter of the kind {config['peft_type'][:80]}; only LORA is supported")
    other = [f"{key}={config[key]!r}"[:80] for key, plain in PLAIN.items() if (config.get(key) or plain) != plain]
    if str(config.get("init_lora_weights")).startswith(INITS):
        other.append(f"init_lora_weights={config['init_lora_weights']!r}"[:80])
    if other:
        raise UserError(
            f"{folder / FILE} has {', '.join(other)}, which is not supported; merge it with PEFT (merge_and_unload), and give the result"
        )
    for key in ("r", "lora_alpha"):
        if config.get(key) is None:
            raise UserError(f"{folder / FILE}: {key} is None, and should be {TYPES[key].words}; download it again")
    for key in ("rank_pattern", "alpha_pattern", "target_modules", "exclude_modules"):
        given = config.get(key) or ()
        for pattern in given if isinstance(given, dict) else [given] if isinstance(given, str) else ():
            with patterns.named(f"{folder / FILE}: {key}"):
                patterns.compiled(pattern)


def rank_and_scale(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Returns the rank of a module's change (by its name at Hugging Face), and the factor of B A."""
    rank = _of(config.get("rank_pattern"), module, config["r"])
    alpha = _of(config.get("alpha_pattern"), module, config["lora_alpha"])
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def targets(config: Mapping[str, Any], modules: Iterable[str]) -> list[str]:
    """Returns those of the modules (by their names at Hugging Face) that PEFT changes by this config; none where it names no targets."""
    wanted, excluded, layers = (config.get(key) for key in ("target_modules", "exclude_modules", "layers_to_transform"))
    layers = [layers] if isinstance(layers, int) else layers
    linear = [module for module in modules if module.rpartition(".")[2] not in ("embed_tokens", "lm_head")]
    if wanted == "all-linear":
        return [module for module in linear if not _matches(excluded, module)]
    found = [module for module in modules if _matches(wanted, module) and not _matches(excluded, module)]
    if isinstance(wanted, str) or not layers:
        return found
    return [module for module in found if any(f".{number}." in module for number in layers)]


def ends_with(pattern: str, module: str) -> bool:
    """Whether a key of `rank_pattern` or `alpha_pattern` matches the end of the name, as in PEFT."""
    return patterns.matches(rf"(.*\.)?({pattern})", module)


def _matches(wanted: str | list[str] | None, module: str) -> bool:
    if isinstance(wanted, str):
        return patterns.matches(wanted, module)
    return any(module == name or module.endswith(f".{name}") for name in wanted or ())


def _of(given: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the name, as in PEFT."""
    return next((value for pattern, value in (given or {}).items() if ends_with(pattern, module)), default)


class _Due(NamedTuple):
    """What the value of a key must be, and in words."""

    fits: Callable[[Any], bool]
    words: str


def _rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= LARGEST_RANK


def _alpha(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST_ALPHA


def _patterns(of: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and len(value) <= MOST_PATTERNS and all(map(of, value.values()))


def _names(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and len(value) <= MOST_PATTERNS and all(isinstance(name, str) for name in value)
    )


def _numbers(value: Any) -> bool:
    return all(isinstance(number, int) for number in (value if isinstance(value, list) else [value]))


TYPES = {
    "base_model_name_or_path": _Due(lambda value: isinstance(value, str), "a text"),
    "r": _Due(_rank, f"a whole number from 1 to {LARGEST_RANK:,}"),
    "lora_alpha": _Due(_alpha, f"a number above 0, and at most {LARGEST_ALPHA:g}"),
    "rank_pattern": _Due(_patterns(_rank), f"an object of at most {MOST_PATTERNS:,} patterns with a rank each"),
    "alpha_pattern": _Due(_patterns(_alpha), f"an object of at most {MOST_PATTERNS:,} patterns with a number each"),
    "use_rslora": _Due(lambda value: isinstance(value, bool), "true or false"),
    "target_modules": _Due(_names, "a text or a list of texts"),
    "exclude_modules": _Due(_names, "a text or a list of texts"),
    "modules_to_save": _Due(lambda value: isinstance(value, list) and _names(value), "a list of texts"),
    "layers_to_transform": _Due(_numbers, "a number or a list of numbers"),
}
