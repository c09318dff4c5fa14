"""How far smaller students are from their teacher: size, decoding speed, loss, KL and agreement on held-out texts, as one table and page.

    python -m tools.prove.compression --records runs/laptop_compress/records --output PAGE.html \
        --student 'without 6: {keep_layers: "drop 6, chosen"}' --student 'distilled: {source: runs/laptop_compress/train}'

A student is a name and settings of the group `model`; without a source it is a part of the teacher. The held-out texts are those of a
training run with the same --records, --heldout and --max-length in the teacher's own template. Speed is that of one greedy sequence.
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from alpaca_jax import report
from alpaca_jax.config import parse
from alpaca_jax.data import builder
from alpaca_jax.data.config import DataConfig
from alpaca_jax.data.pack import Batch
from alpaca_jax.data.pipeline import heldout_batches
from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch as Decoding
from alpaca_jax.decode.program import Program
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model.llama import Params
from alpaca_jax.report import Section, Series, Table
from alpaca_jax.sharding import Layout, MeshConfig, make_mesh
from alpaca_jax.trainer.divergence import Rule
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives.distill import compared
from alpaca_jax.trainer.signal import Exact

HEAD = ["", "layers", "M weights", "MB in fp32", "tokens/s", "loss", "KL", "same top token"]
ROWS = 4
PROMPT, NEW, TURNS = "How do plants make their food?", 64, 3


@dataclasses.dataclass(frozen=True)
class Measured:
    """One student on the held-out texts, in nats a response token."""

    name: str
    layers: int
    weights: int
    speed: float  # tokens a second
    loss: float
    kl: float
    agreement: float

    @property
    def row(self) -> list[str]:
        """Its line of the table."""
        size = [str(self.layers), f"{self.weights / 1e6:.1f}", f"{4 * self.weights / 1e6:.0f}", f"{self.speed:.1f}"]
        return [self.name, *size, f"{self.loss:.3f}", f"{self.kl:.3f}", f"{self.agreement:.3f}"]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """What the teacher says of each held-out batch."""

    batches: list[Batch]
    hidden: list[jax.Array]
    head: jax.Array


def listen(model: Pretrained, params: Params, batches: list[Batch]) -> Teacher:
    """The teacher's hidden states of all batches."""
    forward = Forward(model.architecture)
    run = jax.jit(lambda params, batch: forward.hidden(params, batch))
    return Teacher(batches, [run(params, batch) for batch in batches], forward.head(params))


def measure(name: str, model: Pretrained, params: Params, teacher: Teacher) -> Measured:
    """The figures of one student."""
    forward = Forward(model.architecture)

    @jax.jit
    def sums(params: Params, batch: Batch, hidden: jax.Array, head: jax.Array) -> jax.Array:
        _, figures = compared(forward, params, Exact((hidden,), (head,)), batch, Rule(), model.architecture.vocab_size)
        of_token = (figures.cross_entropy, figures.divergence, figures.agreement, jnp.ones_like(batch["weights"]))
        return jnp.stack([(values * batch["weights"]).sum() for values in of_token])

    each = [sums(params, batch, hidden, teacher.head) for batch, hidden in zip(teacher.batches, teacher.hidden, strict=True)]
    loss, kl, agreement, tokens = np.sum([np.float64(one) for one in each], axis=0)
    a = model.architecture
    return Measured(name, a.num_layers, a.num_parameters, speed(model, params), loss / tokens, kl / tokens, agreement / tokens)


def speed(model: Pretrained, params: Params) -> float:
    """Tokens a second of one greedy sequence, the fastest of a few turns."""
    layout = Layout(make_mesh(MeshConfig(data=1)), MeshConfig(data=1))
    batch = Decoding(Program.on(model.architecture, layout, "float32"), weights.of_run(params), slots=1)
    prompt, best = model.tokenizer.encode(PROMPT), float("inf")
    for _ in range(TURNS + 1):  # the first compiles
        start = time.perf_counter()
        batch.generate([prompt], NEW)
        best = min(best, time.perf_counter() - start)
    return NEW / best


def page(found: Sequence[Measured], where: str) -> str:
    """The table, with KL and agreement against the number of layers."""
    layers = [one.layers for one in found]
    curves = [
        report.plot([Series(label, layers, values, style="points")], "layers", label, zero=True)
        for label, values in (("KL to the teacher", [one.kl for one in found]), ("same top token", [one.agreement for one in found]))
    ]
    sections = [
        Section("Students", [Table(HEAD, [one.row for one in found], range(1, len(HEAD)))], "Nats a response token of held-out texts."),
        Section("Against layers", [report.Pair(curves)]),
    ]
    return report.render("A model made smaller", where, sections)


def main() -> None:
    """Measures the teacher and each student, one at a time, and prints the table as it grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="smollm2-135m-instruct")
    parser.add_argument("--records", required=True)
    parser.add_argument("--heldout", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--cache")
    parser.add_argument("--student", action="append", default=[])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    model = pretrained.open(given.teacher)
    settings: dict[str, Any] = {"records": given.records, "template": "chat", "heldout": given.heldout, "max_length": given.max_length}
    data = parse(DataConfig, settings | ({} if given.cache is None else {"cache": given.cache}))
    examples = builder.load_examples(data, given.records, model.tokenizer).examples["heldout"]
    params = pretrained.load_params(model)
    teacher = listen(model, params, heldout_batches(examples, ROWS, given.max_length))
    print(f"| {' | '.join(HEAD)} |\n|{' --- |' * len(HEAD)}", flush=True)
    found = [measure("the teacher", model, params, teacher)]
    print(f"| {' | '.join(found[-1].row)} |", flush=True)
    del params
    for text in given.student:
        ((name, part),) = yaml.safe_load(text).items()
        student = pretrained.open(parse(ModelConfig, {"source": given.teacher} | part))
        found.append(measure(name, student, pretrained.load_params(student), teacher))
        print(f"| {' | '.join(found[-1].row)} |", flush=True)
    if given.output is not None:
        given.output.write_text(page(found, f"{given.teacher}, {len(examples)} held-out texts"), encoding="utf-8")


if __name__ == "__main__":
    main()
