"""GRPO and its relatives around the step: groups of answers to each prompt, their rewards, and what the step makes of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from alpaca_jax import rundir
from alpaca_jax.config import to_mapping
from alpaca_jax.data.builder import Dataset
from alpaca_jax.data.example import Example
from alpaca_jax.data.pack import Batch, best_fit, lay
from alpaca_jax.data.pipeline import Batches
from alpaca_jax.decode.program import Program
from alpaca_jax.distributed import from_lead, is_lead
from alpaca_jax.errors import UserError
from alpaca_jax.formats import pretrained
from alpaca_jax.model import llama
from alpaca_jax.model.architecture import stored_vocab_size
from alpaca_jax.model.llama import Params
from alpaca_jax.model.tree import Tree, flatten
from alpaca_jax.rewards.scoring import Rewards, Sample, Scored
from alpaca_jax.sharding import Layout
from alpaca_jax.terminal import Console
from alpaca_jax.train.config import Config
from alpaca_jax.train.rollout import advantages, prompts
from alpaca_jax.train.rollout.config import GrpoConfig
from alpaca_jax.train.rollout.heldout import Heldout
from alpaca_jax.train.rollout.kept import Kept, Line
from alpaca_jax.train.rollout.prompts import Prompt
from alpaca_jax.train.rollout.sampling import Answer, Sampler, seed_of
from alpaca_jax.train.rollout.scored import Policies
from alpaca_jax.train.task import Site, Task
from alpaca_jax.trainer.assemble import Assembly
from alpaca_jax.trainer.forward import Forward
from alpaca_jax.trainer.objectives import Objective, reinforce
from alpaca_jax.trainer.weights import BASE, Fixed

REFERENCE = "reference"  # the part of `fixed` with the weights that a run without an adapter started from
REPORTS = ("reward", "truncated", "equal_groups", "reward_problems", "answer_tokens")


class GrpoTask(Task):
    """The Task of `objective=grpo`."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        assert isinstance(config.objective, GrpoConfig)
        self.own = config.objective
        self.rule = config.objective.rule
        self.rewards = Rewards(self.own.rewards, rundir.RunDir(config.dir).path("train", "grades"))
        self._said: set[str] = set()
        self._lengths: dict[int, np.ndarray] = {}

    def batches(self, data: Dataset, layout: Layout) -> tuple[Batches, int]:
        """Batches of prompts, with rows for all answers to them."""
        batches, steps = super().batches(data, layout)
        multiple = layout.mesh.shape["data"] * layout.mesh.shape["fsdp"] * self.config.microbatches
        prompts.make_room(batches, self.own.group, self.own.max_new_tokens, multiple)
        return batches, steps

    def open(self, site: Site) -> None:
        """Prepares the sampler and the place of what it samples."""
        super().open(site)
        config, own = self.config, self.own
        program = Program.on(site.architecture, site.layout, config.model.compute_dtype)
        self.sampler = Sampler(program, frozenset(site.eos_ids), own.max_new_tokens, own.temperature, config.batch.sequence_length)
        key = {"seed": config.seed, "objective": to_mapping(own), "data": site.data.fingerprint}
        folder = rundir.RunDir(config.dir).path("train", "rollouts")
        self.kept = Kept(folder, key)
        examples = site.data.examples.get("heldout")
        self.heldout = None if examples is None or not len(examples) else Heldout(self, examples, config.seed, folder)

    def objective(self, forward: Forward) -> Objective:
        """The policy gradient of the sampled answers."""
        self.forward = forward
        rule = dataclasses.replace(self.rule, beta=0.0) if self._in_reward else self.rule
        return reinforce.objective(forward, rule, old=self._needs_old, reference=self._in_loss, reports=REPORTS)

    def others(self) -> dict[str, Tree]:
        """The reference, where the KL divergence from it counts and no adapter leaves the base as it was."""
        if not self.rule.beta or self.config.adapter is not None:
            return {}
        architecture, model = self.site.architecture, self.config.model
        return {REFERENCE: llama.specs(architecture, stored_vocab_size(architecture.vocab_size, model.vocab_multiple), model.dtype)}

    def load(self, name: str, abstract: Tree) -> Tree:
        """The weights that the run started from, read once more or drawn once more."""
        site, rows = self.site, abstract["embed"]["weight"].shape[0]
        places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
        if site.source is not None:
            return pretrained.load_params(site.source, self.config.model.dtype, flatten(places).__getitem__, stored_vocab=rows)
        init = jax.jit(lambda key: llama.init(site.architecture, key, rows, self.config.model.dtype), out_shardings=places)
        return init(jax.random.key(self.config.seed))

    def ready(self, assembly: Assembly, trained: Tree, fixed: Fixed, step: int) -> None:
        """Scores the held-out prompts before the first step, so that a gain has something to be compared with."""
        reference = fixed[BASE] if self.config.adapter is not None else fixed.get(REFERENCE)
        self.policies = Policies(self.forward, self.site.layout, self.rule.temperature, reference)
        if self.heldout is not None and self.config.evaluate_every is not None:
            self.heldout.before(step, lambda: assembly.whole(trained, fixed))

    def batch(self, index: int, step: int, batch: Batch, params: Callable[[], Params]) -> Batch:
        """The rows that this process holds of the step's answers."""
        first = step - step % self.own.reuse
        origin = index - (step - first)
        chosen = prompts.of(self.site.batches.examples, self.site.batches.indices(origin).tolist())
        lines = self.kept.get(origin, range(first, step + 1), lambda: self._made(origin, chosen, params(), step), step)
        self._show(lines)
        laid = self._laid(chosen, lines)
        self._lengths[index] = np.array([len(chosen[line["prompt"]].ids) + len(line["ids"]) for line in lines])
        own = self.site.layout.own_rows(self.site.batches.rows)
        return {name: array[own] for name, array in laid.items()}

    def lengths(self, index: int) -> np.ndarray:
        """The tokens of each prompt with its answer."""
        return self._lengths.pop(index)

    def evaluate(self, step: int, params: Params) -> dict[str, float]:
        """The mean reward on held-out prompts with its 95% interval, and what it was before the first step."""
        return {} if self.heldout is None else self.heldout.figures(step, params)

    def score(self, chosen: Sequence[Prompt], answers: Sequence[Answer]) -> list[tuple[Sample, Scored]]:
        """The texts of each prompt's answer with their reward."""
        tokenizer, stop_ids = self.site.tokenizer, self.sampler.stop_ids
        samples = [
            Sample(
                tokenizer.decode(list(prompt.ids)),
                tokenizer.decode([token for token in answer.ids if token not in stop_ids]).strip(),
                prompt.key(tokenizer, sorted(stop_ids)),
            )
            for prompt, answer in zip(chosen, answers, strict=True)
        ]
        # The lead alone runs programs and asks judges.
        own = [dataclasses.asdict(scored) for scored in self.rewards.score(samples)] if is_lead() else []
        told: Any = from_lead({"scored": own})
        return [(sample, Scored(**scored)) for sample, scored in zip(samples, told["scored"], strict=True)]

    @property
    def _in_reward(self) -> bool:
        return self.own.loss == "rloo" and self.rule.beta > 0

    @property
    def _in_loss(self) -> bool:
        return self.own.loss != "rloo" and self.rule.beta > 0

    @property
    def _needs_old(self) -> bool:
        return self.own.reuse > 1

    def _made(self, index: int, chosen: Sequence[Prompt], params: Params, step: int) -> list[Line]:
        """Answers to a batch's prompts with their rewards, and the log-probabilities that the loss asks for."""
        numbers = [(place, number) for place in range(len(chosen)) for number in range(self.own.group)]
        asked = [chosen[place] for place, _ in numbers]
        seeds = [seed_of(self.config.seed, index, place, number) for place, number in numbers]
        answers = self.sampler.sample(params, [prompt.ids for prompt in asked], seeds, step)
        lines = [
            {
                "prompt": place,
                "sample": number,
                "reward": scored.reward,
                "parts": scored.parts,
                "problem": scored.problem,
                "truncated": answer.truncated,
                "asked": sample.prompt,
                "answered": sample.answer,
                "ids": answer.ids,
                "logps": answer.logps,
            }
            for (place, number), answer, (sample, scored) in zip(numbers, answers, self.score(asked, answers), strict=True)
        ]
        if all(line["problem"] for line in lines):  # before they are kept: a mended reward starts anew
            raise UserError(f"no answer of this step has a reward: {lines[0]['problem']}; mend it, and start the same command again")
        if self._needs_old or self._in_reward:
            self._annotate(chosen, lines, "old", lambda batch: self.policies.logps(params, batch))
        if self.rule.beta > 0:
            self._annotate(chosen, lines, REFERENCE, self.policies.reference_logps)
        return lines

    def _annotate(self, chosen: Sequence[Prompt], lines: list[Line], name: str, logps: Callable[[Batch], np.ndarray]) -> None:
        """Adds the log-probabilities of each answer's tokens under a policy."""
        examples = [_example(chosen[line["prompt"]], line, 0.0, True, ()) for line in lines]
        places, batch = self._rows(examples)
        found = logps(batch)
        for row, place in enumerate(places):
            start = 0
            for number in place:
                stop = start + len(examples[number].ids) - 1
                lines[number][name] = found[row, stop - len(lines[number]["ids"]) : stop].astype(float).tolist()
                start = stop + 1

    def _laid(self, chosen: Sequence[Prompt], lines: Sequence[Line]) -> Batch:
        """The whole batch, with advantages and figures."""
        shape = (len(chosen), self.own.group)
        array = lambda values, dtype: np.array(list(values), dtype).reshape(shape)  # noqa: E731
        rewards = array((np.nan if line["reward"] is None else line["reward"] for line in lines), np.float64)
        counted = np.isfinite(rewards)
        figures = {"reward": (np.where(counted, rewards, 0), counted), "reward_problems": (~counted, np.ones(shape))}
        if self.own.truncated == "mask":
            counted &= ~array((line["truncated"] for line in lines), bool)
        if self._in_reward:
            rewards = rewards - self.rule.beta * array((sum(line["old"]) - sum(line[REFERENCE]) for line in lines), np.float64)
        own = advantages.of(rewards, counted, self.own.kind)
        first = np.arange(shape[1]) == 0
        figures |= {
            "truncated": (array((line["truncated"] for line in lines), float), np.ones(shape)),
            "equal_groups": (advantages.all_equal(rewards, counted)[:, None] * first, np.ones(shape) * first),
            "answer_tokens": (array((len(line["ids"]) for line in lines), float), np.ones(shape)),
        }
        more = (("old",) if self._needs_old else ()) + ((REFERENCE,) if self._in_loss else ())
        flat = zip(lines, own.ravel(), counted.ravel(), strict=True)
        places, batch = self._rows([_example(chosen[line["prompt"]], line, advantage, counts, more) for line, advantage, counts in flat])
        known = np.stack([np.stack([part.astype(np.float32).ravel() for part in figures[name]], -1) for name in REPORTS], 1)
        by_row = np.stack([known[place].sum(0) if place else np.zeros_like(known[0]) for place in places])
        return batch | {reinforce.FIGURES: by_row}

    def _rows(self, examples: Sequence[Example]) -> tuple[list[list[int]], Batch]:
        """Which examples lie in each row, in order, and the batch."""
        rows, length = self.site.batches.rows, self.site.batches.config.sequence_length
        places = best_fit([len(example.ids) for example in examples], length)
        places += [[] for _ in range(rows - len(places))]
        return places, lay([[examples[number] for number in place] for place in places], rows, length)

    def _show(self, lines: Sequence[Line]) -> None:
        """Says each problem of a reward once."""
        found = [line["problem"] for line in lines if line["problem"]]
        console = Console(stderr=True, quiet=not is_lead())
        for problem in dict.fromkeys(found):
            if problem not in self._said:
                self._said.add(problem)
                console.print(f"{found.count(problem)} of {len(lines)} answers have no reward: {problem}", style="yellow", markup=False)


def _example(prompt: Prompt, line: Line, advantage: float, counts: bool, more: Sequence[str]) -> Example:
    """A prompt with its answer; what concerns the prediction of a token lies at the place before it."""
    asked, said = len(prompt.ids), len(line["ids"])
    at = slice(asked - 1, asked + said - 1)

    def along(values: Any) -> np.ndarray:
        array = np.zeros(asked + said, np.float32)
        array[at] = values
        return array

    learnt = np.zeros(asked + said, bool)
    learnt[asked:] = counts
    tokens = {"advantages": along(advantage), "sampled": along(line["logps"])} | {name: along(line[name]) for name in more}
    return Example(np.array([*prompt.ids, *line["ids"]], np.int32), learnt, tokens=tokens)
