"""What is measured along the way: the held-out loss, suites, a comparison, and answers to fixed prompts."""

import functools
import json
from pathlib import Path
from typing import Any

from alpaca_jax import rundir
from alpaca_jax.data import template
from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.distributed import beat
from alpaca_jax.errors import UserError
from alpaca_jax.model import llama
from alpaca_jax.scores import samples
from alpaca_jax.scores.heldout import Scorer
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.terminal import Console
from alpaca_jax.train import suites
from alpaca_jax.train.comparison import Comparison
from alpaca_jax.train.config import Config
from alpaca_jax.train.setup import Setup


class Evaluation:
    """Held-out loss (of the averaged weights as well, where there are any) and samples, every `evaluate_every` steps and at the last."""

    def __init__(self, config: Config, setup: Setup, console: Console) -> None:
        self._config, self._setup, self._console = config, setup, console
        self._folder = rundir.RunDir(config.dir)
        self._scorer: Scorer | None = None
        self._comparison: Comparison | None = None
        if config.evaluate_every is None:
            return
        self._program = Program.on(setup.architecture, setup.layout, config.model.compute_dtype)
        if "heldout" in setup.data.examples and config.objective.heldout_loss:
            examples, length = setup.data.examples["heldout"], config.batch.sequence_length
            self._scorer = Scorer(setup.architecture, examples, setup.batches.rows, length, setup.layout, config.model.compute_dtype)
        if config.compare is not None:
            self._comparison = Comparison(config.answers, config.compare, self._folder, console)
        stopping = config.early_stopping
        if stopping is not None and stopping.metric.startswith("heldout_loss") and not (self._scorer and self._scorer.examples):
            raise UserError(
                f"early_stopping.metric={stopping.metric}, but none of the records is held out: give a larger data.heldout, or more records"
            )

    def due(self, step: int) -> bool:
        """True after the steps that are evaluated."""
        every = self._config.evaluate_every
        return every is not None and step > 0 and (step % every == 0 or step == self._setup.steps)

    def losses(self, step: int, params: llama.Params, average: llama.Params | None) -> dict[str, float]:
        """Returns `heldout_loss` in nats a response token, and `heldout_loss_ema` of the averaged weights; empty with none held out."""
        if self._scorer is None:
            return {}
        score = functools.partial(self._scorer.score, progress=lambda done: beat(step))  # the watchdog hears each batch
        losses = {"heldout_loss": score(params).loss}
        return losses if average is None else losses | {"heldout_loss_ema": score(average).loss}

    def asked(self, step: int, batch_index: int, params: llama.Params) -> dict[str, float]:
        """Returns the figures of the suites and of the comparison, those of the lead alone where only it asks."""
        config, setup = self._config, self._setup
        if not config.suites and self._comparison is None:
            return {}
        beat(step)
        # Nobody may keep this: the next step overwrites the weights. Of the same step, a rollback has other weights after another batch.
        loaded = Loaded(
            source=f"{config.dir}/train",
            format=f"step {step}, batch {batch_index}",
            tokenizer=setup.tokenizer,
            template_name=config.data.template,
            architecture=setup.architecture,
            layout=setup.layout,
            dtype=config.model.compute_dtype,
            compute_dtype=config.model.compute_dtype,
            eos_ids=setup.eos_ids,
            load=lambda: params,
            alive=lambda: beat(step),
        )
        found = suites.figures(config.suites, loaded, step, self._folder, self._console)
        beat(step)
        return found if self._comparison is None else found | self._comparison.figures(loaded, step)

    def samples(self, params: llama.Params) -> list[dict[str, str]]:
        """Returns the greedy answer to each of `samples.prompts`."""
        config, setup = self._config.samples, self._setup
        if not config.prompts:
            return []
        written = template.get(config.template or self._config.data.template, setup.tokenizer)
        batch = Batch(self._program, weights.of_run(params), slots=len(config.prompts))
        answers = samples.answers(batch, setup.tokenizer, written, config.prompts, config.max_tokens, setup.eos_ids)
        return [{"prompt": prompt, "answer": answer} for prompt, answer in zip(config.prompts, answers, strict=True)]


def keep_samples(folder: Path, step: int, answered: list[dict[str, Any]]) -> None:
    """Puts the answers of a step at `folder/STEP.json`."""
    if answered:
        rundir.write_atomic(folder / f"{step}.json", json.dumps(answered, indent=2, ensure_ascii=False) + "\n")
