"""Scores the baseline, then the model, in one process; the first is freed before the second is loaded."""

import dataclasses
import time
from typing import Any

import jax.numpy as jnp
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alpaca_jax import lock
from alpaca_jax.data import builder, sources, template
from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.settings import Settings, settle
from alpaca_jax.footprint import limit
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import stored_vocab_size
from alpaca_jax.model.tree import flatten
from alpaca_jax.progress import ProgressBar
from alpaca_jax.rundir import RunDir, write_json
from alpaca_jax.scores import samples, trained
from alpaca_jax.scores.heldout import Score, Scorer
from alpaca_jax.sharding import Layout, make_mesh
from alpaca_jax.terminal import Console

REMEDIES = "give batch.rows=1; or model.dtype=bfloat16 with model.compute_dtype=bfloat16; or mesh=fsdp over more devices"
ROWS = 4  # of a held-out batch, where the config doesn't say


@dataclasses.dataclass(frozen=True)
class Scored:
    """What was measured of one model."""

    source: str
    what: str  # the format, with the step of a checkpoint
    tokenizer: str  # its fingerprint: a loss a token means the same for equal tokenizers only
    template: str
    data: str  # the fingerprint of the examples
    trained: int  # of the held-out records, those that it was trained on, as far as is known
    heldout: Score | None
    answers: list[str]
    seconds: float


def run(config: Config) -> dict[str, Any]:
    """Returns the scores it wrote to dir/evaluate/scores.json: held-out loss before (the baseline) and after (the model), and samples."""
    settings = settle(config)  # first: it refuses a folder that isn't there, which the lock would make
    with lock.held(config.dir, "evaluate", "evaluate"), limit.explained(REMEDIES):
        return _evaluate(config, settings, Console(stderr=True))


def _evaluate(config: Config, settings: Settings, console: Console) -> dict[str, Any]:
    layout = Layout(make_mesh(config.mesh), config.mesh)
    _introduce(settings, console)
    before = None if settings.baseline is None else _score(config, settings, settings.baseline, layout, "before", console)
    after = _score(config, settings, settings.model, layout, "after", console)
    scores = _together(config, settings, before, after)
    write_json(RunDir(config.dir).path("evaluate", "scores.json"), scores)
    _show(scores)
    return scores


def _introduce(settings: Settings, console: Console) -> None:
    names = [f"model {settings.model.source}"] + ([f"baseline {settings.baseline.source}"] if settings.baseline else [])
    if settings.data.heldout:
        names += [f"{settings.data.heldout} held-out records of {', '.join(settings.places.values())}"]
    else:
        names += ["no held-out records (data.heldout=0), so answers alone"]
    console.print("; ".join([*names, f"template {settings.data.template}"]), highlight=False, soft_wrap=True, markup=False)


def _score(config: Config, settings: Settings, model: ModelConfig, layout: Layout, label: str, console: Console) -> Scored:
    """Scores one model; nothing of its weights is left in memory afterwards."""
    start = time.perf_counter()
    source = pretrained.open(model)
    settings = _settled(settings, source, label, console)
    scorer, fingerprint, seen = None, "", 0
    if settings.data.heldout:
        data = builder.load_examples(settings.data, settings.places.get("records", ""), source.tokenizer)
        seen = _check_unseen(config, settings, str(model.source), data.fingerprint, console)
        rows = config.batch.rows or ROWS
        scorer = Scorer(source.architecture, data.examples["heldout"], rows, settings.length, layout, model.compute_dtype)
        fingerprint = data.fingerprint
    with console.status(f"{label}: loading {model.source}"):
        params = _load(source, model, layout)
    score = _heldout(scorer, params, f"{label}: held-out loss of {model.source}", console) if scorer else None
    answers = []
    if config.samples.prompts:
        with console.status(f"{label}: answering {len(config.samples.prompts)} prompts"):
            answers = _answers(config, settings, source, Program.on(source.architecture, layout, model.dtype), params)
    seconds = round(time.perf_counter() - start, 3)
    return Scored(
        source=str(model.source),
        what=source.format,
        tokenizer=source.tokenizer.fingerprint,
        template=settings.data.template,
        data=fingerprint,
        trained=seen,
        heldout=score,
        answers=answers,
        seconds=seconds,
    )


def _settled(settings: Settings, source: Pretrained, label: str, console: Console) -> Settings:
    """The settings with the template that `auto` stands for with the tokenizer of this model, whose name is said."""
    if settings.data.template != template.AUTO or not settings.data.heldout:
        return settings
    data = sources.settled(settings.data, settings.places.get("records", ""), source.tokenizer)
    console.print(f"{label}: rendered in template {data.template}", highlight=False, soft_wrap=True, markup=False)
    return dataclasses.replace(settings, data=data)


def _check_unseen(config: Config, settings: Settings, source: str, fingerprint: str, console: Console) -> int:
    """The number of held-out records that the model was trained on; a UserError where there are any and `allow_trained` is not set."""
    findings = trained.find(source, settings.data, settings.places, fingerprint)
    for finding in findings:
        if finding.trained and not config.data.allow_trained:
            raise UserError(
                f"{finding}: its loss on them says nothing about new ones. It held {finding.run.heldout} records out; leave data.heldout "
                f"to the run, give data.records that it hasn't seen, or data.allow_trained=true to score it all the same"
            )
        console.print(str(finding), style="yellow", highlight=False, soft_wrap=True)
    return max((finding.trained or 0 for finding in findings), default=0)


def _heldout(scorer: Scorer, params: Any, what: str, console: Console) -> Score:
    with ProgressBar(what, len(scorer.batches), console=console, transient=True) as progress:
        return scorer.score(params, progress.update)


def _load(source: Pretrained, model: ModelConfig, layout: Layout) -> llama.Params:
    vocab_size = stored_vocab_size(source.architecture.vocab_size, model.vocab_multiple)
    specs = llama.specs(source.architecture, vocab_size, jnp.dtype(model.dtype))
    places = flatten(layout.tree(specs, "weights"))
    return pretrained.load_params(source, model.dtype, places.__getitem__, stored_vocab=vocab_size)


def _answers(config: Config, settings: Settings, source: Pretrained, program: Program, params: llama.Params) -> list[str]:
    written = template.get(config.samples.template or settings.data.template, source.tokenizer)
    batch = Batch(program, weights.of_run(params), slots=len(config.samples.prompts))
    return samples.answers(batch, source.tokenizer, written, config.samples.prompts, config.samples.max_tokens, source.eos_ids)


def _together(config: Config, settings: Settings, before: Scored | None, after: Scored) -> dict[str, Any]:
    fall = before.heldout.loss - after.heldout.loss if before and before.heldout and after.heldout else None
    return {
        "model": after.source,
        "format": after.what,
        "baseline": before.source if before else None,
        "heldout": {
            "before": _figures(before),
            "after": _figures(after),
            "fall": fall,
            "unit": "nats a response token",
            "comparable": before is None or before.tokenizer == after.tokenizer,
        }
        if after.heldout
        else None,
        "samples": [
            {"prompt": prompt, "before": before.answers[number] if before else None, "after": after.answers[number]}
            for number, prompt in enumerate(config.samples.prompts)
        ],
        "data": {
            "records": settings.places,
            "fingerprint": after.data,
            "heldout": settings.data.heldout,
            "template": after.template,
            "trained": {"before": before.trained if before else None, "after": after.trained},
        },
        "seconds": {"before": before.seconds if before else None, "after": after.seconds},
    }


def _figures(scored: Scored | None) -> dict[str, Any] | None:
    if scored is None or scored.heldout is None:
        return None
    return dataclasses.asdict(scored.heldout) | {"perplexity": scored.heldout.perplexity}


def _show(scores: dict[str, Any]) -> None:
    console = Console()
    heldout = scores["heldout"]
    if heldout:
        table = Table("", "model", "nats a token", "perplexity", title="Held-out response loss", title_justify="left")
        for label, source in (("before", scores["baseline"]), ("after", scores["model"])):
            if heldout[label]:
                table.add_row(label, source, f"{heldout[label]['loss']:.4f}", f"{heldout[label]['perplexity']:.3f}")
        console.print(table)
        seen = [f"{label} was trained on {number} of these records" for label, number in scores["data"]["trained"].items() if number]
        verdict = f"{heldout['after']['examples']} examples, {heldout['after']['tokens']:,} response tokens"
        if heldout["fall"] is not None:
            verdict += f"; the loss {'fell' if heldout['fall'] >= 0 else 'rose'} by {abs(heldout['fall']):.4f} nats"
        if not heldout["comparable"]:
            verdict += " (the tokenizers differ, so these losses can't be compared)"
        console.print("; ".join([verdict, *seen]), highlight=False)
    for sample in scores["samples"]:
        labels = [label for label in ("before", "after") if sample[label] is not None]
        names = {"before": scores["baseline"], "after": scores["model"]}
        panels = [Panel(Text(sample[label]), title=Text(f"{label}: {names[label]}"), title_align="left") for label in labels]
        console.print(Text(f"\n{sample['prompt']}", style="bold"), *panels, sep="\n")
