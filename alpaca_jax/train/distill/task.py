"""Distillation around the step: the teachers, their signal in the step or from a cache, and the distance on held-out records."""

from pathlib import Path
from typing import Any

from alpaca_jax.data import origin
from alpaca_jax.data.built import cache_folders
from alpaca_jax.data.example import Examples, ExampleStore
from alpaca_jax.data.mixture import Concatenated
from alpaca_jax.errors import UserError
from alpaca_jax.model.llama import Params
from alpaca_jax.model.tree import Tree, flatten
from alpaca_jax.train.config import Config
from alpaca_jax.train.distill import cache, teachers
from alpaca_jax.train.distill.asking import Asked, hidden_dtype, ids_dtype
from alpaca_jax.train.distill.config import DistillConfig
from alpaca_jax.train.distill.heldout import Comparison
from alpaca_jax.train.distill.served import Served
from alpaca_jax.train.distill.signals import Shared
from alpaca_jax.train.task import Site, Task
from alpaca_jax.trainer.assemble import Assembly
from alpaca_jax.trainer.divergence import Rule
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Objective, distill
from alpaca_jax.trainer.objectives.distill import HEADS, TEACHERS, Telling
from alpaca_jax.trainer.weights import Fixed


class Distillation(Task):
    """The Task of `objective=distill`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.objective, DistillConfig)
        self.own = config.objective
        self._comparison: Comparison | None = None
        self._fixed: Fixed = {}  # what the comparison reads beside the student's weights

    def open(self, site: Site) -> None:
        """Opens the teachers and compares their vocabularies with the student's."""
        super().open(site)
        self.teachers = {} if self.own.address else teachers.open_all(self.config, site)
        self.shared = min([site.tokenizer.vocab_size, *(each.shared for each in self.teachers.values())])
        forwards = {name: each.forward for name, each in self.teachers.items()}
        # Where all teachers teach everything, their weights are constants; else each example has its own.
        self._apart = any(each.config.data for each in self.teachers.values())
        self._weights = None if self._apart else tuple(each.config.weight for each in self.teachers.values())
        self._live = distill.live(forwards, self._weights)
        dtype = hidden_dtype(self.config.model.compute_dtype)
        self._exact = distill.exact(forwards, dtype, self._weights)
        for store in site.data.examples.values():
            self._check_tokens(store)

    def objective(self, forward: Forward) -> Objective:
        """The divergence from the teachers."""
        own = self.own
        rule = Rule(own.divergence, own.beta, own.limits, own.temperature, own.cross_entropy)
        self._forward = forward
        return distill.objective(forward, self._telling_of(own.signal), rule, self.shared)

    def others(self) -> dict[str, Tree]:
        """The teachers' weights for the live signal, their output matrices for the exact one."""
        if self.own.signal == "live":
            return {TEACHERS: {name: each.specs for name, each in self.teachers.items()}}
        return {HEADS: self._heads()} if self.own.signal == "exact" else {}

    def load(self, name: str, abstract: Tree) -> Tree:
        """The teachers' weights, or their output matrices."""
        if name == TEACHERS:
            return {teacher: each.load(abstract[teacher]) for teacher, each in self.teachers.items()}
        return {teacher: each.head_of(abstract[teacher]) for teacher, each in self.teachers.items()}

    def ready(self, assembly: Assembly, trained: Tree, fixed: Fixed, step: int) -> None:
        """Asks the teachers what the caches don't hold yet."""
        examples = self.site.data.examples
        if step < self.site.steps:
            self.site.batches.read_from(self._told("train", self.own.signal))
        if self.config.evaluate_every is None or "heldout" not in examples or not len(examples["heldout"]):
            return
        live = self.own.signal == "live"
        signal = "live" if live else "exact" if self.teachers else "top"
        store = self._told("heldout", signal)
        if self.teachers:
            self._fixed = {TEACHERS: fixed[TEACHERS]} if live else {HEADS: fixed[HEADS] if HEADS in fixed else self._loaded_heads()}
        telling = self._telling_of(signal)
        length, layout = self.config.batch.sequence_length, self.site.layout
        plain = Forward(self._forward.architecture, self._forward.compute_dtype, constrain=layout.constrain)
        self._comparison = Comparison(plain, telling, self.shared, store, self.site.batches.rows, length, layout)

    def evaluate(self, step: int, params: Params) -> dict[str, float]:
        """The divergence from the teachers on held-out records, and how often both have the same most probable token."""
        return {} if self._comparison is None else self._comparison.figures(step, params, self._fixed)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the teachers."""
        return {"teachers": origin.digest(self._teachers_key)}

    @property
    def _teachers_key(self) -> dict[str, Any]:
        """What decides the teachers' distributions, as JSON; of a served one only its address is known."""
        return {"served": self.own.address} if self.own.address else {name: each.key for name, each in self.teachers.items()}

    def _telling_of(self, signal: str) -> Telling:
        own, ids = self.own, ids_dtype(self.shared)
        if signal == "live":
            return self._live
        if signal == "exact":
            return self._exact
        return distill.draws(own.draws, ids) if signal == "draws" else distill.top(min(own.top, self.shared), ids, own.tail)

    def _told(self, split: str, signal: str) -> ExampleStore:
        """The examples of a split with what the signal needs beside them; builds its cache where there is none."""
        store = self.site.data.examples[split]
        store = Shared(store, self._shares(store)) if self._apart else store
        if signal == "live":
            return store
        key = self._key(split, signal)
        folder = self._folder(key) if self.own.cache is None else Path(self.own.cache).expanduser() / f"{split}-{signal}"
        found = cache.opened(folder, key, store)
        if found is None:
            asked = self._asked(signal)
            cache.build(folder, key, store, asked.kept, self.site.batches.rows, self.config.batch.sequence_length, asked.ask)
            found = cache.opened(folder, key, store)
        assert found is not None
        return found

    def _asked(self, signal: str) -> Asked | Served:
        """The teachers, ready to be asked."""
        if self.own.address is None:
            return Asked(self.own, signal, self.teachers, self.site, self.config.seed)
        served = Served(self.own.address, self.site.tokenizer, min(self.own.top, self.shared))
        served.check()
        return served

    def _key(self, split: str, signal: str) -> dict[str, Any]:
        """All that decides a cache, by names that are told where one doesn't fit."""
        own: DistillConfig = self.own
        sampled = {"temperature": own.temperature} if signal != "exact" else {}
        sampled |= {"draws": own.draws, "seed": self.config.seed} if signal == "draws" else {}
        sampled |= {"top": own.top} if signal == "top" else {}
        return {
            "version": cache.VERSION,
            "signal": signal,
            "split": split,
            "teachers": self._teachers_key,
            "records, template or truncation": self.site.data.fingerprint,
            **sampled,
        }

    def _folder(self, key: dict[str, Any]) -> Path:
        return cache_folders(self.config.data.cache)[0] / "teachers" / origin.digest(key)

    def _shares(self, store: ExampleStore) -> Any:
        sources = list(self.config.data.sources)
        parts = store.stores if isinstance(store, Concatenated) else [store]
        if len(parts) != len(sources):
            raise UserError("data.heldout holds nothing out of some of data.sources, whose teachers are unknown then: give more records")
        return teachers.shares(self.teachers, sources, [len(part) for part in parts])

    def _heads(self) -> dict[str, Tree]:
        return {name: {"weight": flatten(each.specs)[each.head]} for name, each in self.teachers.items()}

    def _loaded_heads(self) -> Tree:
        return self.load(HEADS, teachers.placed(self._heads(), self.site))

    def _check_tokens(self, store: ExampleStore) -> None:
        """A UserError where a record has a token that the teachers don't know."""
        for part in store.stores if isinstance(store, Concatenated) else [store]:
            assert isinstance(part, Examples)
            highest = int(part.ids.max(initial=0))
            if highest >= self.shared:
                raise UserError(
                    f"the records hold the token {self.site.tokenizer.backend.token(highest)!r} ({highest}), which a teacher of "
                    f"{self.shared} tokens doesn't know: give another data.template, or another teacher"
                )
