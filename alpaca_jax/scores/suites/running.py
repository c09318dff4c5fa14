"""Runs a suite of lm-evaluation-harness on a model, once: what is on disk already is read."""

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.config import to_mapping
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.progress import ProgressBar
from alpaca_jax.rundir import RunDir
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites import harness, own, results, tasks
from alpaca_jax.scores.suites.backend import Backend, Told
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.scores.suites.endpoint import HttpBackend
from alpaca_jax.scores.suites.inprocess import InProcess
from alpaca_jax.scores.suites.model import HarnessModel
from alpaca_jax.scores.suites.results import Result
from alpaca_jax.teacher import local
from alpaca_jax.teacher.config import TeacherConfig
from alpaca_jax.terminal import Console

UNASKED = ("metrics", "slots")  # settings that change no result


def run(
    name: str,
    suite: SuiteConfig,
    loaded: Loaded,
    folder: RunDir | None,
    console: Console,
    title: str = "",
    place: tuple[str, ...] | None = None,
) -> Result:
    """Returns the result of the suite called `name` for a model; its files are in folder/evaluate/suites/NAME/MODEL, or in `place`.

    Without a folder nothing is read or written. A UserError where a task, its data or what it needs isn't there.
    """
    place, key = place or results.place(name, loaded.source), _key(suite, loaded)
    if folder is not None and (found := results.find(folder, place, key)) is not None:
        return found
    raw, facts = (_own if suite.own else _harness)(name, suite, loaded, f"{title}{name}", console)
    return results.of(raw, facts) if folder is None else results.write(folder, place, raw, {"key": key, "facts": facts})


def _own(name: str, suite: SuiteConfig, loaded: Loaded, title: str, console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    assert suite.own is not None
    raw = own.evaluated(loaded, suite.own, title, console)
    return raw, {
        "chat_template": raw["template"],
        "bos": "as in training",
        "via": "process",
        "seconds": raw["seconds"],
        "chance": raw["chance"],
    }


def _harness(name: str, suite: SuiteConfig, loaded: Loaded, title: str, console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    start = time.perf_counter()
    with console.status(f"{title}: loading its tasks"):
        chosen = tasks.load(name, suite)
    with _answering(suite, loaded, title, console) as backend:
        model = _model(suite, loaded, backend, title, console)
        with tasks.explained(name, suite):
            raw = harness.evaluated(model, chosen, suite)
    facts = {
        "bos": model.bos,
        "chat_template": loaded.template_name if suite.chat else None,
        "truncated": model.truncated,
        "max_length": model.max_length,
        "via": suite.base_url or suite.via,
        "seconds": round(time.perf_counter() - start, 3),
    }
    return {**raw, **_described(suite, loaded, model, raw), "total_evaluation_time_seconds": str(facts["seconds"])}, facts


def _key(suite: SuiteConfig, loaded: Loaded) -> dict[str, Any]:
    """What a result depends on."""
    settings = {key: value for key, value in to_mapping(suite).items() if key not in UNASKED}
    data = Path(suite.data).expanduser() if suite.data else None
    files = sorted(data.rglob("*.jsonl")) if data else []
    digests = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    identity = loaded.identity()
    if not suite.chat and not suite.own:
        identity.pop("template")
    return {"suite": settings, "model": identity, "data": digests, "lm_eval": harness.version()}


@contextlib.contextmanager
def _answering(suite: SuiteConfig, loaded: Loaded, title: str, console: Console) -> Iterator[Backend]:
    """Whoever answers: the model in memory, a server that runs, or one that is started for as long as it takes."""
    longest = loaded.architecture.max_positions
    if suite.via == "process":
        stop_ids = [*loaded.eos_ids, *([loaded.template.end_id] if suite.chat else [])]
        yield InProcess(Scoring(loaded.program, loaded.weights), loaded.batch(suite.slots), loaded.tokenizer, stop_ids)
    elif suite.base_url:
        yield HttpBackend(suite.base_url, longest, suite.slots)
    else:
        teacher = TeacherConfig(source=loaded.source, slots=suite.slots)
        with tempfile.TemporaryDirectory(prefix="alpaca_jax-") as folder:
            said = lambda line: console.print(f"{title}: {line}", highlight=False, soft_wrap=True)  # noqa: E731
            with local.serving(teacher, longest, Path(folder) / "serve.log", said) as endpoint:
                yield HttpBackend(str(endpoint.base_url), longest, suite.slots, endpoint.model)


def _model(suite: SuiteConfig, loaded: Loaded, backend: Backend, title: str, console: Console) -> HarnessModel:
    @contextlib.contextmanager
    def progress(what: str, total: int) -> Iterator[Told]:
        with ProgressBar(f"{title}: {what}", total, console=console, transient=True) as bar:

            def told(done: int) -> None:
                bar.update(done)
                loaded.alive()

            yield told

    chat = loaded.template if suite.chat else None
    return HarnessModel(backend, loaded.tokenizer, progress, chat, suite.max_tokens, suite.seed)


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
        "lm_eval_version": harness.version(),
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
