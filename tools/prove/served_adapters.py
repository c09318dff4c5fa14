"""Do several adapters over one base answer as their merged models, in the memory of one model? SmolLM2-135M, fp32, four of rank 16.

The adapters change every matrix of the layers by random arrays; one is a DoRA. For each, the greedy answer to a prompt is compared with
that of the model into which it is merged, while all are decoded together. Then 8 rows are decoded in turns by the plain base, by the base
with the adapters for rows that have none, and for rows that have different ones. Run from the root: python -m tools.prove.served_adapters
"""

import functools
import os
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.generation import Options
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.weights import Weights
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.adapter import export, reader, trained
from alpaca_jax.formats.adapter.settings import AdapterConfig
from alpaca_jax.formats.adapter.targets import plan
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model import adapter as adapters
from alpaca_jax.model import llama
from alpaca_jax.model.tree import Path as WeightPath
from alpaca_jax.model.tree import map_with_path
from alpaca_jax.serve import models
from alpaca_jax.sharding import Layout
from tools.benchmark import turns

SETTINGS = {f"lora{number}": AdapterConfig(rank=16, alpha=32.0) for number in range(3)} | {"dora": AdapterConfig(rank=16, dora=True)}
ROWS, TOKENS, TURNS = 8, 32, 3
QUESTION = "What is the capital of France?"


def main() -> None:
    """Compares the answers, prints bytes and tokens a second, and fails where an answer is another one."""
    base = pretrained.open("smollm2-135m-instruct")
    program = Program.on(base.architecture, Layout.of_one_device(), "float32")
    plain = loaded(base, program)
    prompt = base.tokenizer.apply_chat([{"role": "user", "content": QUESTION}])
    with tempfile.TemporaryDirectory() as scratch:
        folders = {name: str(write(Path(scratch) / name, settings, base, seed)) for seed, (name, settings) in enumerate(SETTINGS.items())}
        opened = models.opened(folders, base, "base")
        besides = weights.beside(base.architecture, [one.served for one in opened], base.read, program.dtype, fused=True)
        several = weights.with_adapters(plain, besides)
        together = decode(Batch(program, several, ROWS), prompt, list(range(len(SETTINGS) + 1)))
        merged = [plain, *(loaded(reader.merge(Path(folder), base), program) for folder in folders.values())]
        for name, answer, own in zip(["base", *folders], together, merged, strict=True):
            [alone] = decode(Batch(program, own, ROWS), prompt, [0])
            turns.console.print(f"{name}: {base.tokenizer.decode(answer)!r}")
            assert answer == alone, (name, answer, alone)
        assert len({str(answer) for answer in together}) > 1
    turns.console.print(f"the base has {size(plain):,} bytes, with {len(SETTINGS)} adapters {size(several):,}")
    batches = {"base": Batch(program, plain, ROWS), "with adapters": Batch(program, several, ROWS)}
    numbers = [row % (len(SETTINGS) + 1) for row in range(ROWS)]
    timed = {
        "base": lambda: decode(batches["base"], prompt, [0] * ROWS),
        "adapters, none used": lambda: decode(batches["with adapters"], prompt, [0] * ROWS),
        "adapters, mixed": lambda: decode(batches["with adapters"], prompt, numbers),
    }
    for name, rate in turns.rates(turns.in_turns(timed, TURNS), ROWS * TOKENS).items():
        turns.console.print(f"{name}: {rate:.1f} tokens/s")


def loaded(model: Pretrained, program: Program) -> Weights:
    """The weights in the CPU's layout."""
    return weights.fused(model.architecture, functools.partial(pretrained.read_weight, model), program.dtype, threads=2)


def write(folder: Path, settings: AdapterConfig, base: Pretrained, seed: int) -> Path:
    """A PEFT folder with random arrays, the DoRA's magnitudes near the norms of the base."""
    random, adapter = np.random.default_rng(seed), plan(settings, base.architecture)

    def draw(path: WeightPath, spec: llama.WeightSpec) -> np.ndarray:
        if path[-1] != "magnitude":
            return random.normal(0, 0.05 if path[-1] == "down" else 0.004, spec.shape).astype(np.float32)
        weight = np.asarray(base.read(path[:-1], ()), np.float32)
        return np.sqrt(np.square(weight).sum(tuple(range(1, 1 + weight.ndim - len(spec.shape))))).astype(np.float32)

    arrays = map_with_path(draw, adapters.specs(adapter, llama.specs(base.architecture)))
    export.export(folder, trained.as_peft(folder, arrays, settings, base.architecture, base.source), base.tokenizer)
    return folder


def decode(batch: Batch, prompt: list[int], adapters: list[int]) -> list[list[int]]:
    """The greedy answers of the given adapters to one prompt, decoded together."""
    generations = [batch.admit(prompt, Options(TOKENS, adapter=number)) for number in adapters]
    while batch.step():
        pass
    return [[token.id for token in generation.tokens] for generation in generations]


def size(own: Weights) -> int:
    """Bytes of the arrays, each counted once."""
    arrays = {id(leaf): leaf.nbytes for leaf in jax.tree.leaves(own) if isinstance(leaf, jax.Array)}
    return sum(arrays.values())


if __name__ == "__main__":
    main()
