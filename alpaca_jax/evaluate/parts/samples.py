"""Greedy answers to a few prompts, side by side."""

from collections.abc import Sequence
from typing import Any

from rich.panel import Panel
from rich.text import Text

from alpaca_jax.data import template
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.report import Section
from alpaca_jax.scores import page, samples
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.terminal import Console

NAME = "samples"


def wanted(config: Config, settings: Settings) -> bool:
    """Whether there are prompts."""
    return bool(config.samples.prompts)


def needs_model(config: Config) -> bool:
    """Always."""
    return True


def with_model(context: Context, loaded: Loaded) -> list[str]:
    """The answer to each prompt."""
    config = context.config.samples
    written = template.get(config.template or loaded.template_name, loaded.tokenizer)
    batch = loaded.batch(len(config.prompts))
    with context.console.status(f"{context.label}: answering {len(config.prompts)} prompts"):
        return samples.answers(batch, loaded.tokenizer, written, config.prompts, config.max_tokens, loaded.eos_ids)


def conclude(context: Context, before: list[str] | None, after: list[str] | None) -> list[dict[str, Any]]:
    """Each prompt with its answers."""
    return [
        {"prompt": prompt, "before": before[number] if before else None, "after": after[number] if after else None}
        for number, prompt in enumerate(context.config.samples.prompts)
    ]


def show(value: list[dict[str, Any]], scores: dict[str, Any], console: Console) -> None:
    """Panels, one above the other."""
    names = {"before": scores["baseline"], "after": scores["model"]}
    for sample in value:
        labels = [label for label in ("before", "after") if sample[label] is not None]
        panels = [Panel(Text(sample[label]), title=Text(f"{label}: {names[label]}"), title_align="left") for label in labels]
        console.print(Text(f"\n{sample['prompt']}", style="bold"), *panels, sep="\n")


def sections(value: list[dict[str, Any]], scores: dict[str, Any]) -> Sequence[Section]:
    """The answers side by side."""
    return [page.samples(scores)] if value else []
