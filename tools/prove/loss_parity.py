"""Does packing change the training? 50 steps of 128 Alpaca examples: ours packed, ours padded, and transformers + torch.

A small LLaMA with random weights, exported to transformers by `formats.huggingface.export`, takes the same examples in the same steps
three times, with the same masks, summed losses over the global count of targets, AdamW, clipping at 1.0 and a cosine with warm-up.
The three curves must agree to 1e-3; the final weights are compared. Exits 1 if they don't agree. The vocabulary consists of LLaMA's
tokens in these records, renumbered: on a CPU the rows of the other tokens would be most of the work, and no example uses them.

A second comparison shows what the published script would have done instead: masks by the length of a separately tokenized prompt, and
the mean of each micro-batch of 4 before the mean over the step. Both are our packed step with other masks and weights.
Plots both into --output. Run from the root: python -m tools.prove.loss_parity
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import jax
import numpy as np
import torch
import transformers

from alpaca_jax import records
from alpaca_jax.data import example, template
from alpaca_jax.data.config import BatchConfig
from alpaca_jax.data.example import Example, Examples
from alpaca_jax.data.pack import Batch, collate
from alpaca_jax.data.pipeline import Batches, make_batches
from alpaca_jax.formats import names
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.huggingface import reader as huggingface
from alpaca_jax.formats.model import in_memory
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import unflatten
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives.sft import response_loss
from alpaca_jax.trainer.optimizer import OptimizerConfig
from tools.benchmark import alpaca, turns
from tools.prove import curves, parity

TOLERANCE = 1e-3  # of a step's loss
WEIGHTS_TOLERANCE = 1e-2  # of the final weights: the norm of their difference over the norm of their movement in training
THEIR_BATCH = 4


def main() -> None:
    """Runs the three, compares them, runs the two variants, plots, and exits 1 if they don't agree."""
    arguments = parse()
    tokenizer = Tokenizer.load(alpaca.folder() / alpaca.TOKENIZER)
    ours, published, held = examples_of(tokenizer, arguments)
    vocabulary = np.unique(np.concatenate([ours.ids, held.ids, *(each.ids for each in published)]))
    ours, held = (dataclasses.replace(each, ids=renumbered(each.ids, vocabulary)) for each in (ours, held))
    published = [dataclasses.replace(each, ids=renumbered(each.ids, vocabulary)) for each in published]
    a = Architecture(
        vocab_size=len(vocabulary),
        hidden_size=arguments.width,
        intermediate_size=2 * arguments.width,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=arguments.width // 4,
    )
    params = jax.tree.map(np.asarray, jax.jit(lambda key: llama.init(a, key))(jax.random.key(0)))
    config = OptimizerConfig(learning_rate=arguments.learning_rate, clip=1.0, schedule="cosine", warmup=0.1)

    results = three_ways(a, params, tokenizer, ours, config, arguments)
    agreed = compare(results, params)
    variants = as_published(a, params, ours, published, config, arguments)
    losses = held_out(a, {"ours": results["packed"][1]} | {name: after for name, (_, after) in variants.items()}, held, arguments.length)
    turns.table("held-out loss after the last step", ["", "nats a token"], [[name, f"{loss:.4f}"] for name, loss in losses.items()])

    if arguments.output:
        curves.draw_parity(arguments.output / "loss-parity.png", {name: each[0] for name, each in results.items()}, TOLERANCE)
        curves.draw_published(
            arguments.output / "loss-published.png", results["packed"][0], {name: each[0] for name, each in variants.items()}
        )
    sys.exit(0 if agreed else 1)


def parse() -> argparse.Namespace:
    """The sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--examples", type=int, default=128, help="a step")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--length", type=int, default=1024, help="slots of a packed row")
    parser.add_argument("--max-length", type=int, default=512, help="tokens of an example")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--output", type=Path, help="the folder for the two plots")
    return parser.parse_args()


def examples_of(tokenizer: Tokenizer, arguments: argparse.Namespace) -> tuple[Examples, list[Example], Examples]:
    """The training examples, the same with the published script's masks, and the examples of 256 further records."""
    number = arguments.steps * arguments.examples
    recipe = example.Recipe(template.get("alpaca", tokenizer), tokenizer, arguments.max_length)
    read = records.read(alpaca.folder() / alpaca.RECORDS).records[: number + 300]
    prompts = tokenizer.encode_batch([recipe.template.prompt(record.instruction, record.input) for record in read])
    usable = [record for record, ids in zip(read, prompts, strict=True) if len(ids) + 1 < arguments.max_length][: number + 256]
    ours, counts = example.tokenize(usable[:number], recipe)
    held, _ = example.tokenize(usable[number:], recipe)
    published = [masked_by_length(record, recipe) for record in usable[:number]]
    differ = sum(not np.array_equal(mine.learnt, theirs.learnt) for mine, theirs in zip(ours.take(range(number)), published, strict=True))
    turns.console.print(
        f"{counts.kept} examples of {counts.tokens:,} tokens; the published masks differ on {differ} ({differ / number:.1%})"
    )
    assert counts.kept == number
    return ours, published, held


def masked_by_length(record: records.Record, recipe: example.Recipe) -> Example:
    """The published script's example: prompt and response tokenized as one text, masked by the length of the prompt tokenized alone."""
    tokenizer, prompt = recipe.tokenizer, recipe.template.prompt(record.instruction, record.input)
    start = [tokenizer.bos_id] if tokenizer.adds_bos else []
    ids = [*start, *tokenizer.encode(prompt + record.output), tokenizer.eos_id][: recipe.max_length]
    return Example.answering(np.array(ids, np.int32), min(len(start) + len(tokenizer.encode(prompt)), len(ids)))


def renumbered(ids: np.ndarray, vocabulary: np.ndarray) -> np.ndarray:
    """The ids as positions in a sorted vocabulary, int32."""
    return np.searchsorted(vocabulary, ids).astype(np.int32)


def three_ways(
    a: Architecture, params: Any, tokenizer: Tokenizer, examples: Examples, config: OptimizerConfig, arguments: argparse.Namespace
) -> dict[str, tuple[list[float], Any]]:
    """The losses and final params of each variant."""
    buckets = tuple(range(64, arguments.max_length, 64))
    packed = make_batches(examples, BatchConfig(examples=arguments.examples, sequence_length=arguments.length), seed=0)
    padding = BatchConfig(examples=arguments.examples, sequence_length=arguments.max_length, packing="none", buckets=buckets)
    padded = make_batches(examples, padding, seed=0)
    steps = range(arguments.steps)
    assert packed.steps_per_epoch == padded.steps_per_epoch == arguments.steps
    assert all(np.array_equal(np.sort(packed.indices(step)), np.sort(padded.indices(step))) for step in steps)

    def ours(batches: Batches, name: str, microbatches: int) -> tuple[list[float], Any]:
        stream = (batches.batch(step) for step in steps)
        return parity.our_losses(a, params, stream, config, arguments.steps, microbatches, print_every_tenth(name))

    results = {"packed": ours(packed, "ours, packed", 1), "padded": ours(padded, "ours, padded", max(1, arguments.examples // 16))}
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        huggingface_export.export(Path(folder) / "first", in_memory(a, tokenizer, params))
        model = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "first", dtype=torch.float32).train()
        torch.set_num_threads(turns.num_cores())
        steps_of = (examples.take(packed.indices(step).tolist()) for step in steps)
        losses = parity.their_losses(model, steps_of, config, arguments.steps, THEIR_BATCH, print_every_tenth("transformers + torch"))
        model.save_pretrained(Path(folder) / "last")
        tokenizer.save(Path(folder) / "last")
        results["torch"] = (losses, weights_in(Path(folder) / "last"))
    return results


def weights_in(folder: Path) -> Any:
    """The weights of a transformers folder, read as our params."""
    source = huggingface.open_folder(folder)
    return unflatten({path: source.read(path) for path in names.weights(source.architecture)})


def compare(results: dict[str, tuple[list[float], Any]], start: Any) -> bool:
    """Whether the curves and the final weights agree; prints the differences."""
    reference, after = results["torch"]
    agreed, rows = True, []
    for name in ("packed", "padded"):
        losses, params = results[name]
        curve, weights = parity.relative(losses, reference).max(), parity.distances(params, after, start)
        fine = curve < TOLERANCE and weights["difference / movement"] < WEIGHTS_TOLERANCE
        agreed &= bool(fine)
        rows.append([f"ours, {name}", f"{curve:.1e}", *(f"{each:.1e}" for each in weights.values()), "yes" if fine else "NO"])
    columns = ["against transformers + torch", "loss, largest relative difference", *weights, "agrees"]
    turns.table(f"{len(reference)} steps, loss {reference[0]:.4f} to {reference[-1]:.4f}", columns, rows)
    return agreed


def as_published(
    a: Architecture, params: Any, examples: Examples, published: list[Example], config: OptimizerConfig, arguments: argparse.Namespace
) -> dict[str, tuple[list[float], Any]]:
    """The losses and final params with the published masks, and with the published masks and means."""
    batches = make_batches(examples, BatchConfig(examples=arguments.examples, sequence_length=arguments.length), seed=0)

    def batch_of(step: int, means: bool) -> Batch:
        indices = np.random.default_rng([1, step]).permutation(batches.indices(step))
        return weighted([published[index] for index in indices], batches.rows + 1, arguments.length, means)

    results = {}
    for name, means in (("masks by length", False), ("masks by length, mean of each 4", True)):
        stream = (batch_of(step, means) for step in range(arguments.steps))
        results[name] = parity.our_losses(a, params, stream, config, arguments.steps, progress=print_every_tenth(name))
    return results


def weighted(examples: Sequence[Example], rows: int, length: int, means: bool) -> Batch:
    """The packed batch; with `means`, a token's weight is one over the targets of its micro-batch of 4, so that the loss is their mean."""
    if not means:
        return collate(examples, rows, length)
    scaled = []
    for first in range(0, len(examples), THEIR_BATCH):
        some = examples[first : first + THEIR_BATCH]
        targets = max(1, sum(int(each.learnt.sum()) for each in some))
        scaled += [Example(each.ids, each.learnt.astype(np.float32) / targets) for each in some]
    return collate(scaled, rows, length)


def held_out(a: Architecture, models: dict[str, Any], held: Examples, length: int) -> dict[str, float]:
    """The loss of each model on unseen examples, with equal weight for each token."""
    everything = held.take(range(len(held)))
    rows = -(-2 * int(held.lengths.sum()) // length)
    batch = collate(everything, rows, length)
    loss = jax.jit(lambda params, part: response_loss(Forward(a), params, part))
    losses = {}
    for name, params in models.items():
        sums = [loss(params, {key: value[row : row + 1] for key, value in batch.items()}) for row in range(rows)]
        losses[name] = float(sum(total for total, _ in sums) / sum(targets for _, targets in sums))
    return losses


def print_every_tenth(name: str) -> Callable[[int, float], None]:
    """Prints a line every tenth step."""
    start = time.perf_counter()

    def progress(step: int, loss: float) -> None:
        if (step + 1) % 10 == 0 or step == 0:
            turns.console.print(f"{name}: step {step + 1}, loss {loss:.4f}, {time.perf_counter() - start:.1f} s")

    return progress


if __name__ == "__main__":
    main()
