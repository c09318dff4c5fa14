"""How many real (non-pad) tokens per second does Alpaca training process? 128 examples a step, SmolLM2-135M's shape, fp32, cut at 512.

Ours packs the step's examples into rows; transformers + torch (eager, sdpa) pads them to the longest of 4 and, as a second peer, to the
longest of the 128. A whole step takes minutes on a CPU, so each turn times a sample of it, forward and backward:
- ours: some microbatches of a real step's packed rows. All rows have the same length, so the step's cost is proportional.
- longest of 4: microbatches of a shuffle's steps, at evenly spaced quantiles of their length, so that they represent all.
- longest of 128: microbatches of the step whose longest example has the median length; all its rows have the same length.
The optimizer's update is timed separately and charged once a step. Finally prints one JSON line; `peer` is the longest of 4. Run from the
root: python -m tools.benchmark.real_tokens
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import jax
import jax.numpy as jnp
import numpy as np
import torch

from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Examples
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.trainer.objectives.sft import response_loss
from alpaca_jax.trainer.optimizer import OptimizerConfig
from tools.benchmark import alpaca, ours, shapes, theirs, turns

EXAMPLES, MICROBATCH = 128, 4
CONFIG = OptimizerConfig(learning_rate=2e-5, schedule="constant", warmup=0.0)


class Contestant:
    """Microbatches to time, and the step they represent: it costs `parts` mean microbatches and one update, and processes `tokens`."""

    def __init__(self, gradient: Callable[[int], None], update: Callable[[], None], sample: int, parts: float, tokens: float) -> None:
        self.gradient, self.update, self.sample, self.parts, self.tokens = gradient, update, sample, parts, tokens

    def run(self) -> None:
        """Runs forward and backward on the whole sample."""
        for index in range(self.sample):
            self.gradient(index)

    def rate(self, seconds: list[float], update_seconds: list[float]) -> float:
        """The real tokens per second of a whole step, from the median turn."""
        return self.tokens / (statistics.median(seconds) / self.sample * self.parts + statistics.median(update_seconds))


def main() -> None:
    """Times the three alternately and prints the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=shapes.SHAPES, default="smollm2")
    parser.add_argument("--length", type=int, default=512, help="slots of our rows")
    parser.add_argument("--rows", type=int, default=3, help="rows of one of our microbatches; 33 hold a step at 512")
    parser.add_argument("--remat", default="minimal")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--records", type=int, help="only this many")
    parser.add_argument("--sample", type=int, default=2, help="microbatches per turn, ours and longest of 4; longest of 128: one")
    arguments = parser.parse_args()
    architecture = shapes.SHAPES[arguments.shape]
    examples = alpaca.examples(max_length=min(512, arguments.length), limit=arguments.records)

    contestants = {"ours": packed(architecture, examples, arguments)}
    model = theirs.llama(architecture)
    optimizer = torch.optim.AdamW(model.parameters(), lr=CONFIG.learning_rate, weight_decay=0.0)
    contestants |= {name: padded(model, optimizer, examples, per_step, arguments.sample) for name, per_step in PADDING.items()}
    seconds = turns.in_turns({name: each.run for name, each in contestants.items()}, arguments.turns)
    updates = turns.in_turns({f"update of {name}": each.update for name, each in contestants.items()}, arguments.turns)

    speeds = {name: each.rate(seconds[name], updates[f"update of {name}"]) for name, each in contestants.items()}
    report(speeds, contestants, seconds, updates)
    mine, four, all_of_them = speeds.values()
    packages = ("jax", "flax", "optax", "torch", "transformers")
    more = {"longest_of_128": round(all_of_them, 1), "ratio_to_longest_of_128": round(mine / all_of_them, 3)}
    more |= {"shape": arguments.shape, "length": arguments.length, "rows": arguments.rows, "turns": arguments.turns}
    print(turns.result("real_tokens", mine, four, "real tokens/s", packages, **more))


PADDING = {"longest of 4": False, "longest of 128": True}


def packed(architecture: Architecture, examples: Examples, arguments: argparse.Namespace) -> Contestant:
    """Ours: rows of packed examples, with gradients summed over microbatches of rows as in the step's scan."""
    config = BatchConfig(examples=EXAMPLES, sequence_length=arguments.length)
    batches = make_batches(examples, config, seed=0, multiple=arguments.rows)
    turns.console.print(f"ours: {batches.rows} rows of {arguments.length} a step, {batches.fill(0):.1%} full")
    run = ours.assemble(architecture, CONFIG, 100, remat=arguments.remat)
    whole, number = batches.batch(0), batches.rows // arguments.rows
    chosen = np.linspace(0, number - 1, arguments.sample).round().astype(int) * arguments.rows
    sample = [run.put({name: part[row : row + arguments.rows] for name, part in whole.items()}) for row in chosen]

    def loss(params: dict, batch: dict) -> tuple[jax.Array, jax.Array]:
        return response_loss(run.forward, params, batch)

    def add(total: dict, params: dict, batch: dict) -> dict:
        return jax.tree.map(jnp.add, total, jax.value_and_grad(loss, has_aux=True)(params, batch)[1])

    def move(params: dict, opt_state: dict, grads: dict) -> tuple:
        grads = jax.tree.map(lambda grad: grad / batches.config.examples, grads)
        updates, opt_state = run.assembly.optimizer.update(grads, opt_state, params)
        return jax.tree.map(jnp.add, params, updates), opt_state, grads

    add, move = jax.jit(add, donate_argnums=0), jax.jit(move, donate_argnums=(0, 1, 2))
    state = [run.state.trained, run.state.opt_state, jax.jit(lambda tree: jax.tree.map(jnp.zeros_like, tree))(run.state.trained)]

    def gradient(index: int) -> None:
        state[2] = jax.block_until_ready(add(state[2], state[0], sample[index]))

    def update() -> None:
        state[:] = jax.block_until_ready(move(*state))

    tokens = float((whole["segments"] > 0).sum())
    return Contestant(gradient, update, len(sample), batches.rows / arguments.rows, tokens)


def padded(model: torch.nn.Module, optimizer: torch.optim.Optimizer, examples: Examples, whole_step: bool, number: int) -> Contestant:
    """A peer: microbatches of 4 rows, as long as the longest of them or (`whole_step`) of the step's 128 examples."""
    torch.set_num_threads(turns.num_cores())
    steps = len(examples) // EXAMPLES
    order = np.random.default_rng(0).permutation(len(examples))[: steps * EXAMPLES].reshape(steps, EXAMPLES // MICROBATCH, MICROBATCH)
    lengths = examples.lengths[order]  # [step, microbatch, row]
    if whole_step:
        step = np.argsort(lengths.max(axis=(1, 2)), kind="stable")[steps // 2]
        places, longest, tokens = [(step, 0)], int(lengths[step].max()), float(lengths[step].sum())
        slots = EXAMPLES * longest
    else:
        by_length = np.argsort(lengths.max(axis=2), axis=None, kind="stable")
        quantiles = (np.arange(number) + 0.5) / number * len(by_length)
        places, longest = [np.unravel_index(by_length[int(at)], lengths.shape[:2]) for at in quantiles], None
        tokens, slots = float(lengths.sum() / steps), float(lengths.max(axis=2).sum() * MICROBATCH / steps)
    microbatches = [theirs.padded(examples.take(order[place].tolist()), longest) for place in places]
    turns.console.print(f"longest of {EXAMPLES if whole_step else MICROBATCH}: {slots:,.0f} slots a step, {tokens / slots:.1%} full")

    def gradient(index: int) -> None:
        theirs.summed_loss(model, microbatches[index]).backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    sampled = sum(microbatch[0].numel() for microbatch in microbatches)
    return Contestant(gradient, update, len(microbatches), slots / (sampled / len(microbatches)), tokens)


def report(speeds: dict[str, float], contestants: dict[str, Contestant], seconds: dict, updates: dict) -> None:
    """Prints the measurements and the resulting figures of a step."""
    rows = []
    for name, each in contestants.items():
        part, update = statistics.median(seconds[name]) / each.sample, statistics.median(updates[f"update of {name}"])
        rows.append([name, f"{part:.2f}", f"{each.parts:.1f}", f"{update:.2f}", f"{each.tokens:,.0f}", f"{speeds[name]:.1f}"])
    turns.table(f"a step of {EXAMPLES} examples", ["", "s a microbatch", "microbatches", "s the update", "tokens", "tokens/s"], rows)


if __name__ == "__main__":
    main()
