"""`generate`: asks a teacher for instruction records, keeps the sensible ones, and says what they cost."""

import datetime
import hashlib
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

import alpaca_jax
from alpaca_jax import lock, records
from alpaca_jax.config import parse, to_mapping
from alpaca_jax.errors import UserError
from alpaca_jax.generate import methods
from alpaca_jax.generate.collect import Collector
from alpaca_jax.generate.config import Config
from alpaca_jax.generate.dedupe import RougeSeen
from alpaca_jax.generate.pairs import JUDGE, Pairs
from alpaca_jax.progress import ProgressBar
from alpaca_jax.records import Manifest
from alpaca_jax.rundir import RunDir, write_yaml
from alpaca_jax.teacher.bill import Bill, prices
from alpaca_jax.teacher.client import Client, key
from alpaca_jax.teacher.config import Prices
from alpaca_jax.teacher.growing import growing
from alpaca_jax.teacher.local import answering
from alpaca_jax.teacher.log import AnswerLog, files
from alpaca_jax.terminal import Console

LOG = "answers"  # a folder
OLDER_LOG = "answers.jsonl"  # one file, as it was written until there were shards
SHOWN = 10  # damaged lines that are named


def run(config: Config) -> Manifest:
    """Writes `dir/records/` and returns its manifest; stopped anywhere and started again, it goes on from its log of answers.

    Where `dir` is on an object store the log grows in a folder of this machine, and what has grown is put there once a minute and in the
    end: a killed run goes on from all of it here, and from what was put elsewhere.
    """
    start = time.monotonic()
    asks = config.method != "pairs" or config.pairs.evaluation is None
    if asks and not config.replay:
        key(config.teacher)  # a missing key is said before any work
    run_dir = RunDir(config.dir)
    of_nobody = Prices(prompt=0.0, completion=0.0, source="no teacher was asked")
    bill = Bill(_prices(config, run_dir) if asks else of_nobody, config.budget.dollars, config.budget.requests)
    made = Pairs(config) if config.method == "pairs" else methods.make(config)
    with lock.held(config.dir, "records", "generate"), growing(run_dir.path("records", LOG).parent, _logged) as folder:
        if isinstance(made, Pairs):
            return _pair(config, run_dir, folder, made, bill, start)
        return _collect(config, run_dir, folder, made, bill, start)


def _prices(config: Config, run_dir: RunDir) -> Prices:
    """The teacher's prices; of a log that is replayed, if they aren't given, those that it was written at."""
    try:
        return prices(config.teacher)
    except UserError:
        path = run_dir.path("records", records.MANIFEST)
        if not config.replay or not path.is_file():
            raise
        return parse(Prices, Manifest.read(path).prices, str(path))


def _collect(config: Config, run_dir: RunDir, folder: Path, method: methods.Method, bill: Bill, start: float) -> Manifest:
    log = _open_log(config, folder, bill, _settings(config))
    _name_damaged(log)
    write_yaml(run_dir.path("records", "config.yaml"), to_mapping(config))

    collector = Collector(config, method, log, RougeSeen(config.filters.rouge_l))
    collector.judge_log(skip_gaps=config.replay)
    stopped_by = "count" if collector.complete else "log"
    if not collector.complete and not config.replay:
        with (
            ProgressBar("records", config.count) as bar,
            answering(config.teacher, method.longest, folder / "teacher.log", bar.notice) as endpoint,
        ):
            teacher, rates = Client(config.teacher, endpoint.base_url, endpoint.model, bill, bar.notice), _rates(bill, collector)
            stopped_by = collector.fill(teacher, lambda: bar.update(len(collector.kept), rates()))
    why = f"{collector.fruitless()} " if stopped_by == "patience" else ""
    if not collector.kept:
        answers = f"{why}Look into the answers in {run_dir.path('records')}."
        raise UserError(f"not one record was kept (stopped by {stopped_by}: {dict(collector.counts)}). {answers}")
    manifest = _write(config, run_dir, collector, bill, len(log.damaged), stopped_by, time.monotonic() - start)
    _print(manifest, run_dir.path("records"))
    if why:
        raise UserError(f"{why}The {len(collector.kept)} records of {config.count} so far are in {run_dir.path('records')}.")
    return manifest


def _pair(config: Config, run_dir: RunDir, folder: Path, pairs: Pairs, bill: Bill, start: float) -> Manifest:
    """Makes the pairs of a teacher's answers, or of an evaluation."""
    stopped_by, damaged = "count", 0
    if config.pairs.evaluation is not None:
        write_yaml(run_dir.path("records", "config.yaml"), to_mapping(config))
        pairs.of_evaluation()
    else:
        sampling = {f"sampling.{name}": getattr(config.sampling, name) for name in ("temperature", "top_p", "max_tokens")}
        teacher = {f"teacher.{name}": getattr(config.teacher, name) for name in ("source", "model")}
        shape = {"method": config.method, "seed": config.seed, "prompts": pairs.fingerprint, **sampling, **teacher}
        log = _open_log(config, folder, bill, shape)
        _name_damaged(log)
        damaged = len(log.damaged)
        write_yaml(run_dir.path("records", "config.yaml"), to_mapping(config))
        if not config.replay:
            with (
                ProgressBar("prompts", len(pairs.prompts)) as bar,
                answering(config.teacher, pairs.longest, folder / "teacher.log", bar.notice) as endpoint,
            ):
                client = Client(config.teacher, endpoint.base_url, endpoint.model, bill, bar.notice)
                stopped_by = pairs.ask(log, client, bar.update)
        console = Console(stderr=True)
        stopped_by = pairs.of_answers(log, folder, lambda line: console.print(line, highlight=False, soft_wrap=True)) or stopped_by
    if not pairs.kept:
        raise UserError(f"not one pair could be made ({dict(pairs.counts)}). Look into {run_dir.path('records')}, or give other prompts.")
    manifest = _write(config, run_dir, pairs, bill, damaged, stopped_by, time.monotonic() - start)
    _print(manifest, run_dir.path("records"))
    return manifest


def _name_damaged(log: AnswerLog) -> None:
    """Names the lines of the log that were passed over, the first of them by what is wrong."""
    if log.damaged:
        console = Console(stderr=True)
        for line in log.damaged[:SHOWN]:
            console.print(f"{line}; the line is passed over", highlight=False, markup=False, soft_wrap=True)
        console.print(
            f"{len(log.damaged)} lines of the log of answers can't be read; what nothing else answers is asked again", highlight=False
        )


def _rates(bill: Bill, collector: Collector) -> Callable[[], str]:
    """Returns what says how many requests were asked, the tokens a second from now on, and the dollars."""
    start, tokens = time.monotonic(), bill.completion_tokens

    def rates() -> str:
        rate = (bill.completion_tokens - tokens) / max(time.monotonic() - start, 1e-9)
        dollars = bill.dollars + bill.doubtful
        return f"{collector.next} asked, {rate:.0f} tokens/s" + (f", {dollars:.4f} dollars" if dollars else "")

    return rates


def _logged(name: str) -> bool:
    """Whether a file of the records' folder belongs to the log of answers or of verdicts."""
    return name == OLDER_LOG or name.startswith((f"{LOG}/", f"{JUDGE}/"))


def _open_log(config: Config, folder: Path, bill: Bill, settings: dict[str, Any]) -> AnswerLog:
    path, older = folder / LOG, folder / OLDER_LOG
    if config.replay and not files(path, older):
        raise UserError(f"replay=true: there is no log of answers at {path}. Give the dir= of an earlier generate, or replay=false.")
    return AnswerLog(path, settings, bill, older)


def _settings(config: Config) -> dict[str, Any]:
    """What shapes the requests, by dotted key. Filters, count, budget and the teacher's whereabouts may change between two starts."""
    mapping = to_mapping(config)
    groups = {name: mapping[name] for name in ("sampling", config.method)}
    groups["teacher"] = {name: mapping["teacher"][name] for name in ("source", "model", "endpoint")}
    settings = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
    if config.method == "self_instruct":
        tasks = [task.id for task in methods.load_seeds(config.seeds)]
        settings["seeds"] = hashlib.sha256("".join(tasks).encode()).hexdigest()[:16]
    return {"method": config.method, "seed": config.seed, **settings}


def _write(config: Config, run_dir: RunDir, made: Collector | Pairs, bill: Bill, damaged: int, stopped_by: str, seconds: float) -> Manifest:
    digest = records.write(run_dir.path("records", records.FILE), made.kept)
    judge = made.judge if isinstance(made, Pairs) else None
    manifest = Manifest(
        method=config.method,
        teacher={
            "model": made.kept[0].provenance["teacher"],
            **{name: getattr(config.teacher, name) for name in ("source", "base_url", "endpoint")},
        },
        sampling=to_mapping(config.sampling),
        seed=config.seed,
        records=len(made.kept),
        sha256=digest,
        counts=dict(sorted(made.counts.items())),
        requests=bill.requests,
        prompt_tokens=bill.prompt_tokens,
        completion_tokens=bill.completion_tokens,
        dollars=round(bill.dollars, 6),
        doubtful_dollars=round(bill.doubtful, 6),
        prices={name: value for name, value in to_mapping(bill.prices).items() if value is not None},
        unbelieved_answers=bill.unbelieved,
        cached_prompt_tokens=bill.cached_tokens,
        damaged_lines=damaged,
        judge={"model": judge.name, **judge.bill.figures()} if judge else {},
        seconds=round(seconds, 1),
        stopped_by=stopped_by,
        versions=_versions(),
        made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    manifest.write(run_dir.path("records", records.MANIFEST))
    return manifest


def _versions() -> dict[str, str]:
    own = {"alpaca_jax": alpaca_jax.__version__, "python": platform.python_version()}
    return own | {name: metadata.version(name) for name in ("openai", "rapidfuzz")}


def _print(manifest: Manifest, folder: Path) -> None:
    table = Table(title=f"{manifest.records} records in {folder} (stopped by: {manifest.stopped_by})", title_justify="left")
    table.add_column("what became of the tasks")
    table.add_column("", justify="right")
    for name, number in sorted(manifest.counts.items(), key=lambda item: (item[0] != "kept", -item[1])):
        table.add_row(name.replace("_", " "), str(number))
    console = Console()
    console.print(table)
    tokens = manifest.prompt_tokens + manifest.completion_tokens
    price = f"{manifest.prices['source']}: {manifest.prices['prompt']:g} and {manifest.prices['completion']:g} dollars a million tokens"
    console.print(
        f"{manifest.requests} requests, {tokens} tokens, {manifest.seconds:.1f} s, {manifest.dollars:.4f} dollars ({price})",
        highlight=False,
    )
    if manifest.unbelieved_answers and (manifest.prices["prompt"] or manifest.prices["completion"]):
        console.print(
            f"{manifest.unbelieved_answers} answers came without token counts that can be true; each is charged the most it can cost",
            highlight=False,
        )
    if manifest.judge:
        console.print(f"the judge {manifest.judge['model']}: {manifest.judge['dollars']:.4f} dollars", highlight=False)
    if manifest.doubtful_dollars:
        console.print(f"up to {manifest.doubtful_dollars:.4f} dollars more for requests that got no answer", highlight=False)
