"""Which matrices of an architecture the settings of an adapter mean, by the names that Hugging Face and PEFT give them."""

from collections.abc import Mapping, Sequence
from typing import Any

from alpaca_jax.config import suggestion
from alpaca_jax.errors import UserError
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.adapter import patterns
from alpaca_jax.formats.adapter.settings import ALL, AdapterConfig
from alpaca_jax.formats.names import Weight, weights
from alpaca_jax.model.adapter import Adapter, Change
from alpaca_jax.model.architecture import Architecture

TABLES = ("model.embed_tokens", "lm_head")


def plan(config: AdapterConfig, architecture: Architecture) -> Adapter:
    """The adapter that these settings describe: for each matrix that it changes, the rank and the scale in every layer.

    A UserError where a target or a pattern matches nothing, a table is a target, or a rank is above the smaller side of its matrix.
    """
    modules = {name: matrix for matrix in matrices(architecture) for name in names(matrix)}
    peft = peft_settings(config)
    chosen = set(_chosen(config, peft, list(modules)))
    for key in ("rank_pattern", "alpha_pattern"):
        _check_patterns(key, getattr(config, key), chosen)
    _check_ranks(peft, {name: modules[name] for name in modules if name in chosen})
    changes = []
    for matrix in matrices(architecture):
        own = [adapter_config.rank_and_scale(peft, name) if name in chosen else (0, 0.0) for name in names(matrix)]
        if any(rank for rank, _ in own):
            ranks, scales = zip(*own, strict=True)
            changes.append((matrix.name.path, Change(ranks, scales)))
    return Adapter(tuple(changes), dora=config.dora, dropout=config.dropout)


def matrices(architecture: Architecture) -> list[Weight]:
    """The weights that an adapter can change: the matrices of the layers."""
    known = weights(architecture).values()
    return [weight for weight in known if weight.name.stacked and weight.name.inputs]


def names(matrix: Weight) -> list[str]:
    """The module's name at Hugging Face in each layer, such as `model.layers.0.self_attn.q_proj`."""
    return [name.removesuffix(".weight") for name, _ in matrix.tensors("huggingface")]


def peft_settings(config: AdapterConfig) -> dict[str, Any]:
    """These settings under the keys of PEFT's adapter_config.json."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": config.targets if isinstance(config.targets, str) else list(config.targets),
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "lora_dropout": config.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def saved_settings(config: AdapterConfig, architecture: Architecture, base: str | None) -> dict[str, Any]:
    """The content of adapter_config.json for an adapter of `base`.

    The names of the changed modules take the place of a pattern: in PEFT it would match other modules too, such as activations.
    """
    settings = peft_settings(config) | {"base_model_name_or_path": base}
    if isinstance(config.targets, str):
        modules = [name for matrix in matrices(architecture) for name in names(matrix)]
        chosen = adapter_config.targets(settings, modules)
        ends = sorted({name.rpartition(".")[2] for name in chosen})
        whole = len(chosen) == len(ends) * architecture.num_layers
        settings["target_modules"] = ends if whole else chosen
    if config.alpha.is_integer():
        settings["lora_alpha"] = int(config.alpha)
    return settings


def _chosen(config: AdapterConfig, peft: Mapping[str, Any], modules: Sequence[str]) -> list[str]:
    given = [config.targets] if isinstance(config.targets, str) else list(config.targets)
    kinds = sorted({name.rpartition(".")[2] for name in modules})
    with patterns.named("adapter.targets"):
        for one in given if config.targets != ALL else ():
            settings = {**peft, "target_modules": one if isinstance(config.targets, str) else [one]}
            if tables := adapter_config.targets(settings, TABLES):
                raise UserError(
                    f"{one} is a table ({tables[0]}), which gets no low-rank change here: the embedding and the output may "
                    f"be one weight, and programs disagree on what its adapter means; give matrices of the layers ({', '.join(kinds)})"
                )
            if not adapter_config.targets(settings, modules):
                remedy = suggestion(one, kinds) or f"; the matrices of each layer are {', '.join(kinds)}, as in {modules[0]}"
                raise UserError(f"{one} matches no matrix of the model{remedy}")
        return adapter_config.targets(peft, modules)


def _check_patterns(key: str, given: Mapping[str, Any], chosen: set[str]) -> None:
    with patterns.named(f"adapter.{key}"):
        for pattern in given:
            if not any(adapter_config.ends_with(pattern, name) for name in chosen):
                kinds = sorted({name.rpartition(".")[2] for name in chosen})
                remedy = suggestion(pattern, kinds) or f"; they end in {', '.join(kinds)}"
                raise UserError(f"{pattern} matches the end of no target{remedy}")


def _check_ranks(peft: Mapping[str, Any], modules: Mapping[str, Weight]) -> None:
    """A rank above the smaller side costs more than the matrix itself, and changes nothing more."""
    problems: dict[str, str] = {}  # one for each kind of matrix
    for name, matrix in modules.items():
        rank, _ = adapter_config.rank_and_scale(peft, name)
        shape = matrix.name.their_shape(matrix.layer_shape)
        if rank > min(shape):
            problems.setdefault(matrix.name.huggingface, f"{name} is {shape[0]:,} x {shape[1]:,}, and its rank {rank:,}")
    if problems:
        raise UserError(
            "adapter.rank is above the smaller side of a matrix: give a smaller one, or one for these matrices in adapter.rank_pattern:\n  "
            + "\n  ".join(problems.values())
        )
