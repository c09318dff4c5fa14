"""The loss on held-out answers, before and after."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from alpaca_jax.data import builder
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.progress import ProgressBar
from alpaca_jax.report import Section
from alpaca_jax.rundir import write_json
from alpaca_jax.scores import page, trained
from alpaca_jax.scores.heldout import Score, Scorer
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.terminal import Console

NAME = "heldout"
ROWS = 4  # of a held-out batch, where the config doesn't say


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model's score, with what decides whether it can be compared with another's."""

    score: Score
    tokenizer: str  # its fingerprint: a loss a token means the same for equal tokenizers only
    data: str  # the fingerprint of the examples
    trained: int  # of the held-out records, those that it was trained on, as far as is known


def wanted(config: Config, settings: Settings) -> bool:
    """Whether records are held out."""
    return settings.data.heldout > 0


def needs_model(config: Config) -> bool:
    """Always."""
    return True


def with_model(context: Context, loaded: Loaded) -> Measured:
    """The loss of one model; a UserError where it was trained on what is held out."""
    settings = context.settings
    data = builder.load_examples(settings.data, settings.places.get("records", ""), loaded.tokenizer)
    seen = _check_unseen(context, loaded.source, data.fingerprint)
    rows = context.config.batch.rows or ROWS
    scorer = Scorer(loaded.architecture, data.examples["heldout"], rows, settings.length, loaded.layout, loaded.compute_dtype)
    params = loaded.params
    what = f"{context.label}: held-out loss of {loaded.source}"
    with ProgressBar(what, len(scorer.batches), console=context.console, transient=True) as progress:
        score = scorer.score(params, progress.update)
    each = {"losses": score.each.losses.round(6).tolist(), "tokens": score.each.tokens.astype(int).tolist()}
    write_json(context.folder.path("evaluate", NAME, f"{context.label}.json"), {"data": data.fingerprint, **each})
    return Measured(score, loaded.tokenizer.fingerprint, data.fingerprint, seen)


def _check_unseen(context: Context, source: str, fingerprint: str) -> int:
    """The number of held-out records that the model was trained on; a UserError where there are any and `allow_trained` is not set."""
    findings = trained.find(source, context.settings.data, context.settings.places, fingerprint)
    for finding in findings:
        if finding.trained and not context.config.data.allow_trained:
            raise UserError(
                f"{finding}: its loss on them says nothing about new ones. It held {finding.run.heldout} records out; leave data.heldout "
                f"to the run, give data.records that it hasn't seen, or data.allow_trained=true to score it all the same"
            )
        context.console.print(str(finding), style="yellow", highlight=False, soft_wrap=True)
    return max((finding.trained or 0 for finding in findings), default=0)


def conclude(context: Context, before: Measured | None, after: Measured) -> dict[str, Any]:
    """Both losses, and by how much the second is lower."""
    return {
        "before": _figures(before.score) if before else None,
        "after": _figures(after.score),
        "fall": before.score.loss - after.score.loss if before else None,
        "unit": "nats a response token",
        "comparable": before is None or before.tokenizer == after.tokenizer,
    }


def data(context: Context, before: Measured | None, after: Measured | None, template: str) -> dict[str, Any]:
    """What was scored on, for scores.json."""
    return {
        "records": context.settings.places,
        "fingerprint": after.data if after else "",
        "heldout": context.settings.data.heldout,
        "template": template,
        "trained": {"before": before.trained if before else None, "after": after.trained if after else 0},
    }


def _figures(score: Score) -> dict[str, Any]:
    return {
        "loss": score.loss,
        "tokens": score.tokens,
        "examples": score.examples,
        "stderr": score.stderr,
        "perplexity": score.perplexity,
    }


def show(value: dict[str, Any], scores: dict[str, Any], console: Console) -> None:
    """A table of both, and the verdict."""
    table = Table("", "model", "nats a token", "perplexity", title="Held-out response loss", title_justify="left")
    for label, source in (("before", scores["baseline"]), ("after", scores["model"])):
        if value[label]:
            table.add_row(label, source, f"{value[label]['loss']:.4f}", f"{value[label]['perplexity']:.3f}")
    console.print(table)
    seen = [f"{label} was trained on {number} of these records" for label, number in scores["data"]["trained"].items() if number]
    verdict = f"{value['after']['examples']} examples, {value['after']['tokens']:,} response tokens"
    if value["fall"] is not None:
        verdict += f"; the loss {'fell' if value['fall'] >= 0 else 'rose'} by {abs(value['fall']):.4f} nats"
    if not value["comparable"]:
        verdict += " (the tokenizers differ, so these losses can't be compared)"
    console.print("; ".join([verdict, *seen]), highlight=False)


def sections(value: dict[str, Any], scores: dict[str, Any]) -> Sequence[Section]:
    """The losses as bars."""
    return [page.heldout(scores)]
