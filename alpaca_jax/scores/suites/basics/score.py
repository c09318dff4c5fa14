"""The suite's score of a model, with standard errors and the level of chance."""

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from alpaca_jax.data import template
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites.basics import ask
from alpaca_jax.scores.suites.basics.config import CHOSEN, GENERATED, BasicsConfig
from alpaca_jax.scores.suites.basics.item import CHOICES, Item, lenient, strict
from alpaca_jax.scores.suites.basics.items import VERSION, chosen, fingerprint

RULES = {"strict": strict, "lenient": lenient}
Progress = Callable[[int, int], None]  # items done, of how many


def score(loaded: Loaded, config: BasicsConfig, progress: Progress = lambda done, of: None) -> dict[str, Any]:
    """Returns the model's figures on the suite as a JSON value; all of them in percent.

    `score`, `stderr`, `chance`: of the metric that `config` names. `metrics`: {name: {value, stderr, chance}}; `categories` and `levels`:
    the same for a part of the items. `samples`: a dict for each item, with the answer and what each metric gives for it (0 to 1).
    """
    start = time.perf_counter()
    items = chosen(config.categories, config.limit, config.seed)
    samples = _samples(loaded, config, items, progress)
    metrics = _metrics(samples)
    return {
        "suite": "basics",
        "version": VERSION,
        "fingerprint": fingerprint(items)[:16],
        "template": config.template or loaded.template_name,
        "items": len(items),
        "metric": config.metric,
        "score": metrics[config.metric]["value"],
        "stderr": metrics[config.metric]["stderr"],
        "chance": metrics[config.metric]["chance"],
        "metrics": metrics,
        "categories": _parts(items, samples, lambda item: item.category),
        "levels": _parts(items, samples, lambda item: str(item.level)),
        "seconds": round(time.perf_counter() - start, 3),
        "samples": samples,
    }


def rows(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the figures of `score` as rows of lm-evaluation-harness's table: the suite, then each category; values from 0 to 1."""
    parts = {value["suite"]: value["metrics"]} | {f"{value['suite']}_{name}": part["metrics"] for name, part in value["categories"].items()}
    return [
        {
            "task": task,
            "version": value["version"],
            "filter": "none",
            "n-shot": 0,
            "metric": metric,
            "value": figures["value"] / 100,
            "stderr": None if figures["stderr"] is None else figures["stderr"] / 100,
        }
        for task, metrics in parts.items()
        for metric, figures in metrics.items()
    ]


def _samples(loaded: Loaded, config: BasicsConfig, items: Sequence[Item], progress: Progress) -> list[dict[str, Any]]:
    written = loaded.template if config.template is None else template.get(config.template, loaded.tokenizer)
    total = len(items) * (config.generate + config.choose)
    samples: list[dict[str, Any]] = [
        {
            "id": item.id,
            "category": item.category,
            "level": item.level,
            "prompt": item.question.prompt,
            "target": item.question.answer,
            "choices": list(item.choices),
            "guessed": guessed,
        }
        for item, guessed in zip(items, _guessed(tuple(items)), strict=True)
    ]
    if config.generate:
        texts = ask.answers(loaded, written, items, config.max_tokens, lambda done: progress(done, total))
        for item, sample, text in zip(items, samples, texts, strict=True):
            sample |= {"answer": text} | {name: float(rule(item.question, text)) for name, rule in RULES.items()}
    if config.choose:
        before = total - len(items)
        likelihoods = ask.likelihoods(loaded, written, items, lambda done: progress(before + done, total))
        for item, sample, logprobs in zip(items, samples, likelihoods, strict=True):
            sample |= {"logprobs": logprobs} | choices(item, logprobs)
    return samples


def choices(item: Item, logprobs: Sequence[float]) -> dict[str, float]:
    """Returns `choice` and `choice_norm`, 1 where the answer is the likeliest of the choices, as a whole and per character (as lm-eval's
    acc and acc_norm), and `probability`, that of the answer if the model had to take one of the choices (nats in, 0 to 1 out)."""
    by_length = [logprob / len(choice) for logprob, choice in zip(logprobs, item.choices, strict=True)]
    best = max(logprobs)
    weights = [math.exp(logprob - best) for logprob in logprobs]
    return {
        "choice": float(logprobs.index(best) == item.right),
        "choice_norm": float(by_length.index(max(by_length)) == item.right),
        "probability": weights[item.right] / sum(weights),
    }


def _parts(items: Sequence[Item], samples: Sequence[Mapping[str, Any]], key: Callable[[Item], str]) -> dict[str, Any]:
    """The figures of each group of items, by its name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item, sample in zip(items, samples, strict=True):
        found.setdefault(key(item), []).append(sample)
    return {name: {"items": len(own), "metrics": _metrics(own)} for name, own in sorted(found.items())}


def _metrics(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Of each metric the mean over items, its standard error, and what one who doesn't read the questions would get; in percent."""
    found: dict[str, dict[str, float | None]] = {}
    for name in [name for name in (*GENERATED, *CHOSEN) if name in samples[0]]:
        values = [100 * sample[name] for sample in samples]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
        guessed = 100 * statistics.fmean(sample["guessed"][name] for sample in samples)
        found[name] = {"value": statistics.fmean(values), "stderr": error, "chance": guessed}
    return found


@functools.cache
def _guessed(items: tuple[Item, ...]) -> list[dict[str, float]]:
    """What a guess gives for each item, 0 to 1: of the choices, one is right; of answers, some of those to other items of its category."""
    found = []
    for item in items:
        others = [other.question.answer for other in items if other.category == item.category and other is not item]
        shares = {name: sum(rule(item.question, text) for text in others) / max(len(others), 1) for name, rule in RULES.items()}
        found.append(shares | dict.fromkeys(CHOSEN, 1 / CHOICES))
    return found
