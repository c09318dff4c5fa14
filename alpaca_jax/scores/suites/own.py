"""A suite of ours, in the harness's layout, so that its table and files are those of any other."""

from collections.abc import Mapping
from typing import Any

from alpaca_jax.progress import ProgressBar
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites.basics import score
from alpaca_jax.scores.suites.basics.config import BasicsConfig
from alpaca_jax.scores.suites.config import METRICS
from alpaca_jax.terminal import Console


def evaluated(loaded: Loaded, config: BasicsConfig, title: str, console: Console) -> dict[str, Any]:
    """Returns results, versions, shots, samples and more, as the harness's `evaluate` does; the suite is a group, a category a task."""
    with ProgressBar(title, None, console=console, transient=True) as progress:

        def told(done: int, of: int) -> None:
            progress.update(done)
            loaded.alive()

        value = score.score(loaded, config, told)
    suite = value["suite"]
    results: dict[str, dict[str, Any]] = {}
    for row in score.rows(value):
        counted = value["items"] if row["task"] == suite else value["categories"][row["task"].removeprefix(f"{suite}_")]["items"]
        own = results.setdefault(row["task"], {"alias": row["task"].removeprefix(f"{suite}_"), "sample_len": counted})
        own[f"{row['metric']},{row['filter']}"] = row["value"]
        own[f"{row['metric']}_stderr,{row['filter']}"] = "N/A" if row["stderr"] is None else row["stderr"]
    tasks = [task for task in results if task != suite]
    return {
        "results": results,
        "group_subtasks": {suite: tasks},
        "versions": dict.fromkeys(results, value["version"]),
        "n-shot": dict.fromkeys(results, 0),
        "higher_is_better": {task: dict.fromkeys(value["metrics"], True) for task in results},
        "samples": {task: [_sample(sample) for sample in value["samples"] if f"{suite}_{sample['category']}" == task] for task in tasks},
        "fingerprint": value["fingerprint"],
        "template": value["template"],
        "seconds": value["seconds"],
        "chance": {name: figures["chance"] / 100 for name, figures in value["metrics"].items()},
    }


def _sample(sample: Mapping[str, Any]) -> dict[str, Any]:
    """An item under the names that the harness has for what it asked, expected and heard."""
    asked = [[sample["prompt"], choice] for choice in sample["choices"]] if "logprobs" in sample else [[sample["prompt"]]]
    heard = [[sample["answer"]]] if "answer" in sample else [[logprob] for logprob in sample["logprobs"]]
    metrics = [name for name in METRICS if name in sample]
    return {
        **sample,
        "doc_id": sample["id"],
        "arguments": asked,
        "resps": heard,
        "filtered_resps": heard,
        "filter": "none",
        "metrics": metrics,
    }
