"""The training loop: step after step, with what happens between two of them."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import jax
import numpy as np
from rich.text import Text

from alpaca_jax.checkpoint import Checkpoints
from alpaca_jax.config import to_mapping
from alpaca_jax.data.pack import Batch
from alpaca_jax.distributed import StopSignals, beat, from_lead, is_lead
from alpaca_jax.errors import UserError
from alpaca_jax.metrics import Goodput, MetricsWriter, Profile, Throughput, memory
from alpaca_jax.model import flops
from alpaca_jax.model.llama import Params
from alpaca_jax.progress import ProgressBar
from alpaca_jax.terminal import Console
from alpaca_jax.train.config import Config
from alpaca_jax.train.evaluation import Evaluation, keep_samples
from alpaca_jax.train.programs import Programs
from alpaca_jax.train.progress import Progress
from alpaca_jax.train.setup import Setup
from alpaca_jax.train.start import Start, latest
from alpaca_jax.train.stopping import Stopping
from alpaca_jax.trainer import state as states
from alpaca_jax.trainer.weights import BASE

MOST_ROLLBACKS = 10  # of one start; a run that needs more has another trouble than its data
End = Literal["done", "stopped", "rollback"]  # why a stretch of steps ended


@dataclasses.dataclass(frozen=True)
class Taken:
    """A step whose figures are still on the device."""

    step: int
    batch_index: int
    metrics: dict[str, jax.Array]


class Loop:
    """Takes the steps that are left. `step`, `rollbacks`, `stopped`, `last_loss` and `heldout` say where it stands."""

    def __init__(
        self,
        config: Config,
        setup: Setup,
        start: Start,
        programs: Programs,
        checkpoints: Checkpoints,
        writer: MetricsWriter | None,  # None in all processes but the lead
        console: Console,
    ) -> None:
        self.config, self.setup, self.checkpoints, self.writer, self.console = config, setup, checkpoints, writer, console
        self.fixed, self.kept = start.fixed, start.kept
        self.goodput = Goodput(start.progress.goodput)
        self.throughput = Throughput(None if setup.chip.peak_flops is None else setup.chip.peak_flops * jax.device_count())
        self.profile = Profile(config.profile, writer.folder / "profile" if writer else ".") if is_lead() else Profile(None, ".")
        self.evaluation = Evaluation(config, setup, console)
        self.rollbacks = 0
        self.stopped = False
        self._programs = programs
        self._own_rows = setup.layout.own_rows(setup.batches.rows)
        self._unread: list[Taken] = []
        self._continue_from(start)
        self.first = self.step  # where this start began

    def run(self, stop: StopSignals) -> None:
        """Steps until the last one, or until a signal asks for a stop; the state is saved in the end."""
        with ProgressBar("step", self.setup.steps, self.step, self.console) as bar:
            while (end := self._stretch(stop, bar)) == "rollback":
                self._roll_back()
        # Asked to stop after the last step, before it is evaluated: the next start does that, rather than end with an earlier figure.
        self.stopped = end == "stopped" and not self.stopping.over and (self.step < self.setup.steps or self._owes_evaluation())
        self.profile.close()
        self._save()
        with self.goodput.spent("checkpoint"):
            self.checkpoints.wait()

    def progress(self) -> Progress:
        """What has been counted since the run began, restarts included."""
        return Progress(
            tokens_real=self.throughput.tokens,
            skipped_steps=self.skipped,
            loss=self.last_loss,
            loss_step=self.loss_step,
            heldout=self.heldout,
            evaluated=self.evaluated,
            best=self.stopping.best,
            goodput=self.goodput.state(),
            fingerprints=self.setup.fingerprints,
            config=to_mapping(self.config),
        )

    def counted(self) -> dict[str, Any]:
        """The counts that each line of the metrics and the summary carry."""
        seconds = self.goodput.state()
        return {
            "tokens_real": self.throughput.tokens,
            "seconds": sum(seconds.values()),
            "compile_seconds": seconds["compile"],
            "skipped_steps": self.skipped,
        }

    def _continue_from(self, start: Start) -> None:
        self.state = start.state
        self.step, self.batch_index = int(start.state.step), int(start.state.batch_index)
        before = start.progress
        self.throughput.tokens, self.last_loss, self.skipped = before.tokens_real, before.loss, before.skipped_steps
        self.loss_step, self.heldout, self.evaluated = before.loss_step, before.heldout, before.evaluated
        self.stopping = Stopping(self.config.early_stopping, before.best)
        if self.stopping.best is not None and self.stopping.best.step is not None:
            self.checkpoints.favour(self.stopping.best.step)
        self._unread.clear()
        if self.writer is not None:
            self.writer.rewind(self.step)

    # --- steps ---

    def _stretch(self, stop: StopSignals, bar: ProgressBar) -> End:
        """Takes steps until the last one, the end by `early_stopping`, a stop, or a bad one that calls for a rollback."""
        self.throughput.restart()
        if self._owes_evaluation():  # the run was stopped between this step and its evaluation
            self._evaluate()
        for batch in () if self.stopping.over else self._batches():
            self._take(batch)
            looking = self.step % self.config.log_every == 0 or self.step == self.setup.steps
            if looking and self._look(bar) == "rollback":
                return "rollback"
            beat(self.step)
            if stop.now():
                return self._look(bar) or "stopped"
            best = self.evaluation.due(self.step) and self._evaluate()
            if self.stopping.over:
                return self._look(bar) or "done"
            if (best or self.checkpoints.due(self.step)) and self.step < self.setup.steps:
                if self._look(bar) == "rollback":
                    return "rollback"
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
        setup, objective = self.setup, self.setup.assembly.objective
        batch = setup.task.batch(self.batch_index, self.step, batch, self._whole)
        axes = {name: read.axes for name, read in objective.reads.items()}
        placed = setup.layout.place(objective.select(batch), setup.batches.rows, axes)
        program = self._program((setup.batches.rows, batch["tokens"].shape[1]))
        self.profile.before(self.step + 1)
        with self.goodput.spent("step"):
            self.state, metrics = program(self.state, self.fixed, placed)
        self.step += 1
        self._unread.append(Taken(self.step, self.batch_index, metrics))
        self._count(batch)
        self.batch_index += 1
        self.profile.after(self.step, metrics)

    def _program(self, shape: tuple[int, int]) -> Any:
        if self._programs.has(shape):
            return self._programs.get(shape)
        rows, length = shape
        with self.goodput.spent("compile"), self.console.status(f"compiling the training step for {rows} rows of {length}"):
            before = self.goodput.state()["compile"]
            program = self._programs.get(shape)
        seconds = self.goodput.state()["compile"] - before
        self.console.print(f"compiled for {rows} rows of {length} in {seconds:.1f} s", highlight=False)
        self.throughput.restart()
        return program

    def _count(self, batch: Batch) -> None:
        """Counts the whole step's tokens by its plan: this process has seen its own rows only."""
        lengths = self.setup.task.lengths(self.batch_index)
        rows, length = self.setup.batches.rows, batch["tokens"].shape[1]
        a, adapter, tokens = self.setup.architecture, self.setup.adapter_weights, int(lengths.sum())
        full = flops.train_flops_full_attention(a, tokens, length, adapter)
        self.throughput.add(tokens, rows * length, flops.train_flops(a, lengths, adapter), full)

    # --- between two steps ---

    def _look(self, bar: ProgressBar) -> Literal["rollback"] | None:
        """Fetches the figures of the steps since the last look, writes them down, and judges bad steps."""
        taken, self._unread = self._unread, []
        if not taken:
            return None
        with self.goodput.spent("step"):
            metrics = jax.device_get([each.metrics for each in taken])
        rates = self.throughput.take()
        for each, figures in zip(taken, metrics, strict=True):
            if figures["bad"]:
                if self._judge(each, figures) == "rollback":
                    return "rollback"
                if each is not taken[-1]:
                    self._write(each.step, self._line(each.step, figures))
            else:
                self.last_loss, self.loss_step = float(figures["loss"]), each.step
        line = self._line(taken[-1].step, metrics[-1]) | rates | self.counted() | {"goodput": self.goodput.value} | memory()
        self._write(self.step, line)
        bar.update(self.step, _described(line))
        return None

    def _line(self, step: int, figures: dict[str, Any]) -> dict[str, Any]:
        names = (*self.setup.assembly.objective.metrics, "gradient_norm")
        line = {name: np.asarray(figures[name]).item() for name in names}
        line["learning_rate"] = float(self.setup.schedule(step - 1 - self.skipped))
        return line | ({"bad": 1} if figures["bad"] else {})

    def _judge(self, taken: Taken, figures: dict[str, Any]) -> Literal["rollback"] | None:
        """What follows a bad step, whose update the step itself has withheld."""
        loss, norm = (float(figures[name]) for name in ("loss", "gradient_norm"))
        what = f"step {taken.step} is bad (loss {loss:g}, gradient norm {norm:g}, batch {taken.batch_index})"
        policy = self.config.guard.policy
        if policy == "stop":
            raise UserError(
                f"{what}; its update was not applied, and nothing was saved since the last checkpoint. Lower optimizer.learning_rate "
                f"({self.config.optimizer.learning_rate:g}), look at the records of this batch, or give guard.policy=skip or rollback; "
                "the same command resumes from the checkpoint before"
            )
        if policy == "skip":
            self.skipped += 1
            self.console.print(f"{what}: skipped", style="yellow", highlight=False)
            return None
        self.rollbacks += 1
        if self.rollbacks > MOST_ROLLBACKS:
            raise UserError(f"{what}, after {MOST_ROLLBACKS} rollbacks: lower optimizer.learning_rate, or raise guard.spike")
        self.console.print(f"{what}: rolling back, to continue after that batch", style="yellow", highlight=False)
        self.batch_index = taken.batch_index + 1
        return "rollback"

    def _roll_back(self) -> None:
        """Restores the newest checkpoint (or the first state), and continues with the batch after the poisoned one."""
        with self.goodput.spent("checkpoint"):
            self.checkpoints.wait()
            next_batch = np.int32(self.batch_index)
            del self.state  # its buffers make room for the one that is read
            start = latest(self.setup, self.checkpoints, self.console.print, self.fixed)
            index = jax.device_put(next_batch, self.setup.assembly.state_places.batch_index)
            self._continue_from(dataclasses.replace(start, state=dataclasses.replace(start.state, batch_index=index)))

    def _owes_evaluation(self) -> bool:
        return self.evaluation.due(self.step) and self.evaluated != self.step

    def _evaluate(self) -> bool:
        """Measures and writes the figures of this step; True where it is the best so far, so that its checkpoint is to be kept."""
        with self.goodput.spent("evaluate"):
            params = self._whole()
            average = None if self.state.ema is None else self.setup.assembly.whole(self.state.ema, self.fixed)
            figures = self.evaluation.losses(self.step, params, average) | self.setup.task.evaluate(self.step, params)
            figures |= self.evaluation.asked(self.step, self.batch_index, params)
            self.heldout, self.evaluated = from_lead(figures), self.step
            self._write(self.step, self.heldout)
            answered = self.evaluation.samples(params)
            for sample in answered:
                self.console.print(Text(sample["prompt"], style="bold"), sample["answer"], sep="\n", highlight=False)
            if self.writer is not None:
                keep_samples(self.writer.folder / "samples", self.step, answered)
        self.throughput.restart()
        best = self.stopping.heard(self.step, self.heldout)
        if best:
            self.checkpoints.favour(self.step)
        return best

    def _whole(self) -> Params:
        """The whole model as it is now; the next step overwrites it."""
        return self.setup.assembly.whole(self.state.trained, self.fixed)

    def _save(self) -> None:
        items = states.to_items(self.state, self.fixed[BASE] if self.kept else None)
        with self.goodput.spent("checkpoint"):
            if self.writer is not None:
                self.writer.flush()  # a run that resumes from here has the numbers up to here
            self.checkpoints.save(self.step, items, self.progress().to_meta())

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if self.writer is not None and values:
            self.writer.write(step, values)


def _described(metrics: dict[str, Any]) -> str:
    """`loss 1.234  567 tokens/s  MFU 41.2%`; MFU only where the device's peak is known."""
    mfu = "" if metrics["mfu"] is None else f"  MFU {metrics['mfu']:.1%}"
    return f"loss {metrics['loss']:.4f}  {metrics['tokens_per_second']:,.0f} tokens/s{mfu}"
