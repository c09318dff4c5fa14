"""The answers of a model in this process, many prompts at once, each kept on disk as it comes."""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.data.example import prompt_ids, turn_ids
from alpaca_jax.data.template import Template, get
from alpaca_jax.decode.generation import Generation, Options
from alpaca_jax.errors import UserError
from alpaca_jax.progress import ProgressBar
from alpaca_jax.records import Record
from alpaca_jax.scores.answers.answer import Answer, AnswerSet
from alpaca_jax.scores.answers.config import AnswersConfig
from alpaca_jax.scores.answers.kept import AnswerFile
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.prompts import Prompt, PromptSet
from alpaca_jax.terminal import Console


@dataclasses.dataclass(frozen=True)
class _Job:
    """One prompt with one seed, and what it was answered so far."""

    prompt: Prompt
    seed: int
    said: tuple[str, ...] = ()
    tokens: int = 0
    shortened: bool = False


def answer(model: Loaded, name: str, prompts: PromptSet, config: AnswersConfig, path: Path, console: Console) -> AnswerSet:
    """Returns the model's answers to the prompts, `config.seeds` to each; what `path` has of them already isn't made again.

    A prompt is rendered as training renders a record, and ends as its answers end; later turns follow the answers that were given. One
    that leaves no room for its answer loses its beginning and is marked as shortened. The answers don't depend on `slots`, nor on
    what else is answered. A UserError where `path` holds answers of another model, template, prompt set or sampling.
    """
    template = model.template if config.template is None else get(config.template, model.tokenizer)
    file = AnswerFile(path, settings(model, template, prompts, config), config.set_aside)
    jobs = [_Job(prompt, config.seed + n) for prompt in prompts for n in range(config.seeds)]
    missing = [job for job in jobs if job.seed not in file.answers.get(job.prompt.id, {})]
    if missing:
        run = _Answering(model, template, config, file)
        with ProgressBar(f"answers of {name}", len(jobs), len(jobs) - len(missing), console, transient=True) as bar:
            run.all(missing, bar)
    wanted = range(config.seed, config.seed + config.seeds)
    found = {id: [by_seed[seed] for seed in wanted if seed in by_seed] for id, by_seed in file.answers.items()}
    notes = [f"damaged lines that were answered again: {len(file.damaged)} ({file.damaged[0]})"] if file.damaged else []
    notes += [f"earlier answers with other settings are in {file.renamed}"] if file.renamed else []
    return AnswerSet.of(name, model.source, prompts, found, notes=tuple(notes))


def settings(model: Loaded, template: Template, prompts: PromptSet, config: AnswersConfig) -> dict[str, Any]:
    """What decides the answers of a model: another value of any of these gives other answers."""
    identity = {name: value for name, value in model.identity().items() if name not in ("source", "template")}
    written = hashlib.sha256(template.chat_template().encode()).hexdigest()[:16]
    return {**identity, "template": written, "prompts": prompts.whole, **config.sampling()}


class _Answering:
    """The work on a list of jobs: as many at once as the batch has slots."""

    def __init__(self, model: Loaded, template: Template, config: AnswersConfig, file: AnswerFile) -> None:
        self._model, self._template, self._config, self._file = model, template, config, file
        self._batch = model.batch(config.slots)
        self._room = self._batch.max_length - config.max_tokens
        if self._room < 1:
            raise UserError(
                f"answers.max_tokens={config.max_tokens} leaves no room for a prompt in the {self._batch.max_length} positions of "
                f"{model.source}: give less"
            )
        self._stop = frozenset((*model.eos_ids, template.end_id))

    def all(self, jobs: Sequence[_Job], bar: ProgressBar) -> None:
        """Answers all jobs, the longest prompts first, so that the cache shrinks as they become shorter."""
        waiting = deque(sorted(jobs, key=lambda job: -len(job.prompt.turns[0])))
        running = dict[Generation, _Job]()
        while waiting or running:
            while waiting and self._batch.free:
                job = waiting.popleft()
                ids = self._ids(job)
                job = dataclasses.replace(job, shortened=job.shortened or len(ids) > self._room)
                running[self._batch.admit(ids[-self._room :], self._options(job))] = job
            for generation in self._batch.step():
                if generation.finish_reason is None:
                    continue
                after = self._answered(running.pop(generation), generation)
                if len(after.said) < len(after.prompt.turns):
                    waiting.appendleft(after)
                    continue
                first, *later = after.said
                kept = Answer(first, after.seed, generation.finish_reason, after.tokens, tuple(later), after.shortened)
                self._file.keep(after.prompt.id, kept)
                bar.advance()
                self._model.alive()

    def _answered(self, job: _Job, generation: Generation) -> _Job:
        text = self._model.tokenizer.decode([token.id for token in generation.tokens]).strip()
        return dataclasses.replace(job, said=(*job.said, text), tokens=job.tokens + len(generation.tokens))

    def _ids(self, job: _Job) -> list[int]:
        """The prompt of the next turn."""
        prompt, said = job.prompt, job.said
        if said or prompt.system:
            first, *answers = (*said, "")
            record = Record(
                prompt.instruction, prompt.input, first, system=prompt.system, turns=tuple(zip(prompt.turns[1:], answers, strict=False))
            )
            return turn_ids(self._template, self._model.tokenizer, record)
        return prompt_ids(self._template, self._model.tokenizer, prompt.instruction, prompt.input)

    def _options(self, job: _Job) -> Options:
        drawn = hashlib.sha256(f"{job.seed}/{job.prompt.id}/{len(job.said)}".encode()).digest()
        config = self._config
        return Options(config.max_tokens, config.settled_temperature, config.top_p, int.from_bytes(drawn[:4], "big"), stop_ids=self._stop)
