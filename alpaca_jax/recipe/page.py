"""The report of a run: its figures put into the sections of `alpaca_jax.report`."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alpaca_jax import report
from alpaca_jax.recipe.marker import Marker, shell
from alpaca_jax.report import Bar, Bars, Block, Card, Cards, Code, Pair, Sample, Samples, Section, Series

Found = dict[str, Any]


def build(summary: dict[str, Any], found: Found, markers: Sequence[Marker]) -> str:
    """Returns the page as HTML; a section whose stage didn't run is left out."""
    sections = [
        Section("", [Cards(_cards(summary))]),
        *([_heldout(found["scores"])] if found["scores"].get("heldout") else []),
        *([_training(found)] if found["metrics"] else []),
        *([_samples(found["scores"])] if found["scores"].get("samples") else []),
        *([_data(found)] if found["manifest"] else []),
        _bill(summary, found, markers),
        _environment(summary, found),
        _again(summary, markers),
    ]
    machine = summary["machine"]
    facts = [
        f"finished {summary['finished'].replace('T', ' ').replace('Z', ' UTC')}",
        _device(found["train"]) or f"{machine['cores']} {machine['processor']} cores, {gigabytes(machine['memory_bytes'])}",
        f"alpaca-jax {summary['versions'].get('alpaca-jax', 'from a checkout')}",
    ]
    return report.render(_title(summary, found), _subtitle(summary, found), sections, facts)


def figures(summary: dict[str, Any]) -> dict[str, str]:
    """Returns the headline figures as text by name, for a terminal; what was not measured is left out."""
    before, after, fall = (summary[f"heldout_loss_{name}"] for name in ("before", "after", "fall"))
    lines = {
        "records kept": _or_none(summary["records_kept"], count),
        "held-out loss": None if after is None or before is None else f"{before:.3f} -> {after:.3f} nats a token (fell by {fall:.3f})",
        "trained on": _or_none(summary["tokens_real"], lambda tokens: f"{count(tokens)} real tokens"),
        "seconds": ", ".join(f"{name} {seconds:.0f}" for name, seconds in summary["seconds"].items()),
        "dollars": f"{summary['dollars']:.2f} to the teacher",
        "peak memory": gigabytes(summary["peak_memory_bytes"]),
        "Hugging Face": summary["hf_dir"],
    }
    return {name: text for name, text in lines.items() if text is not None}


def duration(seconds: float) -> str:
    """Returns 8.3 s, 4 min 20 s or 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: float) -> str:
    """Returns a whole number with its thousands apart."""
    return f"{number:,.0f}"


def gigabytes(size: float) -> str:
    """Returns bytes as GB (1e9)."""
    return f"{size / 1e9:.2f} GB"


def _title(summary: dict[str, Any], found: Found) -> str:
    fall = summary["heldout_loss_fall"]
    if fall is None:
        return f"Run {summary['dir']}"
    verb = "fell" if fall >= 0 else "rose"
    return f"Held-out loss {verb} by {abs(fall):.2f} nats in {duration(summary['seconds_total'])}"


def _subtitle(summary: dict[str, Any], found: Found) -> str:
    teacher = found["manifest"].get("teacher", {}).get("model")
    student = found["scores"].get("baseline")
    parts = [
        f"{teacher} wrote {count(summary['records_kept'])} instruction records" if teacher else None,
        f"{student} was fine-tuned on them" if student else "a model was fine-tuned on them" if found["train"] else None,
        "its answers to records it never saw were scored before and after" if summary["heldout_loss_before"] is not None else None,
        "the result is a Hugging Face checkpoint" if summary["hf_dir"] else None,
    ]
    said = [part for part in parts if part]
    text = "; ".join(said)
    return text[:1].upper() + text[1:] + "." if said else ""


def _cards(summary: dict[str, Any]) -> list[Card]:
    before, after, fall = (summary[f"heldout_loss_{name}"] for name in ("before", "after", "fall"))
    cards = []
    if after is not None:
        note = (
            f"{before:.3f} before, {abs(fall):.3f} {'less' if fall >= 0 else 'more'} now"
            if before is not None
            else "mean over response tokens"
        )
        cards.append(Card("Held-out response loss", f"{after:.3f}", note, "nats a token"))
    if summary["records_kept"] is not None:
        cards.append(Card("Instruction records", count(summary["records_kept"]), "kept after filters and near-duplicates"))
    if summary["tokens_real"] is not None:
        cards.append(
            Card("Trained on", count(summary["tokens_real"]), f"real tokens in {count(summary['steps'] or 0)} steps, padding not counted")
        )
    cards.append(Card("Time", duration(summary["seconds_total"]), "all stages, every start of them"))
    cards.append(Card("Bill", f"${summary['dollars']:.2f}", "paid to the teacher"))
    cards.append(Card("Peak memory", f"{summary['peak_memory_bytes'] / 1e9:.2f}", "resident, all processes together", "GB"))
    return cards


def _heldout(scores: dict[str, Any]) -> Section:
    heldout = scores["heldout"]
    before, after = heldout.get("before"), heldout["after"]
    bars = [Bar("before", before["loss"], f"{before['loss']:.4f}", "before")] if before else []
    bars.append(Bar("after", after["loss"], f"{after['loss']:.4f}"))
    caption = (
        f"{count(after['examples'])} held-out examples, {count(after['tokens'])} response tokens; every token weighs the same. Nats a token; "
        f"perplexity {after['perplexity']:.2f}" + (f", before {before['perplexity']:.2f}." if before else ".")
    )
    if before and not heldout.get("comparable", True):
        caption += " The two models have different tokenizers, so their losses a token are not comparable."
    return Section("Held-out loss", [Bars(bars, caption)], "The loss on answers the student was never shown, lower is better.")


def _training(found: Found) -> Section:
    lines, heldout = found["metrics"], (found["scores"].get("heldout") or {})
    tokens = [line["tokens_real"] for line in lines]
    loss = [line["loss"] for line in lines]
    curves = [
        Series("", tokens, loss, "muted", "faint"),
        Series("training, mean of the last steps", tokens, report.smooth(loss, max(1, len(loss) // 8)), "accent"),
    ]
    if heldout.get("before"):
        ends = [heldout["before"]["loss"], heldout["after"]["loss"]]
        curves.append(Series("held-out, before and after", [0, tokens[-1]], ends, "before", "points"))
    rates = [
        Series("real tokens", tokens, [line.get("tokens_per_second") for line in lines], "accent"),
        Series("slots, padding included", tokens, [line.get("slots_per_second") for line in lines], "third"),
    ]
    plots = Pair(
        [
            report.plot(
                curves, "real tokens seen", "response loss (nats a token)", "Loss on response tokens only; the thin line is each step."
            ),
            report.plot(rates, "real tokens seen", "tokens a second", "Tokens are real (non-pad) tokens; the gap is padding.", zero=True),
        ]
    )
    return Section("Training", [plots, _training_table(found["train"], lines)])


def _training_table(train: dict[str, Any], lines: Sequence[dict[str, Any]]) -> report.Table:
    rates = [line["tokens_per_second"] for line in lines if line.get("tokens_per_second")]
    mfu = [line["mfu"] for line in lines if line.get("mfu") is not None]
    used = [line["utilisation"] for line in lines if line.get("utilisation") is not None]
    rows = [
        ("steps", _or_none(train.get("steps"), count)),
        (
            "first and last loss",
            f"{lines[0]['loss']:.3f} and {lines[-1]['loss']:.3f} nats a token" if lines[0]["loss"] and lines[-1]["loss"] else None,
        ),
        ("median rate", f"{statistics.median(rates):,.0f} real tokens a second" if rates else None),
        (
            "MFU",
            f"{100 * statistics.median(mfu):.1f}% (median; FLOP of real tokens over the dense peak)"
            if mfu
            else "not known: no published peak for this device",
        ),
        ("slots holding a real token", f"{100 * statistics.median(used):.1f}%" if used else None),
        ("highest learning rate", f"{max(line['learning_rate'] for line in lines):.2g}" if "learning_rate" in lines[0] else None),
    ]
    return report.Table(["", ""], [(name, text) for name, text in rows if text])


def _samples(scores: dict[str, Any]) -> Section:
    samples = scores["samples"]
    both = samples[0].get("before") is not None
    labels = ["before", "after"] if both else ["after"]
    shown = [Sample(sample["prompt"], [sample[label] or "(no text)" for label in labels]) for sample in samples]
    return Section("Samples", [Samples(labels, shown)], "Greedy answers to fixed prompts, each cut only by its own end or the token limit.")


def _data(found: Found) -> Section:
    manifest = found["manifest"]
    counts = dict(manifest["counts"])
    kept = counts.pop("kept", manifest["records"])
    total = kept + sum(counts.values())
    left, bars = total, [Bar("answers", total, count(total), "muted")]
    for name, dropped in counts.items():
        if dropped:
            left -= dropped
            bars.append(Bar(f"after {name.replace('_', ' ')}", left, f"{count(left)}  (-{count(dropped)})", "muted"))
    bars.append(Bar("kept", kept, count(kept)))
    teacher = manifest["teacher"]
    rows = [
        ("method", manifest["method"].replace("_", "-")),
        ("teacher", _flat(teacher)),
        ("sampling", _flat(manifest["sampling"])),
        (
            "requests",
            f"{count(manifest['requests'])}, {count(manifest['prompt_tokens'])} prompt and {count(manifest['completion_tokens'])} completion tokens",
        ),
        ("seed", str(manifest["seed"])),
        ("ended by", manifest["stopped_by"]),
        ("made", manifest["made"]),
        ("sha256", manifest["sha256"]),
    ]
    blocks: list[Block] = [Bars(bars, "What each filter left; filters that dropped nothing are not shown."), report.Table(["", ""], rows)]
    texts = [(record.instruction + (f"\n{record.input}" if record.input else ""), record.output) for record in found["records"]]
    if texts:
        blocks.append(Samples(["the teacher's answer"], [Sample(prompt, [answer]) for prompt, answer in texts]))
    return Section("Data", blocks, "Where the records came from, what was dropped, and the first of them.")


def _bill(summary: dict[str, Any], found: Found, markers: Sequence[Marker]) -> Section:
    rows = [
        (
            marker.name,
            f"{marker.seconds:,.1f}",
            str(marker.starts),
            f"{marker.peak_memory_bytes / 1e9:.2f}",
            f"{summary['dollars'] if marker.command[0] == 'generate' else 0:.2f}",
        )
        for marker in markers
    ]
    rows.append(
        ("together", f"{summary['seconds_total']:,.1f}", "", f"{summary['peak_memory_bytes'] / 1e9:.2f}", f"{summary['dollars']:.2f}")
    )
    prices = found["manifest"].get("prices")
    caption = f"Prices: {_flat(prices)}. " if prices else ""
    caption += "The machine's own time is not priced. Memory is the highest sum of resident memory over a stage's processes, sampled twice a second."
    table = report.Table(["stage", "seconds", "starts", "peak GB", "dollars"], rows, numbers=(1, 2, 3, 4), caption=caption)
    bars = Bars([Bar(marker.name, marker.seconds, duration(marker.seconds)) for marker in markers])
    return Section("The bill", [Pair([bars, table])])


def _environment(summary: dict[str, Any], found: Found) -> Section:
    machine = summary["machine"]
    rows = [
        ("accelerator", _device(found["train"])),
        ("system", machine["platform"]),
        ("processor", f"{machine['processor']}, {machine['cores']} cores, {gigabytes(machine['memory_bytes'])} of memory"),
    ]
    here = report.Table(["machine", ""], [(name, text) for name, text in rows if text])
    return Section("Environment", [Pair([here, report.Table(["package", "version"], list(summary["versions"].items()))])])


def _again(summary: dict[str, Any], markers: Sequence[Marker]) -> Section:
    blocks: list[Block] = [
        Code(summary["command"], "The whole run"),
        Code("\n".join(shell(marker.command) for marker in markers), "The same, stage by stage"),
    ]
    if summary["chat"]:
        blocks.append(Code(summary["chat"], "Chat with the student: an OpenAI-compatible endpoint and a chat page on this machine"))
    return Section("Make it again", blocks)


def _device(train: dict[str, Any]) -> str | None:
    """The accelerator as train names it."""
    hardware = train.get("hardware")
    return _flat(hardware) if isinstance(hardware, Mapping) else hardware


def _flat(mapping: Mapping[str, Any]) -> str:
    """A small mapping as one line; what is not set is left out."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in mapping.items() if value not in (None, "", [], {}))


def _or_none(value: Any, text: Callable[[Any], str]) -> str | None:
    return None if value is None else text(value)
