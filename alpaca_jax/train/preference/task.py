"""What objectives of preferences need around the step: pairs, the reference's log-probabilities, and figures of held-out pairs."""

import functools
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alpaca_jax.config import to_mapping
from alpaca_jax.data import builder
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.built import cache_folders
from alpaca_jax.data.example import Annotated, ExampleStore
from alpaca_jax.data.origin import digest
from alpaca_jax.data.pipeline import heldout_batches
from alpaca_jax.data.preference import Form
from alpaca_jax.distributed import beat
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.model.llama import Params
from alpaca_jax.model.tree import Tree, flatten
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train.preference import reference
from alpaca_jax.train.preference.config import HELDOUT, DpoConfig, OrpoConfig, RewardConfig, SimpoConfig
from alpaca_jax.train.task import Task
from alpaca_jax.trainer import preferences
from alpaca_jax.trainer.assemble import Assembly
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Objective, Terms, preference, reward
from alpaca_jax.trainer.objectives.preference import REFERENCE, Measure, PairLoss
from alpaca_jax.trainer.weights import ADAPTER, BASE, SCORE, Fixed

VERSION = 1  # of the reference's log-probabilities on disk


class PreferenceTask(Task):
    """The data and figures of an objective of preferences; `measure` is what it minimizes, of whole params."""

    form: Form = "pairs"
    needs_reference = True

    @abstractmethod
    def measure(self, forward: Forward) -> Measure:
        """The terms of the objective."""

    def examples(self, path: str | Path, tokenizer: Tokenizer) -> Dataset:
        """The pairs of the records at `path`, or their marked answers."""
        return builder.load_examples(self.config.data, path, tokenizer, self.form)

    def ready(self, assembly: Assembly, trained: Tree, fixed: Fixed, step: int) -> None:
        """Reads or computes the reference's log-probabilities, of held-out answers as well."""
        batches, stores = self.site.batches, dict(self.site.data.examples)
        if self.needs_reference:
            folder = cache_folders(self.config.data.cache)[0] / "references" / digest(self._key())
            params = functools.cache(lambda: self._reference(assembly, trained, fixed, step))
            rows, length = batches.rows, self.config.batch.sequence_length

            def compute(store: ExampleStore) -> np.ndarray:
                return reference.table(assembly.forward, assembly.layout, params(), store, rows, length)

            tables = reference.kept(folder, stores, compute)
            stores = {split: Annotated(store, {REFERENCE: tables[split]}) for split, store in stores.items()}
            batches.read_from(stores["train"])
        self._figures = HeldOut(self.measure(assembly.forward), assembly, stores.get("heldout"), self.config)

    def lengths(self, index: int) -> np.ndarray:
        """The tokens of each answer with its prompt of batch `index`, int64 [n]."""
        items = self.site.data.examples["train"].take(self.site.batches.indices(index).tolist())
        return np.array([len(part.ids) for item in items for part in item.parts], np.int64)

    def evaluate(self, step: int, params: Params) -> dict[str, float]:
        """The loss and figures of the held-out pairs; empty where none is held out."""
        return {name: value for name, value in self._figures.of(step, params).items() if name in self.config.objective.measured}

    @property
    def fingerprints(self) -> dict[str, str]:
        """The reference."""
        return {"reference": digest(self._key())} if self.needs_reference else {}

    def _key(self) -> dict[str, Any]:
        """All that decides the reference's log-probabilities."""
        config, site = self.config, self.site
        model = to_mapping(config.model)
        adapter = config.adapter
        return {
            "version": VERSION,
            "data": site.data.fingerprint,
            "weights": {"seed": config.seed, "sizes": to_mapping(site.architecture)} if site.source is None else site.source.likeness,
            "model": {name: model[name] for name in ("keep_layers", "dtype", "compute_dtype")},
            "base": None if adapter is None else [adapter.base, adapter.double_quant],
        }

    def _reference(self, assembly: Assembly, trained: Tree, fixed: Fixed, step: int) -> Params:
        """The weights that the run started from, in memory."""
        if step == 0:
            return assembly.whole(trained, fixed)
        if ADAPTER in trained:
            return fixed[BASE]
        if self.site.source is None:
            raise UserError(
                f"{self.config.dir}: the reference's log-probabilities are gone from data.cache, and so are the random weights that the "
                "run started from; start it again in another dir="
            )
        rows, place = assembly.specs["embed"]["weight"].shape[0], flatten(assembly.places).__getitem__
        return pretrained.load_params(self.site.source, self.config.model.dtype, place, stored_vocab=rows)


class PairTask(PreferenceTask):
    """DPO, SimPO and ORPO: losses of pairs."""

    @functools.cached_property
    def pair(self) -> PairLoss:
        """The loss that the config names."""
        config = self.config.objective
        if isinstance(config, DpoConfig):
            loss, by_token = preferences.PAIR_LOSSES[config.loss], config.loss in ("ipo", "sigmoid_norm")
            return PairLoss(
                lambda chosen, rejected: loss(chosen, rejected, config.beta, config.label_smoothing),
                lambda each: config.beta * (each.mean_gain if by_token else each.gain),
                needs_reference=True,
                likelihood=config.likelihood,
            )
        if isinstance(config, SimpoConfig):
            return PairLoss(
                functools.partial(preferences.simpo, beta=config.beta, gamma=config.gamma),
                lambda each: config.beta * each.mean,
                needs_reference=False,
                likelihood=config.likelihood,
            )
        assert isinstance(config, OrpoConfig)
        return PairLoss(
            lambda chosen, rejected: config.weight * preferences.odds_ratio(chosen, rejected),
            lambda each: config.weight * each.mean,
            needs_reference=False,
            likelihood=1.0,
            prompts=config.prompts,
        )

    @property
    def needs_reference(self) -> bool:  # type: ignore[override]
        """Whether the loss compares with a reference."""
        return self.pair.needs_reference

    def measure(self, forward: Forward) -> Measure:
        """The terms of the loss of pairs."""
        return preference.measure_pairs(forward, self.pair)

    def objective(self, forward: Forward) -> Objective:
        """The mean loss over pairs."""
        return preference.pairwise(forward, self.pair)


class RewardTask(PreferenceTask):
    """A reward model of pairs."""

    needs_reference = False

    def heads(self) -> dict[str, Tree]:
        """The vector that makes a reward of a hidden state."""
        return {SCORE: reward.head(self.site.architecture.hidden_size)}

    def measure(self, forward: Forward) -> Measure:
        """The terms of a reward model's loss."""
        return reward.measure_pairs(forward, self._centre)

    def objective(self, forward: Forward) -> Objective:
        """The mean loss over pairs."""
        return reward.pairwise(forward, self._centre)

    @property
    def _centre(self) -> float:
        assert isinstance(self.config.objective, RewardConfig)
        return self.config.objective.centre


class HeldOut:
    """Held-out pairs, laid into rows once and measured for any weights."""

    def __init__(self, measure: Measure, assembly: Assembly, store: ExampleStore | None, config: Any) -> None:
        self._layout, reads = assembly.layout, assembly.objective.reads
        devices = self._layout.parts("batch", "compute")
        self._rows = devices
        self._axes = {name: read.axes for name, read in reads.items()}
        self._batches = [] if store is None else heldout_batches(store, self._rows, config.batch.sequence_length)
        self._terms = jax.jit(measure, out_shardings=self._layout.replicated)

    def of(self, step: int, params: Params) -> dict[str, float]:
        """The mean loss and figures, named as the config names them; empty where no pair is held out."""
        own, sums = self._layout.own_rows(self._rows), []
        for batch in self._batches:
            placed = self._layout.place({name: batch[name][own] for name in self._axes}, self._rows, self._axes)
            sums.append(jax.device_get(self._terms(params, placed)))
            beat(step)
        if not sums:
            return {}
        total: Terms = functools.reduce(lambda one, other: jax.tree.map(np.add, one, other), sums)
        means: Mapping[str, Any] = {"preference_loss": (total.total, total.weight), **total.extra}
        return {HELDOUT + name: float(value / max(weight, 1.0)) for name, (value, weight) in means.items()}
