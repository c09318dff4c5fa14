"""The training loop: step after step, with what happens between two of them."""

import dataclasses
import importlib.metadata
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape

import alpaca_jax
from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.config import to_mapping
from alpaca_jax.data.pack import Batch
from alpaca_jax.distributed import StopSignals, beat, is_lead
from alpaca_jax.errors import UserError
from alpaca_jax.metrics import Goodput, MetricsWriter, Profile, Throughput, memory
from alpaca_jax.model import flops
from alpaca_jax.progress import Progress
from alpaca_jax.train.config import Config
from alpaca_jax.train.evaluation import Evaluation, keep_samples
from alpaca_jax.train.setup import Setup
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.state import State

MOST_ROLLBACKS = 10  # of one start; a run that needs more has another trouble than its data
End = Literal["done", "stopped", "back"]  # why a stretch of steps ended


@dataclasses.dataclass(frozen=True)
class Taken:
    """A step whose figures are still on the device."""

    step: int
    batch_index: int
    metrics: dict[str, jax.Array]


def latest(setup: Setup, checkpoints: Checkpoints, console: Console) -> tuple[State, dict[str, Any]]:
    """The state of the newest whole checkpoint and its `meta`; where there is none, the first state and an empty dict."""
    newest = checkpoints.newest(lambda message: console.print(f"[yellow]{message}[/yellow]"))
    if newest is None:
        return setup.first_state(), {}
    with console.status(f"restoring step {newest}"):
        items, meta = checkpoints.restore(newest, states.to_items(setup.abstract))
    return states.from_items(items), meta


class Loop:
    """Takes the steps that are left. `step`, `rollbacks`, `stopped` and `last_loss` say where it stands."""

    def __init__(
        self,
        config: Config,
        setup: Setup,
        state: State,
        meta: dict[str, Any],
        checkpoints: Checkpoints,
        writer: MetricsWriter | None,  # None in all processes but the first
        console: Console,
    ) -> None:
        self.config, self.setup, self.checkpoints, self.writer, self.console = config, setup, checkpoints, writer, console
        self.goodput = Goodput(meta.get("goodput"))
        self.throughput = Throughput(None if setup.chip.peak_flops is None else setup.chip.peak_flops * jax.device_count())
        self.profile = Profile(config.profile, writer.folder / "profile" if writer else ".") if is_lead() else Profile(None, ".")
        self.evaluation = Evaluation(config, setup)
        self.rollbacks = 0
        self.stopped = False
        self._own_rows = setup.layout.own_rows(setup.batches.rows)
        self._compiled: dict[tuple[int, ...], Any] = {}  # by the shape of the batch
        self._unread: list[Taken] = []
        self._start_from(state, meta)

    def run(self, stop: StopSignals) -> None:
        """Steps until the last one, or until a signal asks for a stop; the state is saved in the end."""
        with Progress("step", self.setup.steps, self.step, self.console) as progress:
            while (end := self._stretch(stop, progress)) == "back":
                self._go_back()
        self.stopped = end == "stopped" and self.step < self.setup.steps
        self.profile.close()
        self._save()
        with self.goodput.spent("checkpoint"):
            self.checkpoints.wait()

    def totals(self) -> dict[str, Any]:
        """Returns what has been counted since the run began, restarts included, the last good loss and the newest held-out one."""
        return self._counted() | {"loss": self.last_loss, "heldout": self.heldout}

    def _counted(self) -> dict[str, Any]:
        goodput = self.goodput.state()
        return {
            "tokens_real": self.throughput.tokens,
            "seconds": sum(goodput.values()),
            "compile_seconds": goodput["compile"],
            "skipped_steps": self.skipped,
        }

    def _start_from(self, state: State, meta: dict[str, Any]) -> None:
        self.state = state
        self.step, self.batch_index = int(state.step), int(state.batch_index)
        self.throughput.tokens, self.last_loss, self.skipped = meta.get("tokens_real", 0), meta.get("loss"), meta.get("skipped_steps", 0)
        self.heldout: dict[str, float] = meta.get("heldout", {})
        self._unread.clear()
        if self.writer is not None:
            self.writer.rewind(self.step)

    # --- steps ---

    def _stretch(self, stop: StopSignals, progress: Progress) -> End:
        """Takes steps until the last one, a stop, or a bad one that is to be gone back from."""
        self.throughput.restart()
        for batch in self._batches():
            self._take(batch)
            looking = self.step % self.config.log_every == 0 or self.step == self.setup.steps
            if looking and self._look(progress) == "back":
                return "back"
            beat(self.step)
            if stop.now():
                return self._look(progress) or "stopped"
            if self.evaluation.due(self.step):
                self._evaluate()
            if self.checkpoints.due(self.step) and self.step < self.setup.steps:
                if self._look(progress) == "back":
                    return "back"
                self._save()
        return "done"

    def _batches(self) -> Iterator[Batch]:
        """This process's rows of the batches that are left; the time until one is there counts as input."""
        left = self.setup.steps - self.step
        if not left:
            return
        with self.goodput.spent("input"):
            batches = self.setup.batches.stream(self.batch_index, self.batch_index + left, self._own_rows)
            batch = next(batches, None)
        while batch is not None:
            yield batch
            with self.goodput.spent("input"):
                batch = next(batches, None)

    def _take(self, batch: Batch) -> None:
        placed = self.setup.layout.place(batch, self.setup.batches.rows)
        compiled = self._compiled.get(placed["tokens"].shape) or self._compile(placed)
        self.profile.before(self.step + 1)
        with self.goodput.spent("step"):
            self.state, metrics = compiled(self.state, placed)
        self.step += 1
        self._unread.append(Taken(self.step, self.batch_index, metrics))
        self._count(batch)
        self.batch_index += 1
        self.profile.after(self.step, metrics)

    def _compile(self, placed: dict[str, jax.Array]) -> Any:
        shape = placed["tokens"].shape
        with self.goodput.spent("compile"), self.console.status(f"compiling the training step for {shape[0]} rows of {shape[1]}"):
            before = self.goodput.state()["compile"]
            self._compiled[shape] = self.setup.step.lower(self.state, placed).compile()
        seconds = self.goodput.state()["compile"] - before
        self.console.print(f"compiled for {shape[0]} rows of {shape[1]} in {seconds:.1f} s", highlight=False)
        self.throughput.restart()
        return self._compiled[shape]

    def _count(self, batch: Batch) -> None:
        """Counts the whole step's tokens by its plan: this process has seen its own rows only."""
        indices = self.setup.batches.indices(self.batch_index)
        lengths = self.setup.batches.lengths[indices]
        rows, length = self.setup.batches.rows, batch["tokens"].shape[1]
        a, tokens = self.setup.architecture, int(lengths.sum())
        full = flops.train_flops_full_attention(a, tokens, length)
        self.throughput.add(tokens, rows * length, flops.train_flops(a, lengths), full)

    # --- between two steps ---

    def _look(self, progress: Progress) -> Literal["back"] | None:
        """Fetches the figures of the steps since the last look, writes them down, and judges bad steps."""
        taken, self._unread = self._unread, []
        if not taken:
            return None
        with self.goodput.spent("step"):
            metrics = jax.device_get([each.metrics for each in taken])
        rates = self.throughput.take()
        for each, figures in zip(taken, metrics, strict=True):
            if figures["bad"]:
                if self._judge(each, figures) == "back":
                    return "back"
                if each is not taken[-1]:
                    self._write(each.step, self._line(each.step, figures))
            else:
                self.last_loss = float(figures["loss"])
        line = self._line(taken[-1].step, metrics[-1]) | rates | self._counted() | {"goodput": self.goodput.value} | memory()
        self._write(self.step, line)
        progress.update(self.step, _described(line))
        return None

    def _line(self, step: int, figures: dict[str, Any]) -> dict[str, Any]:
        line = {name: np.asarray(figures[name]).item() for name in ("loss", "targets", "gradient_norm")}
        line["learning_rate"] = float(self.setup.schedule(step - 1 - self.skipped))
        return line | ({"bad": 1} if figures["bad"] else {})

    def _judge(self, taken: Taken, figures: dict[str, Any]) -> Literal["back"] | None:
        """What follows a bad step, whose update the step itself has withheld."""
        loss, norm = (float(figures[name]) for name in ("loss", "gradient_norm"))
        what = f"step {taken.step} is bad (loss {loss:g}, gradient norm {norm:g}, batch {taken.batch_index})"
        policy = self.config.guard.policy
        if policy == "stop":
            raise UserError(
                f"{what}; its update was not applied, and nothing was saved since the last checkpoint. Lower optimizer.learning_rate "
                f"({self.config.optimizer.learning_rate:g}), look at the records of this batch, or give guard.policy=skip or rollback; "
                "the same command goes on from the checkpoint before"
            )
        if policy == "skip":
            self.skipped += 1
            self.console.print(f"[yellow]{what}: skipped[/yellow]", highlight=False)
            return None
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS:
            raise UserError(f"{what}, after {MOST_ROLLBACKS} rollbacks: lower optimizer.learning_rate, or raise guard.spike")
        self.console.print(f"[yellow]{what}: going back, and on behind that batch[/yellow]", highlight=False)
        self.batch_index = taken.batch_index + 1
        return "back"

    def _go_back(self) -> None:
        """The state of the newest checkpoint (or the first), with the batches up to the poisoned one behind it."""
        with self.goodput.spent("checkpoint"):
            self.checkpoints.wait()
            behind = self.batch_index
            self.state = None  # its buffers make room for the one that is read
            state, meta = latest(self.setup, self.checkpoints, self.console)
            index = jax.device_put(np.int32(behind), self.setup.abstract.batch_index.sharding)
            self._start_from(dataclasses.replace(state, batch_index=index), meta)

    def _evaluate(self) -> None:
        with self.goodput.spent("evaluate"):
            self.heldout = self.evaluation.losses(self.state)
            self._write(self.step, self.heldout)
            answered = self.evaluation.samples(self.state)
            for sample in answered:
                self.console.print(f"[bold]{escape(sample['prompt'])}[/bold]\n{escape(sample['answer'])}", highlight=False)
            if self.writer is not None:
                keep_samples(self.writer.folder / "samples", self.step, answered)
        self.throughput.restart()

    def _save(self) -> None:
        meta = self.totals() | {
            "goodput": self.goodput.state(),
            "fingerprints": self.setup.fingerprints,
            "versions": {"alpaca-jax": alpaca_jax.__version__, "jax": importlib.metadata.version("jax")},
            "config": to_mapping(self.config),
        }
        with self.goodput.spent("checkpoint"):
            if self.writer is not None:
                self.writer.flush()  # a run that goes on from here has the numbers up to here
            self.checkpoints.save(self.step, states.to_items(self.state), meta)

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if self.writer is not None and values:
            self.writer.write(step, values)


def _described(metrics: dict[str, Any]) -> str:
    """`loss 1.234  567 tokens/s  MFU 41.2%`; MFU only where the device's peak is known."""
    mfu = "" if metrics["mfu"] is None else f"  MFU {metrics['mfu']:.1%}"
    return f"loss {metrics['loss']:.4f}  {metrics['tokens_per_second']:,.0f} tokens/s{mfu}"
