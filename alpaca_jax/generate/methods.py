"""Self-Instruct and Magpie: two ways to get tasks from a teacher.

Each request is a function of (seed, index) and of the earlier answers for that index.
"""

import dataclasses
import hashlib
import random
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.generate.config import Config
from alpaca_jax.generate.tasks import Candidate, parse_tasks
from alpaca_jax.records import Record
from alpaca_jax.teacher.protocol import Answer, Request

# Whether an instruction is certain to be dropped, so that no answer has to be paid for.
Doomed = Callable[[str], bool]


class Method(Protocol):
    yields: int  # candidates expected per index
    longest: int  # approximate tokens of the longest prompt with its answer
    known: Sequence[str]  # instructions that count as already seen

    def advance(self, index: int, answers: Sequence[Answer], doomed: Doomed) -> Request | list[Candidate]:
        """The next request for this index, or its candidates once there is nothing more to ask."""
        ...


def make(config: Config) -> Method:
    """The method that `config` names."""
    return MagpieMethod(config) if config.method == "magpie" else SelfInstructMethod(config, load_seeds(config.seeds))


def request_seed(seed: int, index: int, step: int) -> int:
    """A 31-bit seed, determined by the three arguments."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{index}/{step}".encode()).digest()[:4], "big") >> 1


class MagpieMethod:
    """Given the chat template up to the user's turn, the model writes an instruction, which it then answers (arXiv:2406.08464)."""

    yields = 1
    known: Sequence[str] = ()

    def __init__(self, config: Config) -> None:
        self._config = config
        fixed = max(len(config.magpie.prefix + config.magpie.turn), len(config.magpie.system)) + max(map(len, config.magpie.openings))
        # Counts characters, of which a token has several: this leaves room for the rest of the template.
        self.longest = fixed + config.sampling.instruction_max_tokens + config.sampling.max_tokens

    def advance(self, index: int, answers: Sequence[Answer], doomed: Doomed) -> Request | list[Candidate]:
        """The next request, or the single candidate."""
        magpie, sampling = self._config.magpie, self._config.sampling
        opening = magpie.openings[index % len(magpie.openings)]
        if not answers:
            temperature = sampling.temperature if sampling.instruction_temperature is None else sampling.instruction_temperature
            return Request(
                endpoint="completions",
                prompt=magpie.prefix + opening,
                max_tokens=sampling.instruction_max_tokens,
                temperature=temperature,
                top_p=sampling.top_p,
                seed=request_seed(self._config.seed, index, 0),
                stop=magpie.stop,
            )
        if problem := _silence(answers[0]):
            return [Candidate(problem=problem)]
        instruction = (opening + (answers[0].text or "")).strip()
        if answers[0].finish_reason == "length":
            return [Candidate(instruction=instruction, problem="cut_instruction")]
        if doomed(instruction):
            return [Candidate(instruction=instruction)]
        if len(answers) == 1:
            return self._answer_request(index, instruction)
        if problem := _silence(answers[1]):
            return [Candidate(instruction=instruction, problem=problem)]
        text, seed = answers[1].text or "", request_seed(self._config.seed, index, 1)
        return [Candidate(instruction=instruction, output=text.strip(), cut=answers[1].finish_reason == "length", seed=seed)]

    def _answer_request(self, index: int, instruction: str) -> Request:
        magpie, sampling = self._config.magpie, self._config.sampling
        chat = magpie.answer == "chat"
        return Request(
            endpoint=magpie.answer,
            prompt=instruction if chat else magpie.prefix + instruction + magpie.turn,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=request_seed(self._config.seed, index, 1),
            stop=() if chat else magpie.stop,
            system=magpie.system if chat else "",
        )


class SelfInstructMethod:
    """Shows a few seed tasks as the start of a list and asks for the rest of the list (Wang et al., 2022; Alpaca, 2023)."""

    def __init__(self, config: Config, seeds: Sequence[Record]) -> None:
        self._config, self._seeds = config, seeds
        examples, asked = config.self_instruct.shown, config.self_instruct.asked
        if len(seeds) < examples:
            raise UserError(
                f"seeds={config.seeds}: has {len(seeds)} tasks, but self_instruct.shown={examples} go into a prompt. Add seed tasks."
            )
        self.yields = asked - examples
        self.known: Sequence[str] = [seed.instruction for seed in seeds]
        widest = sorted(len(_format_task(1, seed)) for seed in seeds)[-examples:]
        self.longest = (len(REQUIREMENTS) + sum(widest)) // 2 + 64 + config.self_instruct.max_tokens

    def advance(self, index: int, answers: Sequence[Answer], doomed: Doomed) -> Request | list[Candidate]:
        """The request for the list, or the tasks in it."""
        how, sampling, endpoint = self._config.self_instruct, self._config.sampling, self._config.teacher.endpoint
        seed = request_seed(self._config.seed, index, 0)
        if not answers:
            prompt = self_instruct_prompt(random.Random(seed).sample(self._seeds, how.shown), how.asked)
            # No stop text such as "20.": it would also cut an answer at "2020."
            return Request(
                endpoint=endpoint,
                prompt=prompt + (f"{how.shown + 1}. Instruction:" if endpoint == "completions" else ""),
                max_tokens=how.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed,
            )
        if problem := _silence(answers[0]):
            return [Candidate(problem=problem)]
        start = "1. Instruction:" if endpoint == "completions" else ""
        tasks = parse_tasks(start + (answers[0].text or ""), cut=answers[0].finish_reason == "length")
        return [dataclasses.replace(task, seed=seed, item=item) for item, task in enumerate(tasks)] or [Candidate(problem="no_task")]


def _silence(answer: Answer) -> str | None:
    """Why an answer has no text at all, or None if it has one; a model that reasons may use up the token limit before its first word."""
    if not answer.text and answer.finish_reason == "length":
        return "no_text_before_limit"
    return "nonsense" if answer.text is None else None


REQUIREMENTS = """Write a varied list of {asked} tasks of the kind that people give to an assistant which reads and writes text.
The list is for teaching a language model to follow instructions, so that:
- each task begins with another verb where possible, and questions and commands are mixed;
- the kinds of task differ: writing, explaining, classifying, rewriting, extracting, planning, calculating, programming and others;
- a language model can do each with text alone: nothing to look at, listen to, open or remember;
- an instruction is one or two sentences of English;
- the input holds the particular text or data the task is about, under 100 words and never a placeholder; where the instruction needs none,
  the input is <noinput>;
- the output is a good and complete answer, under 100 words.

Each task has three parts, marked as in the first ones below. Go on after them, in the same form, up to number {asked}; write nothing else.

"""


def self_instruct_prompt(examples: Sequence[Record], asked: int) -> str:
    """The prompt that gives these tasks as the first of a list of `asked`."""
    return REQUIREMENTS.format(asked=asked) + "".join(_format_task(number, task) for number, task in enumerate(examples, start=1))


def _format_task(number: int, task: Record) -> str:
    return (
        f"{number}. Instruction: {task.instruction}\n{number}. Input: {task.input or '<noinput>'}\n{number}. Output: {task.output}\n###\n"
    )


def load_seeds(path: str | None) -> list[Record]:
    """The seed tasks of a JSONL file (`instruction`, `input`, `output`, or Self-Instruct's `instances`); None: the packaged ones."""
    source = Path(path).expanduser() if path else resources.files("alpaca_jax.records") / "seeds.jsonl"
    if not source.is_file():
        raise UserError(f"seeds={path}: no such file. Give a JSONL file of seed tasks, or null for the packaged ones.")
    content = documents.read(source) if isinstance(source, Path) else source.read_bytes()
    seeds = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                seeds.append(_seed(documents.json_value(line)))
            except ValueError as problem:
                raise UserError(f"{source}, line {number}: not a seed task ({problem}).") from None
    return seeds


def _seed(task: Any) -> Record:
    """The seed task; a ValueError says what it lacks."""
    if not isinstance(task, dict):
        raise ValueError("an object is due")
    part = task
    if "instances" in task:
        instances = task["instances"]
        if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
            raise ValueError("instances must be a list of objects")
        part = instances[0]
    texts: dict[str, Any] = {"instruction": task.get("instruction"), "input": part.get("input") or "", "output": part.get("output")}
    for name, text in texts.items():
        if not isinstance(text, str) or (name == "instruction" and not text.strip()):
            raise ValueError(f"{name} must be a text")
    return Record(texts["instruction"], texts["input"], texts["output"])
