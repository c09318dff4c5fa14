"""Writes an adapter as the folder that PEFT and the servers that read its adapters expect."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.numpy import save

from alpaca_jax.errors import UserError
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.adapter.peft import WEIGHTS, Peft
from alpaca_jax.formats.dtypes import finite
from alpaca_jax.formats.huggingface.export import to_json
from alpaca_jax.formats.writing import Partial, explained
from alpaca_jax.tokenizer import Tokenizer


def export(
    folder: Path,
    peft: Peft,
    tokenizer: Tokenizer,
    extra: Mapping[str, str] = MappingProxyType({}),
    plan: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes `folder` (absent or empty until then), whole or not at all: adapter_config.json, its tensors, tokenizer, `extra` files.

    A UserError where a tensor is not finite, or the disk has no room.
    """
    tensors = {name: peft.load(name, ()) for name in peft.stored}
    for name, tensor in tensors.items():
        if not finite(tensor):
            raise UserError(f"{peft.where}: {name} holds NaN or infinities; give an earlier checkpoint")
    files = {WEIGHTS: save(tensors, metadata={"format": "pt"}), adapter_config.FILE: to_json(dict(peft.config)).encode()}
    files |= {**tokenizer.files(), **{name: text.encode() for name, text in extra.items()}}
    partial = Partial(folder, dict(plan), sum(map(len, files.values())))
    with explained(folder):
        for name, content in files.items():
            (partial.folder / name).write_bytes(content)
    partial.finish()
