"""The page of an evaluation: a section for each part, made from its scores alone."""

from typing import Any

from alpaca_jax import report
from alpaca_jax.evaluate.parts import PARTS


def build(scores: dict[str, Any]) -> str:
    """Returns dir/evaluate/report.html."""
    sections = [section for part in PARTS if scores.get(part.NAME) for section in part.sections(scores[part.NAME], scores)]
    model, baseline = scores.get("model"), scores.get("baseline")
    title = f"How good is {model}?" if model else "Answers compared"
    subtitle = f"Beside its baseline, {baseline}." if baseline else ""
    return report.render(title, subtitle, sections)
