"""Whether a model was trained on the records that it is to be scored on."""

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from alpaca_jax import records
from alpaca_jax.data import origin
from alpaca_jax.data.config import DataConfig
from alpaca_jax.errors import UserError
from alpaca_jax.scores import runs
from alpaca_jax.scores.runs import Run


@dataclasses.dataclass(frozen=True)
class Finding:
    """What is known of one run: how many of the scored records it was trained on (None: its own records are gone)."""

    run: Run
    trained: int | None
    scored: int

    def __str__(self) -> str:
        if self.trained is None:
            return f"the records that {self.run.dir} was trained on are gone, so nobody can tell whether these are among them"
        return f"{self.run.dir} was trained on {self.trained} of these {self.scored} held-out records"


def records_of(run: Run) -> Iterator[records.Record]:
    """Yields the records that a run was trained on, those that it held out left out; a UserError where they are gone."""
    yield from _records(run.records(), run.heldout, _on_error(run), held=False)


def find(source: str, data: DataConfig, places: Mapping[str, str], fingerprint: str) -> list[Finding]:
    """What the run of `source`, and the runs that it started from, have seen of the held-out records of `data` at `places`.

    The same examples (`fingerprint`), or the same files with the same number held out, are the run's own split. Otherwise texts are
    compared, whatever file they lie in.
    """
    found = []
    scored: frozenset[bytes] | None = None
    for run in runs.lineage(source):
        if run.fingerprint == fingerprint or _split_of(run) == _split(places, data.heldout, data.on_error):
            continue
        if scored is None:
            scored = frozenset(_texts(places, data.heldout, data.on_error, held=True))
        try:
            own = set(_texts(run.records(), run.heldout, _on_error(run), held=False))
        except UserError:
            found.append(Finding(run, None, len(scored)))
            continue
        if both := len(scored & own):
            found.append(Finding(run, both, len(scored)))
    return found


def _split_of(run: Run) -> list[Any] | None:
    try:
        return _split(run.records(), run.heldout, _on_error(run))
    except UserError:
        return None


def _split(places: Mapping[str, str], heldout: int, on_error: records.OnError) -> list[Any]:
    """What decides which records are held out."""
    return [heldout, *sorted(origin.find(place, on_error).fingerprint for place in places.values())]


def _texts(places: Mapping[str, str], heldout: int, on_error: records.OnError, held: bool) -> Iterator[bytes]:
    """The hash of each record's text that is held out, or that is not."""
    yield from map(_text, _records(places, heldout, on_error, held))


def _records(places: Mapping[str, str], heldout: int, on_error: records.OnError, held: bool) -> Iterator[records.Record]:
    """The records that are held out, or that are not."""
    for place in places.values():
        found = origin.find(place, on_error)
        stream = found.stream(Counter())
        if heldout:
            chosen = origin.held_out(found, heldout)
            stream = itertools.compress(stream, chosen if held else ~chosen)
        elif held:
            continue
        yield from stream


def _text(record: records.Record) -> bytes:
    texts = [record.system, record.instruction, record.input, record.output, record.turns]
    return hashlib.sha256(json.dumps(texts).encode()).digest()[:16]


def _on_error(run: Run) -> records.OnError:
    return "skip" if run.data.get("on_error") == "skip" else "stop"
