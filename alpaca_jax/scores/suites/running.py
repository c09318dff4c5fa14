"""Runs a suite of lm-evaluation-harness on a model, once: what is on disk already is read."""

import contextlib
import hashlib
import importlib.metadata
import io
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_jax.config import to_mapping
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.progress import ProgressBar
from alpaca_jax.rundir import RunDir
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites import results, tasks
from alpaca_jax.scores.suites.backend import Backend, Told
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.scores.suites.inprocess import InProcess
from alpaca_jax.scores.suites.model import HarnessModel
from alpaca_jax.scores.suites.results import Result
from alpaca_jax.terminal import Console

UNASKED = ("metrics", "slots", "via", "base_url")  # settings that change no result


def run(name: str, suite: SuiteConfig, loaded: Loaded, folder: RunDir, console: Console, title: str = "") -> Result:
    """Returns the result of the suite called `name` for a model, whose files are in folder/evaluate/suites/NAME/MODEL.

    A UserError where a task, its data or what it needs isn't there.
    """
    place, key = results.place(name, loaded.source), _key(suite, loaded)
    if (found := results.find(folder, place, key)) is not None:
        return found
    start = time.perf_counter()
    with console.status(f"{title}{name}: loading its tasks"), _quietly():
        chosen = tasks.load(name, suite)
    model = _model(suite, loaded, _backend(suite, loaded), f"{title}{name}", console)
    with _quietly(), _seeded(suite.seed):
        raw = evaluated(model, chosen, suite)
    facts = {
        "bos": model.bos,
        "chat_template": loaded.template_name if suite.chat else None,
        "truncated": model.truncated,
        "max_length": model.max_length,
        "via": suite.base_url or suite.via,
        "seconds": round(time.perf_counter() - start, 3),
    }
    described = _described(suite, loaded, model, raw) | {"total_evaluation_time_seconds": str(facts["seconds"])}
    return results.write(folder, place, {**raw, **described}, {"key": key, "facts": facts})


def _key(suite: SuiteConfig, loaded: Loaded) -> dict[str, Any]:
    """What a result depends on."""
    settings = {key: value for key, value in to_mapping(suite).items() if key not in UNASKED}
    data = Path(suite.data).expanduser() if suite.data else None
    files = sorted(data.rglob("*.jsonl")) if data else []
    digests = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    identity = loaded.identity()
    if not suite.chat:
        identity.pop("template")
    return {"suite": settings, "model": identity, "data": digests, "lm_eval": _version()}


def _version() -> str:
    try:
        return importlib.metadata.version("lm_eval")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _backend(suite: SuiteConfig, loaded: Loaded) -> Backend:
    stop_ids = [*loaded.eos_ids, *([loaded.template.end_id] if suite.chat else [])]
    return InProcess(Scoring(loaded.program, loaded.weights), loaded.batch(suite.slots), loaded.tokenizer, stop_ids)


def _model(suite: SuiteConfig, loaded: Loaded, backend: Backend, title: str, console: Console) -> HarnessModel:
    @contextlib.contextmanager
    def progress(what: str, total: int) -> Iterator[Told]:
        with ProgressBar(f"{title}: {what}", total, console=console, transient=True) as bar:
            yield bar.update

    chat = loaded.template if suite.chat else None
    return HarnessModel(backend, loaded.tokenizer, progress, chat, suite.max_tokens, suite.seed)


def evaluated(model: HarnessModel, chosen: Any, suite: SuiteConfig) -> dict[str, Any]:
    """Returns what the harness's `evaluate` gives for tasks that are loaded: results, versions, shots, samples and more.

    As its own command does, it leaves tasks that always have no examples without any.
    """
    from lm_eval.api.model import LM
    from lm_eval.evaluator import evaluate

    LM.register(HarnessModel)
    for task in chosen["tasks"].values():
        task.set_config(key="num_fewshot", value=tasks.shots(suite, {"num_fewshot": task.get_config("num_fewshot")}))
        task.set_fewshot_seed(seed=suite.seed)
    raw = evaluate(model, chosen, limit=suite.limit, log_samples=True, apply_chat_template=suite.chat, fewshot_as_multiturn=suite.chat)
    assert raw is not None
    return dict(raw)


def _described(suite: SuiteConfig, loaded: Loaded, model: HarnessModel, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What else the harness writes into a results file."""
    chat = model.chat_template() if suite.chat else None
    hashes = {
        task: _sha("".join(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples))
        for task, samples in raw["samples"].items()
    }
    return {
        "config": {
            "model": "alpaca_jax",
            "model_args": loaded.identity(),
            "batch_size": suite.slots,
            "limit": suite.limit,
            "bootstrap_iters": 100000,
            "random_seed": suite.seed,
            "numpy_seed": suite.seed,
            "fewshot_seed": suite.seed,
        },
        "date": time.time(),
        "lm_eval_version": _version(),
        "task_hashes": hashes,
        "model_source": "alpaca_jax",
        "model_name": loaded.source,
        "model_name_sanitized": results.place("", loaded.source)[-1],
        "chat_template": chat,
        "chat_template_sha": _sha(chat) if chat else None,
        "fewshot_as_multiturn": suite.chat,
        "max_length": model.max_length,
    }


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global random numbers from which some tasks draw, from a seed; put back afterwards."""
    before, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """The harness without its own bars, one a task, and remarks; and without the processes that it forks for a bootstrap, which JAX forbids."""
    import lm_eval.api.task as building

    logger, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level, bars = logger.level, building.tqdm
    logger.setLevel(logging.ERROR)
    building.tqdm = lambda items, **_: items
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        building.tqdm = bars
        os.environ.pop("DISABLE_MULTIPROC")
        os.environ.update({"DISABLE_MULTIPROC": before} if before is not None else {})
