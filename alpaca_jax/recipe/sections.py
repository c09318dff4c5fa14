"""The sections of the report: the figures of each stage, and how to reproduce the run."""

import statistics
from collections.abc import Sequence
from typing import Any

from alpaca_jax import report
from alpaca_jax.recipe.marker import Marker, shell
from alpaca_jax.recipe.units import count, duration, flat, gigabytes, or_none
from alpaca_jax.report import Bar, Bars, Block, Code, Pair, Sample, Samples, Section, Series

Outputs = dict[str, Any]  # what `outcome.read` returns


def training(outputs: Outputs) -> Section:
    lines = [line for line in outputs["metrics"] if line.get("loss") is not None and "tokens_real" in line]
    scored = [(_tokens_at(lines, line["step"]), line["heldout_loss"]) for line in outputs["metrics"] if "heldout_loss" in line]
    tokens, loss = [line["tokens_real"] for line in lines], [line["loss"] for line in lines]
    curves = [
        Series("", tokens, loss, "muted", "faint"),
        Series("training, mean of the last steps", tokens, report.smooth(loss, max(1, len(loss) // 8)), "accent"),
    ]
    heldout = outputs["scores"].get("heldout") or {}
    if scored:
        curves.append(
            Series(
                "held-out", [0, *(at for at, _ in scored)], [(heldout.get("before") or {}).get("loss"), *(y for _, y in scored)], "before"
            )
        )
    elif heldout.get("before"):
        ends = [heldout["before"]["loss"], heldout["after"]["loss"]]
        curves.append(Series("held-out, before and after", [0, tokens[-1]], ends, "before", "points"))
    rates = [
        Series("real tokens", tokens, [line["tokens_per_second"] for line in lines], "accent"),
        Series("slots, padding included", tokens, [line["slots_per_second"] for line in lines], "third"),
    ]
    plots = Pair(
        [
            report.plot(curves, "real tokens seen", "response loss (nats a token)", "Response tokens only; the thin line is every step."),
            report.plot(rates, "real tokens seen", "tokens a second", "The gap between the two is padding.", zero=True),
        ]
    )
    return Section("Training", [plots, _training_table(outputs["train"], lines)])


def _tokens_at(lines: Sequence[dict[str, Any]], step: int) -> int:
    return max((line["tokens_real"] for line in lines if line["step"] <= step), default=0)


def _training_table(train: dict[str, Any], lines: Sequence[dict[str, Any]]) -> report.Table:
    rates, mfu, used = ([line[key] for line in lines if line.get(key)] for key in ("tokens_per_second", "mfu", "utilisation"))
    first, last = lines[0]["loss"], lines[-1]["loss"]
    source = (train.get("hardware") or {}).get("peak_source")
    rows = [
        ("parameters", or_none(train.get("parameters"), count)),
        (
            "steps",
            or_none(
                train.get("steps"),
                lambda steps: f"{count(steps)}, {train.get('epochs', 0):.3g} epochs of {count(train['examples'])} examples",
            ),
        ),
        ("loss", None if first is None or last is None else f"{first:.3f} at the first step, {last:.3f} at the last"),
        ("highest learning rate", f"{max(line.get('learning_rate', 0) for line in lines):.2g}"),
        ("rate", f"{statistics.median(rates):,.0f} real tokens a second (median of the steps)" if rates else None),
        ("slots holding a real token", f"{100 * statistics.median(used):.1f}%" if used else None),
        ("MFU", f"{100 * statistics.median(mfu):.1f}%, FLOP of real tokens over the peak ({source})" if mfu else f"unknown ({source})"),
        ("compiling", or_none(train.get("compile_seconds"), duration)),
    ]
    return report.Table([], [(name, text) for name, text in rows if text])


def data(outputs: Outputs) -> Section:
    manifest = outputs["manifest"]
    tokens = f"{count(manifest['prompt_tokens'])} prompt and {count(manifest['completion_tokens'])} completion tokens"
    rows = [
        ("method", manifest["method"].replace("_", "-")),
        ("teacher", flat(manifest["teacher"])),
        ("sampling", flat(manifest["sampling"])),
        ("requests", f"{count(manifest['requests'])}: {tokens}"),
        ("seed", str(manifest["seed"])),
        ("ended by", manifest["stopped_by"]),
        ("made", manifest["made"]),
        ("sha256", manifest["sha256"]),
    ]
    blocks: list[Block] = [_funnel(manifest), report.Table([], rows)]
    texts = [(f"{record.instruction}\n{record.input}".strip(), record.output) for record in outputs["records"]]
    if texts:
        blocks.append(Samples(["the teacher's answer"], [Sample(prompt, [answer]) for prompt, answer in texts]))
    return Section("Data", blocks, "How many of the teacher's answers were kept, where they came from, and the first of them.")


def _funnel(manifest: dict[str, Any]) -> Bars:
    """The number of candidates left after each filter, the filter that dropped most first."""
    drops = sorted(((name, number) for name, number in manifest["counts"].items() if name != "kept" and number), key=lambda drop: -drop[1])
    left = manifest["records"] + sum(number for _, number in drops)
    bars = [Bar("candidates", left, count(left), "muted")]
    for name, number in drops:
        left -= number
        bars.append(Bar(f"without {name.replace('_', ' ')}", left, f"{count(left)}  (\u2212{count(number)})", "muted"))
    return Bars(
        [*bars[:-1], Bar(bars[-1].label, left, bars[-1].text)], "Each bar shows what is left; filters that dropped nothing are omitted."
    )


def bill(summary: dict[str, Any], outputs: Outputs, markers: Sequence[Marker]) -> Section:
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
    prices = outputs["manifest"].get("prices")
    caption = ""
    if prices:
        charged = f"{prices['prompt']:g} and {prices['completion']:g} dollars a million prompt and completion tokens"
        caption = f"{charged if prices['prompt'] or prices['completion'] else 'The teacher is free of charge'} ({prices['source']}). "
    caption += (
        "The machine's own time is not priced. Memory: the highest sum of resident bytes over a stage's processes, sampled twice a second."
    )
    table = report.Table(["stage", "seconds", "starts", "peak GB", "dollars"], rows, numbers=(1, 2, 3, 4), caption=caption)
    bars = Bars([Bar(marker.name, marker.seconds, duration(marker.seconds)) for marker in markers])
    return Section("The bill", [Pair([bars, table])])


def environment(summary: dict[str, Any], outputs: Outputs) -> Section:
    machine = summary["machine"]
    rows = [
        ("accelerator", device(outputs["train"])),
        ("system", machine["platform"]),
        ("processor", f"{machine['processor']}, {machine['cores']} cores, {gigabytes(machine['memory_bytes'])} of memory"),
    ]
    here = report.Table([], [(name, text) for name, text in rows if text])
    return Section("Environment", [Pair([here, report.Table([], list(summary["versions"].items()))])])


def again(summary: dict[str, Any], markers: Sequence[Marker]) -> Section:
    blocks: list[Block] = [
        Code(summary["command"], "The whole run"),
        Code("\n".join(shell(marker.command) for marker in markers), "Stage by stage"),
    ]
    if summary["chat"]:
        blocks.append(Code(summary["chat"], "Chat with the student: an OpenAI-compatible endpoint and a chat page on this machine"))
    return Section("Reproduce this run", blocks)


def device(train: dict[str, Any]) -> str | None:
    """The accelerators as train names them; None for a CPU, which `machine` describes better."""
    hardware = train.get("hardware") or {"chip": "cpu"}
    return None if hardware["chip"] == "cpu" else f"{hardware['devices']} x {hardware['chip']}"
