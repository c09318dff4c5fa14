"""The held-out loss and the samples of scores.json as sections of a page."""

from typing import Any

from alpaca_jax.report import Bar, Bars, Sample, Samples, Section


def heldout(scores: dict[str, Any]) -> Section:
    """The losses as bars."""
    heldout = scores["heldout"]
    before, after = heldout.get("before"), heldout["after"]
    bars = [Bar("before", before["loss"], f"{before['loss']:.4f}", "before")] if before else []
    bars.append(Bar("after", after["loss"], f"{after['loss']:.4f}"))
    caption = (
        f"Nats a token over {after['examples']:,} examples, {after['tokens']:,} response tokens, each with the same weight; "
        f"perplexity {after['perplexity']:.2f}" + (f", before {before['perplexity']:.2f}." if before else ".")
    )
    if before and not heldout.get("comparable", True):
        caption += " The two models have different tokenizers, so their losses per token are not comparable."
    return Section("Held-out loss", [Bars(bars, caption)], "The loss on answers that the student was not trained on; lower is better.")


def samples(scores: dict[str, Any]) -> Section:
    """The answers side by side."""
    samples = scores["samples"]
    both = samples[0].get("before") is not None
    labels = ["before", "after"] if both else ["after"]
    blocks = [Sample(sample["prompt"], [sample[label] or "(no text)" for label in labels]) for sample in samples]
    return Section("Samples", [Samples(labels, blocks)], "Greedy answers to fixed prompts; each ends by itself or at the token limit.")
