"""The sources of a run: the records of each, surveyed, with its template and its part of the split."""

import dataclasses
import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from alpaca_jax.data import origin, survey, template
from alpaca_jax.data.built import cache_folders
from alpaca_jax.data.config import DataConfig, SourceConfig
from alpaca_jax.data.origin import Origin
from alpaca_jax.data.survey import Survey
from alpaca_jax.tokenizer import Tokenizer

CHANGED = "2"  # the reading of the records that versions before it read in another way


@dataclasses.dataclass(frozen=True)
class Source:
    """One set of records; `heldout`, `left_out` and `beyond` (bool [N]) are None where no record is."""

    config: SourceConfig
    origin: Origin
    survey: Survey
    template: str  # `auto` is named as the one it stands for
    heldout: np.ndarray | None
    left_out: np.ndarray | None  # of training, as copies of what is held out of another source
    moved: bool  # whether other records are held out than by an earlier version, which tore copies apart
    beyond: np.ndarray | None = None  # of training, too, by data.limit

    @property
    def trained(self) -> np.ndarray | None:
        """Which records are trained on, bool [N]; None: all of them."""
        apart = [each for each in (self.heldout, self.left_out, self.beyond) if each is not None]
        return ~np.logical_or.reduce(apart) if apart else None

    @property
    def trained_texts(self) -> np.ndarray:
        """The texts that are trained on, uint64 [n], as `Survey.texts`."""
        return self.survey.texts if self.trained is None else self.survey.texts[self.trained]

    def key(self) -> dict[str, str]:
        """Returns what identifies these records beyond their files: nothing where an earlier version made the same of them."""
        key = {"reading": CHANGED} if self.moved or self.survey.changed else {}
        if self.survey.preferences:  # which earlier versions refused
            key["preferences"] = "1"
        if self.left_out is not None:
            key["left_out"] = hashlib.sha256(np.packbits(self.left_out).tobytes()).hexdigest()
        return key


def find(config: DataConfig, path: str | Path, tokenizer: Tokenizer) -> dict[str, Source]:
    """Returns the records at `path`, or each of `config.sources`; surveys those that never were."""
    cache, copies = cache_folders(config.cache)
    found = {}
    for name, source in (config.sources or {"records": SourceConfig(records=str(path), epochs=1)}).items():
        records = origin.find(source.records, config.on_error)
        surveyed = survey.of(records, cache, copies)
        split = surveyed.split(config.heldout)
        written = source.template or config.template
        if written == template.AUTO:
            written = template.following(surveyed.counted, len(surveyed.texts), tokenizer)
        heldout, moved = (None, False) if split is None else (split.heldout, split.moved)
        beyond = None if config.limit is None else _beyond(config.limit, surveyed.ranks, heldout)
        found[name] = Source(source, records, surveyed, written, heldout, None, moved, beyond)
    return _apart(found) if len(found) > 1 and config.heldout else found


def settled(config: DataConfig, path: str | Path, tokenizer: Tokenizer) -> DataConfig:
    """Returns the config with the templates that `auto` stands for by their names: what a run writes down, and others read.

    `data.template` is that of most sources, and a source keeps null where it has the same.
    """
    if template.AUTO not in (config.template, *(source.template for source in config.sources.values())):
        return config
    names = {name: source.template for name, source in find(config, path, tokenizer).items()}
    common = Counter(names.values()).most_common(1)[0][0] if config.template == template.AUTO else config.template
    sources = {
        name: dataclasses.replace(source, template=names[name] if source.template or names[name] != common else None)
        for name, source in config.sources.items()
    }
    return dataclasses.replace(config, template=common, sources=sources)


def _apart(sources: dict[str, Source]) -> dict[str, Source]:
    """The sources, with copies of what is held out of one left out of the training of the others."""
    heldout = np.concatenate([source.survey.texts[source.heldout] for source in sources.values() if source.heldout is not None])
    apart = {}
    for name, source in sources.items():
        left_out = np.isin(source.survey.texts, heldout)
        if source.heldout is not None:
            left_out &= ~source.heldout
        apart[name] = dataclasses.replace(source, left_out=left_out if left_out.any() else None)
    return apart


def _beyond(limit: int, ranks: np.ndarray, heldout: np.ndarray | None) -> np.ndarray | None:
    """The records, bool [N], that aren't held out and come after the first `limit` of those by their ranks; None where none does."""
    order = np.argsort(ranks, kind="stable")
    trained = order if heldout is None else order[~heldout[order]]
    beyond = np.zeros(len(ranks), bool)
    beyond[trained[limit:]] = True
    return beyond if beyond.any() else None
