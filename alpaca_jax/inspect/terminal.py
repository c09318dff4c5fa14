"""The data sheet and the batches on a terminal; in other outputs, marks surround what is learnt."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from rich.table import Table
from rich.text import Text

from alpaca_jax.inspect import reading
from alpaca_jax.inspect.reading import Row
from alpaca_jax.inspect.summary import FIGURES, KINDS, Summary, number
from alpaca_jax.masking import visible
from alpaca_jax.terminal import Console
from alpaca_jax.tokenizer import Tokenizer

OPEN, CLOSE = "\u27e6", "\u27e7"  # around what is learnt


class Terminal(Console):
    """A console on stdout that exits quietly when its reader has gone, as in `| head`."""

    def on_broken_pipe(self) -> NoReturn:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0)


def show_summary(console: Console, summary: Summary) -> None:
    """Prints the data sheet and the plan."""
    for source in summary.sources:
        _print(console, ", ".join(source.where), "bold")
    for title, lines in summary.tables():
        _print(console, f"\n{title}", "bold")
        for name, text in lines:
            console.print(Text.assemble(f"  {name:<57}", text), soft_wrap=True, highlight=False)
    if remarks := summary.remarks():
        _print(console, "\nremarks", "bold")
        for remark in remarks:
            _print(console, f"  {remark.text}", "yellow" if remark.warning else "")
    _print(console, "\ntokens of an example", "bold")
    console.print(_lengths(summary.lengths.table()))


def show_batch(console: Console, index: int, shape: tuple[int, int], rows: Sequence[Row], tokenizer: Tokenizer) -> None:
    """Prints the first rows of a batch, example by example."""
    for place, row in enumerate(rows):
        of_row = (
            f"{len(row.examples)} examples, {row.tokens:,} tokens, {row.learnt:,} of them learnt, {row.empty:,} of {shape[1]:,} slots empty"
        )
        _print(console, f"\nbatch {index}, row {place} of {shape[0]}: {of_row}", "bold")
        for number_in_row, (example, kind) in enumerate(zip(row.examples, row.kinds, strict=True), start=1):
            what = f"{number_in_row} ({kind})" if kind else str(number_in_row)
            _print(console, f"  example {what}: {len(example.ids):,} tokens, {int(example.learnt.sum()):,} learnt", "cyan")
            console.print(_text(reading.spans(example, tokenizer), console.is_terminal), soft_wrap=True, highlight=False)


def legend(console: Console) -> None:
    """Prints how context and targets are marked."""
    text = "context is dim, what is learnt is bold, special tokens are coloured"
    _print(console, f"\n{text if console.is_terminal else f'what is learnt is between {OPEN} and {CLOSE}'}", "italic")


def _text(spans: Sequence[reading.Span], is_terminal: bool) -> Text:
    text = Text()
    learnt = False
    for span in [*spans, reading.Span("", False, False)]:
        if span.learnt != learnt and not is_terminal:
            text.append(OPEN if span.learnt else CLOSE)
        learnt = span.learnt
        text.append(visible(span.text), style=" ".join([("bold" if learnt else "dim"), *(["magenta"] if span.special else [])]))
    return text


def _lengths(figures: dict[str, dict[str, float]]) -> Table:
    table = Table(box=None)
    table.add_column("")
    for name in FIGURES:
        table.add_column(name, justify="right", no_wrap=True)
    for kind, values in figures.items():
        table.add_row(KINDS[kind], *(number(values[name]) for name in FIGURES))
    return table


def _print(console: Console, text: str, style: str) -> None:
    console.print(Text(visible(text), style=style), soft_wrap=True, highlight=False)
