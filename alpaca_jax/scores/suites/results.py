"""What came of a suite: the harness's own files, read back as the rows that people know and the value of each question."""

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents, storage
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import RunDir, read_json, write_atomic

OURS = "alpaca_jax"  # the key of what we add to a results file
NO_METRIC = ("alias", "name", "sample_len", "sample_count")


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: a metric of a task or of a group of tasks."""

    task: str
    alias: str  # the task's name as it is shown
    depth: int  # how many groups it is in
    version: str
    filter: str  # which rule takes the answer out of a text
    shots: int | None  # None: of a group whose tasks differ
    metric: str
    higher_is_better: bool | None
    value: float
    stderr: float | None
    questions: int


@dataclasses.dataclass(frozen=True)
class Result:
    """A suite's rows; `values` has those of each question, by (task, metric, filter) and the question's number."""

    file: str
    rows: tuple[Row, ...]
    values: Mapping[tuple[str, str, str], Mapping[str, float]]
    members: Mapping[str, tuple[str, ...]]  # the tasks of each group
    facts: Mapping[str, Any]  # BOS, chat template, questions cut short, seconds

    def figures(self, metrics: Sequence[str] = ()) -> dict[str, float]:
        """The values of the suite as a whole by `metric`, or `task/metric` where it has several tasks; of these metrics, in this order."""
        rows = [row for row in self.ordered(metrics) if row.depth == 0]
        one = len({row.task for row in rows}) == 1
        return {row.metric if one else f"{row.task}/{row.metric}": row.value for row in rows}

    def ordered(self, metrics: Sequence[str] = ()) -> list[Row]:
        """The rows of these metrics, within each task in this order; none: all."""
        tasks = list(dict.fromkeys(row.task for row in self.rows))
        rows = [row for row in self.rows if not metrics or row.metric in metrics]
        return sorted(rows, key=lambda row: (tasks.index(row.task), metrics.index(row.metric) if metrics else 0))


def of(raw: Mapping[str, Any], facts: Mapping[str, Any], file: str = "") -> Result:
    """The result of what the harness gives."""
    content, samples = _plain({key: value for key, value in raw.items() if key != "samples"}), _plain(raw["samples"])
    members = {group: tuple(tasks) for group, tasks in content.get("group_subtasks", {}).items() if tasks}
    values = {key: own for task in samples for key, own in _values(task, samples[task]).items()}
    return Result(file, tuple(_rows(content, members)), values, members, facts)


def write(folder: RunDir, place: tuple[str, ...], raw: Mapping[str, Any], ours: Mapping[str, Any]) -> Result:
    """Writes results_DATE.json and a samples_TASK_DATE.jsonl for each task into `place`, as the harness does; the first, last."""
    date = datetime.datetime.now().isoformat().replace(":", "-")
    for task, samples in raw["samples"].items():
        text = "".join(f"{json.dumps(_plain(_sample(sample)), ensure_ascii=False)}\n" for sample in samples)
        write_atomic(folder.path(*place, f"samples_{_safe(task)}_{date}.jsonl"), text)
    whole = {key: value for key, value in raw.items() if key != "samples"} | {OURS: dict(ours)}
    file = folder.path(*place, f"results_{date}.json")
    write_atomic(file, json.dumps(_plain(whole), indent=2, ensure_ascii=False) + "\n")
    return of(raw, ours["facts"], str(file))


def find(folder: RunDir, place: tuple[str, ...], key: Mapping[str, Any]) -> Result | None:
    """The newest result in `place` that was made of the same model by the same settings (`key`), if there is one."""
    where = folder.root.joinpath(*place)
    files = sorted(where.glob("results_*.json"), reverse=True) if where.is_dir() else []
    return next((read(file) for file in files if _key(read_json(file)) == json.loads(json.dumps(key))), None)


def _key(content: Any) -> Any:
    ours = content.get(OURS) if isinstance(content, dict) else None
    return ours.get("key") if isinstance(ours, dict) else None


def read(file: Path) -> Result:
    """The result in a file of ours or of the harness, with the samples beside it; a UserError where it isn't one."""
    content = read_json(file)
    try:
        samples = {task: list(lines(beside)) for task in content["results"] if (beside := samples_file(file, task)).is_file()}
        return of({**content, "samples": samples}, content.get(OURS, {}).get("facts", {}), str(file))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: is no results file of lm-evaluation-harness ({error!r}); delete it to have it made again") from error


def samples_file(file: Path, task: str) -> Path:
    """Where the questions of a task are, beside a results file."""
    return file.with_name(f"samples_{_safe(task)}_{file.stem.removeprefix('results_')}.jsonl")


def _rows(content: Mapping[str, Any], members: Mapping[str, tuple[str, ...]]) -> Iterator[Row]:
    inside = {task for tasks in members.values() for task in tasks}
    waiting = [(task, 0) for task in content["results"] if task not in inside][::-1]
    while waiting:
        task, depth = waiting.pop()
        waiting += [(each, depth + 1) for each in reversed(members.get(task, ()))]
        own = content["results"].get(task, {})
        for name in sorted(key for key in own if key not in NO_METRIC):
            metric, _, rule = name.partition(",")
            if metric.endswith("_stderr") or not isinstance(own[name], int | float):
                continue
            error = own.get(f"{metric}_stderr,{rule}")
            yield Row(
                task=task,
                alias=str(own.get("alias", task)).strip().removeprefix("- "),
                depth=depth,
                version=str(content["versions"].get(task, "")),
                filter=rule,
                shots=_shots(content["n-shot"], members, task),
                metric=metric,
                higher_is_better=content.get("higher_is_better", {}).get(task, {}).get(metric),
                value=float(own[name]),
                stderr=float(error) if isinstance(error, int | float) else None,
                questions=int(own.get("sample_len", 0)),
            )


def _shots(known: Mapping[str, int], members: Mapping[str, tuple[str, ...]], task: str) -> int | None:
    """A task's examples before each question; a group's where its tasks have the same number."""
    if task in members:
        found = {_shots(known, members, each) for each in members[task]}
        return found.pop() if len(found) == 1 else None
    return int(known.get(task, 0))


def _values(task: str, samples: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], dict[str, float]]:
    """The value of each question by each metric that is one number."""
    values: dict[tuple[str, str, str], dict[str, float]] = {}
    for sample in samples:
        for metric in sample.get("metrics", ()):
            if isinstance(sample.get(metric), int | float):
                values.setdefault((task, metric, sample.get("filter", "none")), {})[str(sample["doc_id"])] = float(sample[metric])
    return values


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """The questions in a samples file, with all that was asked and answered."""
    with storage.explained(file):
        content = file.read_bytes()
    for number, line in enumerate(content.splitlines(), start=1):
        yield documents.json_object(line, f"{file}, line {number}")


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A question as the harness writes it: its arguments by name, responses as texts."""
    arguments = {
        f"gen_args_{number}": {f"arg_{place}": value for place, value in enumerate(own)} for number, own in enumerate(sample["arguments"])
    }
    texts = {key: _texts(sample[key]) for key in ("resps", "filtered_resps")}
    return {**sample, **texts, "arguments": arguments, "target": str(sample["target"])}


def _texts(value: Any) -> Any:
    return [_texts(each) for each in value] if isinstance(value, list | tuple) else str(value)


def _plain(value: Any) -> Any:
    """JSON: NumPy's numbers as Python's, no NaN, anything else as its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, str | bool | int | None):
        return value
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Iterable) and not isinstance(value, bytes):
        return [_plain(item) for item in value]
    return str(value)


def _safe(name: str) -> str:
    """A name without signs that folders and files can't have; the harness's own rule."""
    return re.sub(r"[\"<>:/|\\?*\[\]]+", "__", name)


def place(suite: str, source: str) -> tuple[str, ...]:
    """Where the files of a suite and a model are, within a run's folder."""
    return "evaluate", "suites", suite, _safe(source)
