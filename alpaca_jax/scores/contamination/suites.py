"""The questions of a suite, from the samples that the harness left beside its results."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.scores.contamination.overlap import Item
from alpaca_jax.scores.suites.results import Result, lines

# Where a data set keeps what is asked; of one that has none of these, all texts count.
QUESTIONS = ("question", "query", "prompt", "problem", "instruction", "ctx", "goal", "sentence", "input")


def items(result: Result) -> Iterator[Item]:
    """Yields the questions of a result, each once: the set is its task, the id its number there."""
    file, tasks = Path(result.file), {task for task, _, _ in result.values}
    date = file.stem.removeprefix("results_")
    for samples in sorted(file.parent.glob(f"samples_*_{date}.jsonl")):
        name = samples.stem.removeprefix("samples_").removesuffix(f"_{date}")
        task = next((task for task in sorted(tasks) if _plain(task) == _plain(name)), name)
        seen = set[str]()
        for sample in lines(samples):
            id = str(sample.get("doc_id"))
            if id not in seen and (text := _text(sample.get("doc", sample))):
                seen.add(id)
                yield Item(task, id, text)


def _text(document: Any) -> str:
    """What a document asks."""
    if not isinstance(document, Mapping):
        return str(document or "")
    asked = next((document[name] for name in QUESTIONS if isinstance(document.get(name), str)), "")
    return asked or "\n".join(value for value in document.values() if isinstance(value, str))


def _plain(name: str) -> str:
    """A name without the signs that may not stand in that of a file."""
    return "".join(filter(str.isalnum, name))
