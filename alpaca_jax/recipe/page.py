"""The report of a run: headline figures, then the sections."""

import statistics
from collections.abc import Sequence
from typing import Any

from alpaca_jax import report
from alpaca_jax.recipe import sections
from alpaca_jax.recipe.marker import Marker
from alpaca_jax.recipe.sections import Outputs
from alpaca_jax.recipe.units import count, duration, gigabytes, or_none
from alpaca_jax.report import Card, Cards, Section
from alpaca_jax.scores import page as scored
from alpaca_jax.scores.judge import page as judged
from alpaca_jax.scores.suites import page as suites


def build(summary: dict[str, Any], outputs: Outputs, markers: Sequence[Marker]) -> str:
    """Returns the page as HTML, without the sections of stages that didn't run."""
    parts = [Section("", [Cards(_cards(summary, outputs))])]
    if outputs["scores"].get("heldout"):
        parts.append(scored.heldout(outputs["scores"]))
    parts += suites.sections(outputs["scores"].get("suites") or {})
    parts += judged.sections(outputs["scores"]["compare"]) if outputs["scores"].get("compare") else []
    if outputs["metrics"]:
        parts.append(sections.training(outputs))
    if outputs["scores"].get("samples"):
        parts.append(scored.samples(outputs["scores"]))
    if outputs["manifest"]:
        parts.append(sections.data(outputs))
    parts += [sections.bill(summary, outputs, markers), sections.environment(summary, outputs), sections.again(summary, markers)]
    machine = summary["machine"]
    facts = [
        f"finished {summary['finished'].replace('T', ' ').replace('Z', ' UTC')}",
        sections.device(outputs["train"]) or f"{machine['cores']} {machine['processor']} cores, {gigabytes(machine['memory_bytes'])}",
        f"alpaca-jax {summary['versions'].get('alpaca-jax', 'from a checkout')}",
    ]
    return report.render(_title(summary), _subtitle(summary, outputs), parts, facts)


def figures(summary: dict[str, Any]) -> dict[str, str]:
    """Returns the measured headline figures as text by name, for a terminal."""
    before, after = summary["heldout_loss_before"], summary["heldout_loss_after"]
    lines = {
        "records kept": or_none(summary["records_kept"], count),
        "held-out loss": None if before is None else f"{before:.3f} -> {after:.3f} nats a token ({_fall(summary)})",
        **{f"suite {name}": f"{_from_to(row, ' -> ')} {_note(row)}" for name, row in summary["suites"].items()},
        **{f"against {one['against']}": f"{_preferred(one)} of {count(one['prompts'])} prompts" for one in summary["compare"]},
        "trained on": or_none(summary["tokens_real"], lambda tokens: f"{count(tokens)} real tokens"),
        "seconds": ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary["seconds"].items()),
        "dollars": f"{summary['dollars']:.2f} to the teacher",
        "peak memory": gigabytes(summary["peak_memory_bytes"]),
        "Hugging Face": summary["hf_dir"],
    }
    return {name: text for name, text in lines.items() if text is not None}


def _fall(summary: dict[str, Any]) -> str:
    fall = summary["heldout_loss_fall"]
    return f"{'fell' if fall >= 0 else 'rose'} by {abs(fall):.3f}"


def _from_to(row: dict[str, Any], arrow: str) -> str:
    return f"{row['value']:.3f}" if row["before"] is None else f"{row['before']:.3f}{arrow}{row['value']:.3f}"


def _note(row: dict[str, Any]) -> str:
    """`lenient, 60 questions, by +0.017 ± 0.021`; the difference is paired where both models answered."""
    change, error = row["difference"], row["difference_stderr"] if row["before"] is not None else row["stderr"]
    by = "" if change is None else f", by {change:+.3f}"
    return f"{row['metric']}, {count(row['questions'])} questions{by}" + ("" if error is None else f" \u00b1 {error:.3f}")


def _preferred(one: dict[str, Any]) -> str:
    error = "" if one["stderr"] is None else f" \u00b1 {one['stderr']:.1f}"
    return f"{one['win_rate']:.1f}{error}%"


def _title(summary: dict[str, Any]) -> str:
    if summary["heldout_loss_fall"] is None:
        return f"Run {summary['dir']}"
    return f"Held-out loss {_fall(summary)} nats in {duration(summary['seconds_total'])}"


def _subtitle(summary: dict[str, Any], outputs: Outputs) -> str:
    manifest = outputs["manifest"].get("teacher", {})
    teacher, student = manifest.get("model") or manifest.get("source"), outputs["scores"].get("baseline")
    parts = [
        f"The teacher {teacher} wrote {count(summary['records_kept'])} instruction records." if teacher else "",
        f"The student {student or ''} was fine-tuned on {'them' if teacher else 'records'}.".replace("  ", " ") if outputs["train"] else "",
        "It was scored before and after training on answers it had not seen." if summary["heldout_loss_before"] is not None else "",
        "The result is a Hugging Face checkpoint." if summary["hf_dir"] else "",
    ]
    return " ".join(part for part in parts if part)


def _cards(summary: dict[str, Any], outputs: Outputs) -> list[Card]:
    before, after = summary["heldout_loss_before"], summary["heldout_loss_after"]
    rates = [line["tokens_per_second"] for line in outputs["metrics"] if line.get("tokens_per_second")]
    cards = []
    if after is not None:
        figure = f"{after:.3f}" if before is None else f"{before:.3f} \u2192 {after:.3f}"
        note = "mean over response tokens" + (f", {_fall(summary)}" if before is not None else "")
        cards.append(Card("Held-out response loss", figure, note, "nats a token"))
    for name, row in summary["suites"].items():
        cards.append(Card(f"Suite {name}", _from_to(row, " \u2192 "), _note(row)))
    for one in summary["compare"]:
        cards.append(Card(f"Preferred to {one['against']}", _preferred(one), f"by the judge, on {count(one['prompts'])} prompts"))
    if summary["records_kept"] is not None:
        cards.append(Card("Instruction records", count(summary["records_kept"]), "kept after filters and near-duplicates"))
    if summary["tokens_real"] is not None:
        cards.append(
            Card("Trained on", count(summary["tokens_real"]), f"real tokens in {count(summary['steps'])} steps, padding not counted")
        )
    if rates:
        cards.append(Card("Throughput", f"{statistics.median(rates):,.0f}", "median of the steps", "real tokens/s"))
    cards.append(Card("Time", duration(summary["seconds_total"]), "all stages, restarts included"))
    cards.append(Card("Bill", f"${summary['dollars']:.2f}", "paid to the teacher"))
    cards.append(Card("Peak memory", f"{summary['peak_memory_bytes'] / 1e9:.2f}", "resident, all processes of a stage together", "GB"))
    return cards
