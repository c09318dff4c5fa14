"""How fast is a training step? SmolLM2-135M's shape in fp32, 4 rows of 256 tokens, AdamW with clipping, against transformers + torch.

Both start from random weights of the same sizes and take whole steps (loss, gradients, clipping, update) in turns; the figure is tokens
a second of the median step. Prints one JSON line last. Run: python tools/benchmark/train_step.py
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import torch
import transformers

from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer import optimizer as optimizers
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.optimizer import OptimizerConfig
from alpaca_jax.trainer.step import make_step

ROWS, LENGTH = 4, 256
SMOLLM2 = Architecture(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    rope_theta=100000.0,
    tie_embeddings=True,
)


def main() -> None:
    """Times both, in turns, and prints the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    tokens = np.random.default_rng(0).integers(0, SMOLLM2.vocab_size, (ROWS, LENGTH + 1)).astype(np.int32)
    runs = {"ours": our_step(tokens), "peer": peer_step(tokens)}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, step in runs.items():
            start = time.perf_counter()
            loss = step()
            if turn:  # the first of each warms up
                seconds[name].append(time.perf_counter() - start)
            print(f"{name}: loss {loss:.4f}, {time.perf_counter() - start:.2f} s", flush=True)
    rates = {name: ROWS * LENGTH / statistics.median(taken) for name, taken in seconds.items()}
    line = {
        "name": "train_step",
        "ours": round(rates["ours"], 1),
        "peer": round(rates["peer"], 1),
        "ratio": round(rates["ours"] / rates["peer"], 3),
        "unit": "tokens/s",
        "hardware": f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}",
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "torch", "transformers")},
    }
    print(json.dumps(line))


def our_step(tokens: np.ndarray) -> Callable[[], float]:
    """A function that takes one step of ours and returns its loss."""
    config = MeshConfig()
    layout = Layout(make_mesh(config, jax.devices()[:1]), config)
    optimizer = optimizers.make(OptimizerConfig(learning_rate=1e-4, schedule="constant"), 100)
    places = states.shardings(llama.specs(SMOLLM2), optimizer, layout)
    params = jax.jit(lambda key: llama.init(SMOLLM2, key), out_shardings=places.params)(jax.random.key(0))
    state = [states.start(params, optimizer, places)]
    step = make_step(SMOLLM2, optimizer, layout, places, remat="minimal")
    ones = np.ones((ROWS, LENGTH), np.int32)
    batch = {
        "tokens": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "segments": ones,
        "positions": np.arange(LENGTH, dtype=np.int32) * ones,
        "weights": ones.astype(np.float32),
    }
    batch = jax.device_put(batch, layout.batch)

    def take() -> float:
        state[0], metrics = step(state[0], batch)
        jax.block_until_ready(state[0])
        return float(metrics["loss"])

    return take


def peer_step(tokens: np.ndarray) -> Callable[[], float]:
    """A function that takes one step of transformers + torch and returns its loss."""
    a = SMOLLM2
    config = transformers.LlamaConfig(
        vocab_size=a.vocab_size,
        hidden_size=a.hidden_size,
        intermediate_size=a.intermediate_size,
        num_hidden_layers=a.num_layers,
        num_attention_heads=a.num_heads,
        num_key_value_heads=a.num_kv_heads,
        head_dim=a.head_dim,
        rms_norm_eps=a.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": a.rope_theta},
        tie_word_embeddings=a.tie_embeddings,
        use_cache=False,
    )
    model = transformers.LlamaForCausalLM(config).float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0)
    inputs, targets = (torch.tensor(part, dtype=torch.long) for part in (tokens[:, :-1], tokens[:, 1:]))

    def take() -> float:
        optimizer.zero_grad(set_to_none=True)
        scores = model(input_ids=inputs).logits
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return take


if __name__ == "__main__":
    main()
