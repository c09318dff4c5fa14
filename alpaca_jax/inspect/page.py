"""The page: data sheet, histograms of lengths, plan and first examples, in one HTML file."""

from collections.abc import Sequence

import numpy as np

from alpaca_jax import report
from alpaca_jax.inspect import reading
from alpaca_jax.inspect.reading import Row
from alpaca_jax.inspect.sheet import histogram
from alpaca_jax.inspect.summary import FIGURES, KINDS, Summary, number
from alpaca_jax.report import Bar, Bars, Card, Cards, Marked, Pair, Section, Table
from alpaca_jax.tokenizer import Tokenizer


def build(summary: Summary, batches: Sequence[tuple[int, Sequence[Row]]], tokenizer: Tokenizer) -> str:
    """Returns the page as HTML; `batches`: the indices of the first batches, with the rows to show."""
    facts, plan = summary.facts, summary.plan
    tables = [Table([title, ""], lines) for title, lines in summary.tables() if title != "plan"]
    sections = [
        Section("", [Cards(_cards(summary))]),
        Section("Data sheet", [Pair(tables)], "The records, and what became of them."),
        *_remarks(summary),
        _lengths(summary),
        Section("Plan", [Table([], dict(summary.tables())["plan"])], "The batches of the run, fixed by the seed."),
        *(_batch(index, rows, tokenizer) for index, rows in batches),
    ]
    where = ", ".join(path for source in summary.sources for path in source.where)
    subtitle = f"{number(facts.records)} records, {number(plan.steps)} steps: {where}"
    return report.render("The data of a training run", subtitle, sections, [f"fingerprint {summary.data.fingerprint}"])


def _cards(summary: Summary) -> list[Card]:
    counts, figures, plan = summary.data.counts["train"], summary.plan.statistics, summary.plan
    learnt = f"{counts.target_tokens / max(counts.tokens, 1):.1%} of them learnt"
    return [
        Card("Real tokens", number(counts.tokens), f"in {number(counts.kept)} kept records to train on, {learnt}"),
        Card("Steps", number(plan.steps), f"{plan.steps / plan.steps_per_epoch:.3g} epochs of {number(plan.steps_per_epoch)}"),
        Card("Slots in use", f"{figures['utilisation_mean']:.1%}", f"{figures['utilisation_min']:.1%} in the emptiest step"),
        Card("Cut", number(counts.truncated), "examples kept without their end"),
        Card("Not kept", number(counts.dropped + counts.no_target), "too long, or nothing to learn"),
    ]


def _remarks(summary: Summary) -> list[Section]:
    lines = [["attention" if remark.warning else "", remark.text] for remark in summary.remarks()]
    return [Section("Remarks", [Table([], lines)], "What was cut, dropped, left out or not understood.")] if lines else []


def _lengths(summary: Summary) -> Section:
    figures = summary.lengths.table()
    rows = [[KINDS[kind], *(number(values[name]) for name in FIGURES)] for kind, values in figures.items()]
    table = Table(["tokens", *FIGURES], rows, numbers=range(1, len(FIGURES) + 1))
    bars = [
        _histogram(summary.lengths.full, "All tokens of an example", "muted"),
        _histogram(summary.lengths.read, "Context: the prompt", "before"),
        _histogram(summary.lengths.learnt, "Learnt: the response and its end", "accent"),
    ]
    return Section("Lengths", [table, Pair(bars)], "Tokens of the training examples, BOS and EOS included.")


def _histogram(lengths: np.ndarray, caption: str, colour: str) -> Bars:
    bars = [Bar(f"{low:,}\u2013{high:,}", count, f"{count:,}", colour) for low, high, count in histogram(lengths)]  # type: ignore[arg-type]
    return Bars(bars, f"{caption}; the last bar has all from the 99th percentile up.")


def _batch(index: int, rows: Sequence[Row], tokenizer: Tokenizer) -> Section:
    blocks = [
        Marked([(span.text, _style(span)) for span in reading.spans(example, tokenizer)], _label(number, place, row))
        for number, row in enumerate(rows)
        for place, example in enumerate(row.examples, start=1)
    ]
    return Section(f"Batch {index}", blocks, "Each row's examples in order. Context is dim; the rest is learnt.")


def _style(span: reading.Span) -> str:
    return " ".join(name for name, holds in (("dim", not span.learnt), ("special", span.special)) if holds)


def _label(number: int, place: int, row: Row) -> str:
    example = row.examples[place - 1]
    empty = f"; {row.empty:,} slots of the row are empty" if place == len(row.examples) else ""
    kind = row.kinds[place - 1]
    what = f"example {place} of {len(row.examples)}" + (f" ({kind})" if kind else "")
    return f"row {number}, {what}: {len(example.ids):,} tokens, {int(example.learnt.sum()):,} learnt{empty}"
