"""Whether the jobs of a sweep die of one and the same mistake, so that to start the rest would be in vain."""

import datetime
import re
from collections.abc import Iterable, Sequence

from alpaca_jax.cluster import logs, record
from alpaca_jax.errors import UserError
from alpaca_jax.jobs.sweep import Entry, Sweep

SECONDS = 120.0  # a job that has run longer has got beyond what its settings alone can spoil
OWN = "alpaca-jax: "  # before the message that ends a verb


def common(jobs: Sweep, ended: Sequence[Entry]) -> str:
    """Returns the mistake that the jobs which haven't begun would die of as well, as far as the `ended` ones tell; "" where they might not.

    That is so where all of these were over at once because of the user's mistake (exit code 2), and either its message names nothing that
    is swept, or two say the same.
    """
    said = [mistake_of(entry) for entry in ended]
    if not said or not all(said):
        return ""
    if len(said) == 1:
        return "" if _names(said[0], ended[0], jobs.entries) else said[0]
    return said[0] if len({essence(text, entry) for text, entry in zip(said, ended, strict=True)}) == 1 else ""


def mistake_of(entry: Entry) -> str:
    """Returns what a job said when it ended at once because of a mistake of the user's, "" for any other job."""
    if not record.exists(entry.job.folder):
        return ""
    written = record.read(entry.job.folder)
    if written.exit_code != UserError.exit_code or not written.attempts or (last := written.attempts[-1]).ended is None:
        return ""
    began, over = (datetime.datetime.fromisoformat(time) for time in (last.started, last.ended))
    if (over - began).total_seconds() > SECONDS:
        return ""
    first = logs.first_failure(logs.ends(logs.folder_of(entry.job.folder, last.number), entry.job.processes))
    return "" if first is None else _message(logs.words(first.log))


def essence(text: str, entry: Entry) -> str:
    """Returns a message without what differs from job to job: its folder, its swept values and where it ran."""
    for own in sorted((entry.dir, str(entry.job.folder), *entry.swept.values()), key=len, reverse=True):
        text = text.replace(own, "*") if own else text
    return text


def _message(lines: Sequence[str]) -> str:
    starts = [number for number, line in enumerate(lines) if line.startswith(OWN)]
    return "\n".join(lines[starts[-1] :]).removeprefix(OWN).strip() if starts else ""


def _names(text: str, entry: Entry, entries: Iterable[Entry]) -> bool:
    """Whether a message is about something that is swept: a key, its last part, or the job's own value."""
    text = text.replace(entry.dir, "").replace(str(entry.job.folder), "")
    keys = {key for each in entries for key in each.swept}
    words = {*keys, *(key.rpartition(".")[2] for key in keys), *entry.swept.values()}
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words if word)
