"""What a person should know about the data of a run before it starts: what was cut, dropped, left out or not understood."""

import dataclasses
from collections.abc import Iterator

from alpaca_jax import records
from alpaca_jax.data import preference
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.origin import Files

SHARE = 0.01  # of the records; what happens to more of them is a warning
NAMES = 8  # of files or keys in a line


@dataclasses.dataclass(frozen=True)
class Remark:
    """A line to show; a warning where it probably isn't what the user wants."""

    text: str
    warning: bool = False


def of(data: Dataset) -> list[Remark]:
    """Returns the remarks on a dataset, the most important ones first."""
    return sorted([*_lost(data), *_records(data), *_files(data)], key=lambda remark: not remark.warning)


def templates(data: Dataset) -> str:
    """Returns the template of each source in words: `template alpaca`."""
    names = {name: source.template for name, source in data.sources.items()}
    if len(set(names.values())) == 1:
        return f"template {next(iter(names.values()))}"
    return "templates " + ", ".join(f"{template} ({name})" for name, template in names.items())


def _lost(data: Dataset) -> Iterator[Remark]:
    """What became of the records on their way to examples."""
    for split, counts in data.counts.items():
        where = f" ({split})" if len(data.counts) > 1 else ""
        lost = {
            "are cut at data.max_length, and lose their end": counts.truncated,
            "are dropped as longer than data.max_length": counts.dropped,
            "teach nothing: their prompt alone fills data.max_length, or no answer in them is learnt": counts.no_target,
            "have an empty answer": counts.empty_output,
            **{text: getattr(counts, name) for name, text in preference.UNUSED.items()},
        }
        for what, count in lost.items():
            if count:
                yield Remark(f"{_of(count, counts.records)} records{where} {what}", count > SHARE * counts.records)
    number = sum(len(source.survey.texts) for source in data.sources.values())
    if data.skipped:
        yield Remark(f"{_of(data.skipped, number + data.skipped)} records are broken, and left out", data.skipped > SHARE * number)
    if data.shortened:
        text = f"{_of(data.shortened, number)} conversations lose a turn without its question or answer"
        yield Remark(text, data.shortened > SHARE * number)


def _records(data: Dataset) -> Iterator[Remark]:
    """What is odd about the records themselves."""
    number = sum(len(source.survey.texts) for source in data.sources.values())
    yield from _copies(data, number)
    if data.form == "answers" and (pairs := data.counted("pairs")):
        yield Remark(f"{_of(pairs, number)} records have a rejected answer, which only objectives of preferences read: the other is learnt")
    for name, source in data.sources.items():
        if source.left_out is not None:
            yield Remark(f"{source.left_out.sum():,} records of {name} are left out: another source holds the same texts out", True)
    if history := data.counted("history"):
        yield Remark(f"{_of(history, number)} records have a history, whose turns come before the instruction and are learnt as well")
    if shown := data.counted("shown"):
        yield Remark(f"{shown:,} answers are shown and not learnt, as their records say")
    unknown = {name: count for source in data.sources.values() for name, count in source.survey.unknown_keys.items()}
    if unknown:
        listed = _listed([f"{name} ({count:,})" for name, count in sorted(unknown.items(), key=lambda item: -item[1])])
        yield Remark(f"keys that are not read: {listed}")


def _copies(data: Dataset, number: int) -> Iterator[Remark]:
    sides = ", and stand on one side of the split" if "heldout" in data.counts else ""
    for alike in (True, False):
        surveys = [source.survey for source in data.sources.values() if bool(source.survey.preferences) == alike]
        if copies := sum(survey.copies for survey in surveys):
            text = "answer the question of an earlier one" if alike else "are copies of earlier ones"
            yield Remark(f"{_of(copies, number)} records {text}{sides}", not alike and copies > SHARE * number)


def _files(data: Dataset) -> Iterator[Remark]:
    for source in data.sources.values():
        if isinstance(source.origin, Files) and source.origin.folder and (others := records.beside(source.origin.paths)):
            yield Remark(f"files in the folder of the records that are not read: {_listed(others)}")


def _of(count: int, whole: int) -> str:
    return f"{count:,} of {whole:,} ({count / max(whole, 1):.1%})"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:NAMES]) + (f" and {len(names) - NAMES:,} more" if len(names) > NAMES else "")
