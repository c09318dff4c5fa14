"""What is measured along the way: the held-out loss, suites, and answers to fixed prompts."""

import functools
import json
from pathlib import Path
from typing import Any

from alpaca_jax import rundir
from alpaca_jax.data import template
from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.distributed import beat, is_lead
from alpaca_jax.errors import UserError
from alpaca_jax.model import llama
from alpaca_jax.scores import samples
from alpaca_jax.scores.heldout import Scorer
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites import basics
from alpaca_jax.train.config import Config
from alpaca_jax.train.setup import Setup


class Evaluation:
    """Held-out loss (of the averaged weights as well, where there are any) and samples, every `evaluate_every` steps and at the last."""

    def __init__(self, config: Config, setup: Setup) -> None:
        self._config, self._setup = config, setup
        self._folder = rundir.RunDir(config.dir).path("train", "suites")
        self._scorer: Scorer | None = None
        if config.evaluate_every is None:
            return
        self._program = Program.on(setup.architecture, setup.layout, config.model.compute_dtype)
        if "heldout" in setup.data.examples:
            examples, length = setup.data.examples["heldout"], config.batch.sequence_length
            self._scorer = Scorer(setup.architecture, examples, setup.batches.rows, length, setup.layout, config.model.compute_dtype)
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

    def suites(self, step: int, params: llama.Params) -> dict[str, float]:
        """Returns the figures of each suite under names such as `suites/basics/score`, and keeps its answers where the lead writes."""
        found: dict[str, float] = {}
        for name, suite in self._config.suites.items():
            value = basics.score(self._loaded(step, params), suite, lambda done, of: beat(step))
            samples = value.pop("samples")
            found |= {f"suites/{name}/{metric}": value["metrics"][metric]["value"] for metric in suite.figures[1:]}
            found[f"suites/{name}/score"] = value["score"]
            if is_lead():
                lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
                rundir.write_atomic(self._folder / f"{step}-{name}.jsonl", lines)
        return found

    def _loaded(self, step: int, params: llama.Params) -> Loaded:
        """The weights of this step as a model that can be asked; nobody may keep it, since the next step overwrites them."""
        config, setup = self._config, self._setup
        return Loaded(
            source=f"{config.dir}/train",
            format=f"step {step}",
            tokenizer=setup.tokenizer,
            template_name=config.data.template,
            architecture=setup.architecture,
            layout=setup.layout,
            dtype=config.model.compute_dtype,
            compute_dtype=config.model.compute_dtype,
            eos_ids=setup.eos_ids,
            load=lambda: params,
        )

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
