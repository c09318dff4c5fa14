"""Suites in the middle of a run: the weights as they are now answer their questions on the run's own mesh."""

from collections.abc import Iterator, Mapping

import jax

from alpaca_jax.rundir import RunDir
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites import running
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.scores.suites.results import Result
from alpaca_jax.terminal import Console
from alpaca_jax.train.figures import SUITES


def figures(suites: Mapping[str, SuiteConfig], loaded: Loaded, step: int, folder: RunDir, console: Console) -> dict[str, float]:
    """Returns what each suite says of a model, 0 to 1, under names such as `suites/basics/score` and `suites/basics/choice`.

    The results and all answers are kept in train/suites/STEP/NAME, by one process alone: several would each want to write them.
    """
    found: dict[str, float] = {}
    for name, suite in suites.items():
        place = ("train", SUITES, str(step), name)
        alone = jax.process_count() == 1
        result = running.run(name, suite, loaded, folder if alone else None, console, f"step {step}: ", place)
        found |= {f"{SUITES}/{name}/{figure}": value for figure, value in _of(result, name, suite)}
    return found


def _of(result: Result, name: str, suite: SuiteConfig) -> Iterator[tuple[str, float]]:
    """The figures of the rows of no group: the suite's own, or its tasks'. The score is the first metric that is reported."""
    rows = [row for row in result.rows if row.depth == 0]
    reported = suite.reported or tuple(dict.fromkeys(row.metric for row in rows))
    for row in rows:
        parts = [*([row.task] if row.task != name else []), row.metric, *([row.filter] if row.filter != "none" else [])]
        yield "/".join(parts), row.value
    yield "score", next(row.value for metric in reported for row in rows if row.metric == metric)
