"""All figures of the data sheet and the plan, and the lines that show them."""

import dataclasses
import math
from typing import Any

from alpaca_jax.data import preference, remarks
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.data.remarks import Remark
from alpaca_jax.inspect.sheet import Facts, Lengths, Source

FIGURES = ("mean", "median", "p95", "p99", "max", "total")
KINDS = {"full": "all", "read": "context (prompt)", "learnt": "learnt (response)"}
Lines = list[tuple[str, str]]

FACTS = {
    "records": "records",
    "documents": "texts for pre-training",
    "with_input": "with an input",
    "with_system": "with a system message",
    "several_turns": "with several turns",
    "empty_output": "with an empty answer",
    "pairs": "with a rejected answer",
    "wanted": "with an answer that is marked as wanted",
    "unwanted": "with an answer that is marked as unwanted",
    "longer_chosen": "with a chosen answer longer than the rejected one",
    "same_instruction": "with the instruction of an earlier record",
    "same_prompt": "with its input as well",
}
COUNTS = {
    "kept": "kept as examples",
    "truncated": "cut at data.max_length, without their end",
    "split": "further pieces of long documents",
    "turns": "later answers of conversations, also learnt",
    "dropped": "dropped as too long",
    "no_target": "nothing to learn within data.max_length",
    "tokens": "tokens",
    "target_tokens": "learnt tokens",
    **preference.UNUSED,
}
ALWAYS = {"records", "with_input", "several_turns", "empty_output", "same_instruction", "same_prompt", *COUNTS}
ALWAYS -= {"split", "turns", *preference.UNUSED}


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """The steps and batches of a run; `statistics` are those of its first epoch (`Batches.statistics`)."""

    rows: int
    sequence_length: int
    steps: int
    steps_per_epoch: int
    statistics: dict[str, int | float]

    @classmethod
    def of(cls, batches: Batches, epochs: float, steps: int | None) -> "RunPlan":
        """Returns the plan of a run of `epochs` epochs or, if given, of `steps` steps."""
        taken = steps or max(1, math.floor(epochs * batches.steps_per_epoch))
        return cls(batches.rows, batches.config.sequence_length, taken, batches.steps_per_epoch, batches.statistics(0))


@dataclasses.dataclass(frozen=True)
class Summary:
    """The facts about the data of a run before it starts; `lengths` are those of the training examples."""

    sources: list[Source]
    facts: Facts
    data: Dataset
    lengths: Lengths
    plan: RunPlan

    def tables(self) -> list[tuple[str, Lines]]:
        """Returns each table's title and its lines."""
        tables = [("records", self._facts())]
        tables += [(f"provenance of {source.name}", _provenance(source)) for source in self.sources if source.manifest]
        tables += [(f"examples: {split}" if len(self.data.counts) > 1 else "examples", self._counts(split)) for split in self.data.counts]
        if self.data.mixture is not None:
            tables.append(("sources", [_share(row) for row in self.data.mixture.table()]))
        return [*tables, ("plan", self._plan())]

    def remarks(self) -> list[Remark]:
        """Returns what was cut, dropped, left out or not understood."""
        return remarks.of(self.data)

    def figures(self) -> dict[str, Any]:
        """Returns the figures by name, for callers of the verb as a function."""
        return {
            "records": dataclasses.asdict(self.facts) | {"skipped": self.data.skipped, "shortened": self.data.shortened},
            "examples": {split: dataclasses.asdict(counts) for split, counts in self.data.counts.items()},
            "lengths": self.lengths.table(),
            "plan": dataclasses.asdict(self.plan),
            "form": self.data.form,
            "templates": {name: source.template for name, source in self.data.sources.items()},
            "copies": sum(source.survey.copies for source in self.data.sources.values()),
            "remarks": [remark.text for remark in self.remarks()],
            "fingerprint": self.data.fingerprint,
        }

    def _facts(self) -> Lines:
        counted = dataclasses.asdict(self.facts)
        lines = [(text, _of(counted[name], self.facts.records)) for name, text in FACTS.items() if counted[name] or name in ALWAYS]
        lines[0] = (lines[0][0], number(self.facts.records))
        lines.insert(1, ("rendered in", remarks.templates(self.data)))
        if self.data.skipped:
            lines.append(("broken records, skipped", number(self.data.skipped)))
        if self.data.shortened:
            lines.append(("conversations without an incomplete turn", number(self.data.shortened)))
        return lines

    def _counts(self, split: str) -> Lines:
        counts = dataclasses.asdict(self.data.counts[split])
        lines = []
        for name, text in COUNTS.items():
            if counts[name] or name in ALWAYS:
                whole = {"tokens": 0, "turns": 0, "split": 0, "target_tokens": counts["tokens"]}.get(name, counts["records"])
                lines.append((text, _of(counts[name], whole)))
        return lines

    def _plan(self) -> Lines:
        plan, figures = self.plan, self.plan.statistics
        length = (
            f"{plan.sequence_length:,}" if plan.sequence_length * plan.rows == figures["slots"] else f"at most {plan.sequence_length:,}"
        )
        per_step = figures["examples"] / figures["steps"]
        return [
            ("steps", f"{plan.steps:,}, which are {plan.steps / plan.steps_per_epoch:.3g} epochs of {plan.steps_per_epoch:,}"),
            ("examples in a step", f"{per_step:,.0f}" if per_step.is_integer() else f"{per_step:,.1f} on average"),
            ("examples left out of an epoch, chosen by the seed", f"{figures['left_out']:,}"),
            ("rows of a batch, on one device (more devices may round up)", f"{plan.rows:,} of {length} slots"),
            (
                "real tokens in a step",
                f"{figures['tokens_mean']:,.0f} on average, {figures['tokens_min']:,} to {figures['tokens_max']:,}",
            ),
            (
                "slots that hold a real token",
                f"{figures['utilisation_mean']:.1%} on average, {figures['utilisation_min']:.1%} in the emptiest step",
            ),
        ]


def number(value: float) -> str:
    """Returns a whole number with thousands separators, any other value with up to two decimals."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}".rstrip("0")


def _of(count: int, whole: int) -> str:
    return f"{count:,} ({count / whole:.2%})" if count and whole and count != whole else f"{count:,}"


def _share(row: dict[str, Any]) -> tuple[str, str]:
    examples = f"{row['examples']:,} examples, {row['tokens']:,} tokens"
    return row["source"], f"{examples}, {row['epochs']:.3g} times in an epoch: {row['share']:.1%} of the tokens"


def _provenance(source: Source) -> Lines:
    manifest = source.manifest
    assert manifest is not None
    teacher = ", ".join(f"{key} {value}" for key, value in manifest.teacher.items() if value not in (None, "", {}))
    lines = [
        ("method", manifest.method.replace("_", "-")),
        ("teacher", teacher),
        ("made", manifest.made),
        ("bill", f"{manifest.requests:,} requests, {manifest.dollars:.2f} dollars"),
        ("the teacher's answers", ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in manifest.counts.items() if count)),
    ]
    if source.changed:
        lines.append(("attention", "the records have changed since this manifest was written"))
    return lines
