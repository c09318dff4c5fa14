"""lm-evaluation-harness itself: it builds the questions of tasks, asks a model, and takes the answers apart."""

import contextlib
import importlib.metadata
import io
import logging
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.scores.suites.model import HarnessModel


def version() -> str:
    """The version of the harness, "" where it isn't installed."""
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return ""


def evaluated(model: HarnessModel, chosen: Any, suite: SuiteConfig) -> dict[str, Any]:
    """Returns what the harness's `evaluate` gives for tasks that are loaded: results, versions, shots, samples and more."""
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate

    LM.register(HarnessModel)
    for task in chosen["tasks"].values():
        task.set_config(key="num_fewshot", value=suite.shots(task.get_config("num_fewshot")))
        task.set_fewshot_seed(seed=suite.seed)
    with quiet(), _seeded(suite.seed):
        raw = evaluate(model, chosen, limit=suite.limit, log_samples=True, apply_chat_template=suite.chat, fewshot_as_multiturn=suite.chat)
    assert raw is not None
    return dict(raw)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The harness without its own bars, one a task, and remarks; and in one process: those that it forks for a bootstrap, JAX forbids."""
    import lm_eval.api.task as building

    loggers, before = [logging.getLogger(name) for name in ("lm_eval", "huggingface_hub", "datasets")], os.environ.get("DISABLE_MULTIPROC")
    levels, bars = [logger.level for logger in loggers], building.tqdm
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    building.tqdm = lambda items, **_: items
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        building.tqdm = bars
        os.environ.pop("DISABLE_MULTIPROC")
        os.environ.update({"DISABLE_MULTIPROC": before} if before is not None else {})


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global random numbers, from which some tasks draw, begin with a seed; they are put back afterwards."""
    before, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy)
