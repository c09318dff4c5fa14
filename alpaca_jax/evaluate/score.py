"""Measures the baseline, then the model, in one process; the first is freed before the second is loaded. Then what needs neither."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from alpaca_jax import lock
from alpaca_jax.data import sources, template
from alpaca_jax.errors import Lost, UserError
from alpaca_jax.evaluate import page
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.parts import PARTS, heldout
from alpaca_jax.evaluate.parts.part import Part
from alpaca_jax.evaluate.settings import no_model, settle
from alpaca_jax.footprint import limit
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.config import ModelConfig
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import stored_vocab_size
from alpaca_jax.model.tree import flatten
from alpaca_jax.rundir import RunDir, read_json, write_atomic, write_json
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.sharding import Layout, make_mesh
from alpaca_jax.terminal import Console

REMEDIES = "give batch.rows=1; or model.dtype=bfloat16 with model.compute_dtype=bfloat16; or mesh=fsdp over more devices"
SCORES, PAGE = "scores.json", "report.html"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model: what it is, what the parts measured of it, and how long that took."""

    source: str
    format: str
    template: str
    parts: Mapping[str, Any]
    seconds: float


def run(config: Config) -> dict[str, Any]:
    """Returns the content of dir/evaluate/scores.json: what was measured now, and what the same models had there before."""
    settings = settle(config)  # first: it refuses a folder that isn't there, which the lock would make
    context = Context(config, settings, RunDir(config.dir), Console(stderr=True))
    parts = _chosen(context)
    with lock.held(config.dir, "evaluate", "evaluate"), limit.explained(REMEDIES):
        return _evaluate(context, parts)


def _chosen(context: Context) -> list[Part]:
    """The parts that the settings ask for; a UserError where there are none, or where they need a model and none is given."""
    config, settings = context.config, context.settings
    wanted = [part for part in PARTS if part.wanted(config, settings)]
    if config.parts is not None:
        names = [part.NAME for part in wanted]
        if missing := [name for name in config.parts if name not in names]:
            raise UserError(
                f"parts={list(config.parts)}: there are no settings for {', '.join(missing)}; those that have some are {', '.join(names)}"
            )
        wanted = [part for part in wanted if part.NAME in config.parts]
    if not wanted:
        raise settings.nothing(config)
    if settings.model is None and any(part.needs_model(config) for part in wanted):
        raise no_model(config)
    return wanted


def _evaluate(context: Context, parts: Sequence[Part]) -> dict[str, Any]:
    layout = Layout(make_mesh(context.config.mesh), context.config.mesh)
    _introduce(context, parts)
    in_memory = [part for part in parts if part.needs_model(context.config)]
    measured: dict[str, Measured] = {}
    for label, model in (("before", context.settings.baseline), ("after", context.settings.model)):
        if model is not None and in_memory:
            measured[label] = _measure(dataclasses.replace(context, label=label), model, layout, in_memory)
    path = context.folder.path("evaluate", SCORES)
    scores = _kept(context, path, _head(context, measured))
    problems = list[UserError | Lost]()
    for part in parts:
        found = {label: one.parts.get(part.NAME) for label, one in measured.items()}
        try:
            scores[part.NAME] = part.conclude(context, found.get("before"), found.get("after"))
        except (UserError, Lost) as problem:  # the other parts can do without it
            problems.append(problem)
            context.console.print(f"{part.NAME}: {problem}", style="red", highlight=False, soft_wrap=True)
            continue
        write_json(path, scores)
        part.show(scores[part.NAME], scores, Console())
    write_atomic(context.folder.path("evaluate", PAGE), page.build(scores))
    context.console.print(f"the page: {context.folder.path('evaluate', PAGE)}", highlight=False, soft_wrap=True)
    if problems:
        raise problems[0]
    return scores


def _introduce(context: Context, parts: Sequence[Part]) -> None:
    settings = context.settings
    names = [f"model {settings.model.source}"] if settings.model else []
    names += [f"baseline {settings.baseline.source}"] if settings.baseline else []
    if heldout in parts:
        names += [f"{settings.data.heldout} held-out records of {', '.join(settings.places.values())}"]
    others = [part.NAME for part in parts if part is not heldout]
    names += [", ".join(others)] if others else []
    context.console.print("; ".join([*names, f"template {settings.data.template}"]), highlight=False, soft_wrap=True, markup=False)


def _measure(context: Context, model: ModelConfig, layout: Layout, parts: Sequence[Part]) -> Measured:
    """Measures one model; nothing of its weights is left in memory afterwards."""
    start = time.perf_counter()
    source = pretrained.open(model)
    context = _settled(context, source)
    loaded = _loaded(context, model, source, layout)
    found = {part.NAME: part.with_model(context, loaded) for part in parts}
    seconds = round(time.perf_counter() - start, 3)
    return Measured(loaded.source, loaded.format, loaded.template_name, found, seconds)


def _settled(context: Context, source: Pretrained) -> Context:
    """The context with the template that `auto` stands for with the tokenizer of this model, whose name is said."""
    settings = context.settings
    if settings.data.template != template.AUTO or not settings.data.heldout:
        return context
    data = sources.settled(settings.data, settings.places.get("records", ""), source.tokenizer)
    context.console.print(f"{context.label}: rendered in template {data.template}", highlight=False, soft_wrap=True, markup=False)
    return dataclasses.replace(context, settings=dataclasses.replace(settings, data=data))


def _loaded(context: Context, model: ModelConfig, source: Pretrained, layout: Layout) -> Loaded:
    def load() -> llama.Params:
        with context.console.status(f"{context.label}: loading {model.source}"):
            vocab_size = stored_vocab_size(source.architecture.vocab_size, model.vocab_multiple)
            specs = llama.specs(source.architecture, vocab_size, jnp.dtype(model.dtype))
            places = flatten(layout.tree(specs, "weights"))
            return pretrained.load_params(source, model.dtype, places.__getitem__, stored_vocab=vocab_size)

    return Loaded(
        source=str(model.source),
        format=source.format,
        tokenizer=source.tokenizer,
        template_name=context.settings.data.template,
        architecture=source.architecture,
        layout=layout,
        dtype=model.dtype,
        compute_dtype=model.compute_dtype,
        eos_ids=tuple(source.eos_ids),
        stamp=source.identity[:16],
        load=load,
    )


def _head(context: Context, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """What was scored, and on what; empty where no model was in memory."""
    before, after = measured.get("before"), measured.get("after")
    if after is None:
        return {}
    return {
        "model": after.source,
        "format": after.format,
        "baseline": before.source if before else None,
        "heldout": None,
        "samples": [],
        "data": heldout.data(context, before.parts.get(heldout.NAME) if before else None, after.parts.get(heldout.NAME), after.template),
        "seconds": {"before": before.seconds if before else None, "after": after.seconds},
    }


def _kept(context: Context, path: Any, head: dict[str, Any]) -> dict[str, Any]:
    """The scores that are there already, with `head` in the place of theirs; of other models nothing stays."""
    found = read_json(path) if path.is_file() else {}
    old = found if isinstance(found, dict) else {}
    same = all(old.get(name) == head.get(name) for name in ("model", "format", "baseline")) if head else True
    if old and not same:
        context.console.print("the scores that were there are of another model or baseline; they are replaced", highlight=False)
        old = {}
    parts = {part.NAME: old[part.NAME] for part in PARTS if old.get(part.NAME)}
    if heldout.NAME in parts and head and not head["data"]["fingerprint"]:  # its records, which weren't looked at now
        parts["data"] = old["data"]
    return {"model": None, "format": None, "baseline": None} | old | head | parts
