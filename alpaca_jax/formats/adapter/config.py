"""adapter_config.json, PEFT's description of an adapter."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import read_json

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


def read(folder: Path) -> dict[str, Any]:
    """Returns the content of the file; a UserError where PEFT didn't write it."""
    config = read_json(folder / FILE)
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise UserError(f"{folder / FILE} was not written by PEFT: it has no peft_type; download it again")
    return config


def check(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises a UserError that names the settings which can't be merged."""
    if config["peft_type"] != "LORA":
        raise UserError(f"{folder / FILE}: an adapter of the kind {config['peft_type']}; only LORA is supported")
    other = [f"{key}={config[key]!r}" for key, plain in PLAIN.items() if (config.get(key) or plain) != plain]
    if str(config.get("init_lora_weights")).startswith(INITS):
        other.append(f"init_lora_weights={config['init_lora_weights']!r}")
    if other:
        raise UserError(
            f"{folder / FILE} has {', '.join(other)}, which is not supported; merge it with PEFT (merge_and_unload), and give the result"
        )
    for key, kinds in (("r", int), ("lora_alpha", int | float)):
        if not isinstance(config.get(key), kinds) or config[key] <= 0:
            raise UserError(f"{folder / FILE}: {key} is {config.get(key)!r}, and should be a number above 0; download it again")


def rank_and_scale(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """Returns the rank of a module's change (by its name at Hugging Face), and the factor of B A."""
    rank = _of(config.get("rank_pattern"), module, config["r"])
    alpha = _of(config.get("alpha_pattern"), module, config["lora_alpha"])
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the name, as in PEFT."""
    return next((value for pattern, value in (patterns or {}).items() if re.match(rf"(.*\.)?({pattern})$", module)), default)
