"""On-policy distillation around the step: the student answers, and the teacher says at every token how it would have gone on.

Agarwal et al. 2023 (GKD, arXiv:2306.13649), whose lambda is `share`; Thinking Machines 2025, "On-Policy Distillation". The teacher is in
the step, so that its divergence is exact at every token and not estimated from the sampled one.
"""

from collections.abc import Callable, Sequence

import numpy as np

from alpaca_jax import rundir
from alpaca_jax.config import to_mapping
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import Batch, best_fit, lay
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.decode.program import Program
from alpaca_jax.model.llama import Params
from alpaca_jax.sharding import Layout
from alpaca_jax.train.config import Config
from alpaca_jax.train.distill.task import Distillation
from alpaca_jax.train.rollout import prompts
from alpaca_jax.train.rollout.config import OnPolicyConfig
from alpaca_jax.train.rollout.kept import Kept, Line
from alpaca_jax.train.rollout.prompts import Prompt
from alpaca_jax.train.rollout.sampling import Sampler, seed_of
from alpaca_jax.train.task import Site
from alpaca_jax.trainer.objectives.distill import SHARES

FROM_RECORDS = 1  # beside the seed, for the choice of the prompts whose answers the records give


class OnPolicy(Distillation):
    """The Task of `objective=on_policy`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.objective, OnPolicyConfig)
        self.sampling = config.objective
        self._lengths: dict[int, np.ndarray] = {}

    def batches(self, data: Dataset, layout: Layout) -> tuple[Batches, int]:
        """Batches of prompts, with rows for an answer to each."""
        batches, steps = super().batches(data, layout)
        multiple = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"] * self.config.microbatches
        least = int(batches.lengths.max()) if self.sampling.share < 1 else 0
        prompts.make_room(batches, 1, self.sampling.max_new_tokens, multiple, least)
        return batches, steps

    def open(self, site: Site) -> None:
        """Opens the teachers, and prepares the sampler and the place of what it samples."""
        super().open(site)
        config, own = self.config, self.sampling
        program = Program.on(site.architecture, site.layout, config.model.compute_dtype)
        self.sampler = Sampler(program, frozenset(site.eos_ids), own.max_new_tokens, own.sampling, config.batch.sequence_length)
        key = {"seed": config.seed, "objective": to_mapping(own), "data": site.data.fingerprint} | self.fingerprints
        self.kept = Kept(rundir.RunDir(config.dir).path("train", "rollouts"), key)

    def batch(self, index: int, step: int, batch: Batch, params: Callable[[], Params]) -> Batch:
        """The rows that this process holds of the student's answers, and of the records' where `share` leaves some."""
        store, numbers = self.site.batches.examples, self.site.batches.indices(index).tolist()
        examples = [part for item in store.take(numbers) for part in item.parts]
        draws = np.random.default_rng([self.config.seed, FROM_RECORDS, index]).random(len(examples))
        asked = np.flatnonzero(draws < self.sampling.share).tolist()
        if asked:
            chosen = {place: Prompt.of(examples[place]) for place in asked}
            for line in self.kept.get(index, range(step, step + 1), lambda: self._made(index, chosen, params(), step), step):
                place = line["prompt"]
                examples[place] = _answered(examples[place], chosen[place], line["ids"])
        self._lengths[index] = np.array([len(example.ids) for example in examples])
        rows, length = self.site.batches.rows, self.config.batch.sequence_length
        places = best_fit(self._lengths[index], length)
        laid = lay([[examples[number] for number in place] for place in places], rows, length)
        own = self.site.layout.own_rows(rows)
        return {name: array[own] for name, array in laid.items()}

    def lengths(self, index: int) -> np.ndarray:
        """The tokens of each prompt with its answer."""
        return self._lengths.pop(index)

    def _made(self, index: int, chosen: dict[int, Prompt], params: Params, step: int) -> list[Line]:
        seeds = [seed_of(self.config.seed, index, place, 0) for place in chosen]
        answers = self.sampler.sample(params, [prompt.ids for prompt in chosen.values()], seeds, step)
        decode, stop_ids = self.site.tokenizer.decode, self.sampler.stop_ids
        return [
            {
                "prompt": place,
                "truncated": answer.truncated,
                "asked": decode(list(prompt.ids)),
                "answered": decode([token for token in answer.ids if token not in stop_ids]).strip(),
                "ids": answer.ids,
                "logps": answer.logps,
            }
            for (place, prompt), answer in zip(chosen.items(), answers, strict=True)
        ]


def _answered(example: Example, prompt: Prompt, ids: Sequence[int]) -> Example:
    """The example with another answer; its teachers are the same."""
    whole = np.array([*prompt.ids, *ids], np.int32)
    tokens = {name: np.repeat(array[:1], len(whole), 0) for name, array in example.tokens.items() if name == SHARES}
    return Example(whole, np.arange(len(whole)) >= len(prompt.ids), tokens=tokens)
