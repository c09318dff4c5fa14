"""Compares two models by their logits on fixed prompts, computed layer by layer, so that neither has to fit into memory."""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from rich.table import Table

from alpaca_jax.convert import outputs
from alpaca_jax.convert.config import Config
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.adapter import config as adapter_config
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import weights
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.norm import rms_norm
from alpaca_jax.model.tree import unflatten
from alpaca_jax.terminal import Console

PROMPTS = (
    "The capital of France is",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nGive three tips for staying healthy.\n\n### Response:\n",
    'def area(radius: float) -> float:\n    """The area of a circle, 3.14159 * r**2; Größe, 面積."""\n    return',
)
ROWS = 1 << 13  # rows of the output table in one product


@dataclasses.dataclass(frozen=True)
class Difference:
    """Between two sets of logits: the largest difference, and at how many of the tokens both predict the same next token."""

    largest: float
    same: int
    tokens: int


def compare(config: Config, source: Pretrained, target: Path) -> None:
    """Prints the difference of the target's logits from the source's, and from those of `transformers` where it is installed.

    A UserError where source and target differ although no value was rounded.
    """
    result = pretrained.open(ModelConfig(source=str(target), cache=config.cache, tokenizer=config.tokenizer))
    batch = _batch(source)
    ours = logits(result, *batch)
    rows = {"source": difference(logits(source, *batch), ours, batch[1])}
    theirs = _by_transformers(config, result, batch[0], batch[1])
    if isinstance(theirs, np.ndarray):
        rows["result, by transformers"] = difference(theirs, ours, batch[1])
    table = Table("result against", "largest difference of a logit", "same next token", title="verify", title_justify="left")
    for name, row in rows.items():
        table.add_row(name, f"{row.largest:.2e}", f"{row.same} of {row.tokens}")
    Console(markup=False, emoji=False).print(table)
    if isinstance(theirs, str):
        Console(stderr=True, markup=False, emoji=False).print(theirs, highlight=False)
    if rows["source"].largest > 0 and not outputs.rounded(config, source):
        raise UserError(
            f"verify: {target} gives other logits than {config.source}, although no value was rounded: don't use it, and report this"
        )


def difference(one: np.ndarray, other: np.ndarray, segments_BT: np.ndarray) -> Difference:
    """Compares logits [B, T, V] at the slots that hold text."""
    one, other = one[segments_BT > 0], other[segments_BT > 0]
    return Difference(float(np.abs(one - other).max()), int((one.argmax(-1) == other.argmax(-1)).sum()), len(one))


def logits(model: Pretrained, tokens_BT: np.ndarray, segments_BT: np.ndarray, positions_BT: np.ndarray) -> np.ndarray:
    """fp32 logits [B, T, V], with one layer in memory at a time."""
    a, known = model.architecture, weights(model.architecture)
    rows = {token: model.read(("embed", "weight"), (slice(token, token + 1),))[0] for token in np.unique(tokens_BT).tolist()}
    x_BTD = jnp.asarray(np.array([[rows[token] for token in row] for row in tokens_BT.tolist()], np.float32))
    for number in range(a.num_layers):
        layer = {path[1:]: model.read(path, (slice(number, number + 1),))[0].astype(np.float32) for path in known if path[0] == "layers"}
        x_BTD = _layer(a.only(number), unflatten(layer), x_BTD, segments_BT, positions_BT)
    x_BTD = rms_norm(x_BTD, jnp.asarray(model.read(("norm", "scale")), jnp.float32), a.norm_eps)
    head = ("embed" if a.tie_embeddings else "head", "weight")
    pieces = (model.read(head, (slice(start, min(start + ROWS, a.vocab_size)),)) for start in range(0, a.vocab_size, ROWS))
    return np.concatenate([np.asarray(jnp.einsum("btd,vd->btv", x_BTD, piece.astype(np.float32))) for piece in pieces], axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def _layer(one: Architecture, layer: llama.Params, x_BTD: jax.Array, segments_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
    return llama.run_layer(one, 0, layer, x_BTD, segments_BT, positions_BT)


def _batch(model: Pretrained) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The prompts as rows: tokens, segments and positions, int32 [B, T]."""
    rows = [model.tokenizer.encode(prompt)[: model.architecture.max_positions] for prompt in PROMPTS]
    length = max(map(len, rows))
    tokens = np.array([row + [0] * (length - len(row)) for row in rows], np.int32)
    segments = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], np.int32)
    return tokens, segments, np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)


def _by_transformers(config: Config, result: Pretrained, tokens_BT: np.ndarray, segments_BT: np.ndarray) -> np.ndarray | str | None:
    """The logits of the result in `transformers`; in words, why there are none; None where it can't read the format."""
    if config.kind not in ("huggingface", "gguf") or (Path(config.target).expanduser() / adapter_config.FILE).is_file():
        return None
    if any(importlib.util.find_spec(name) is None for name in ("transformers", "torch")):
        return "transformers and torch are not installed: compared only here"
    needed = 1.5 * 4 * result.architecture.num_parameters
    if needed > (free := psutil.virtual_memory().available):
        return f"transformers would need {needed / 1e9:,.0f} GB of memory, and {free / 1e9:,.0f} GB are free: compared only here"
    import torch
    import transformers

    target = Path(config.target).expanduser()
    place = (target, {}) if target.is_dir() else (target.parent, {"gguf_file": target.name})
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(place[0], dtype=torch.float32, **place[1]).eval()
    with torch.no_grad():
        given = {
            "input_ids": torch.from_numpy(tokens_BT.astype(np.int64)),
            "attention_mask": torch.from_numpy(segments_BT.astype(np.int64)),
        }
        return model(**given).logits.numpy()[..., : result.architecture.vocab_size]
