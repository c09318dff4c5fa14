"""Self-Instruct and Magpie: two ways to get tasks from a teacher.

Each request is a function of (seed, index) and of the earlier answers for that index.
"""

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Protocol

from alpaca_jax.errors import UserError
from alpaca_jax.generate.config import Config
from alpaca_jax.records import Record
from alpaca_jax.teacher.protocol import Answer, Request

# Whether an instruction is certain to be dropped, so that no answer has to be paid for.
Doomed = Callable[[str], bool]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One task as the teacher wrote it; `problem` says why it is incomplete."""

    instruction: str = ""
    input: str = ""
    output: str = ""
    cut: bool = False  # the token limit ended the output
    problem: str | None = None
    seed: int = 0  # of the request that produced the output
    item: int = 0  # the task's position in that answer


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
        if answers[0].text is None:
            return [Candidate(problem="nonsense")]
        instruction = (opening + answers[0].text).strip()
        if answers[0].finish_reason == "length":
            return [Candidate(instruction=instruction, problem="cut_instruction")]
        if doomed(instruction):
            return [Candidate(instruction=instruction)]
        if len(answers) == 1:
            return self._answer_request(index, instruction)
        text, seed = answers[1].text, request_seed(self._config.seed, index, 1)
        if text is None:
            return [Candidate(instruction=instruction, problem="nonsense")]
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
        if answers[0].text is None:
            return [Candidate(problem="nonsense")]
        start = "1. Instruction:" if endpoint == "completions" else ""
        tasks = parse_tasks(start + answers[0].text, cut=answers[0].finish_reason == "length")
        return [dataclasses.replace(task, seed=seed, item=item) for item, task in enumerate(tasks)] or [Candidate(problem="no_task")]


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


# A part begins at the start of a line; its number may be wrong or missing, and some teachers set it in bold.
_PART = r"^[ \t]*(?:#{{1,4}}[ \t]*)?\**[ \t]*{number}[ \t]*\**{name}\**[ \t]*:[ \t]*\**[ \t]*"
_INSTRUCTION = re.compile(_PART.format(number=r"(\d+)[ \t]*[.):]", name="Instruction"), re.MULTILINE | re.IGNORECASE)
_SEPARATORS = re.compile(r"(?:\s*^[ \t]*(?:#{2,}|-{3,}|\*{3,})[ \t]*$)+\s*\Z", re.MULTILINE)
_NO_INPUT = re.compile(r"\W*(?:no ?input|none|n/a)\W*", re.IGNORECASE)


def parse_tasks(text: str, cut: bool) -> list[Candidate]:
    """The tasks of a numbered list, whatever their numbers; with `cut` the last one is marked as cut.

    A task extends from its "Instruction:" to the next one, so `###` inside an output belongs to the output.
    """
    heads = list(_INSTRUCTION.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    tasks = []
    for head, end in zip(heads, ends, strict=False):  # without heads, `ends` has one element more
        body, number = text[head.end() : end], head.group(1)
        last = cut and end == len(text)
        input_ = _part(body, number, "Input")
        output = _part(body, number, "Output", input_.end() if input_ else 0)
        if output is None:
            tasks.append(Candidate(instruction=body.strip()[:200], cut=last, problem="cut" if last else "no_output"))
            continue
        given = body[input_.end() : output.start()].strip() if input_ else ""
        tasks.append(
            Candidate(
                instruction=body[: (input_ or output).start()].strip(),
                input="" if _NO_INPUT.fullmatch(given) else given,
                output=_SEPARATORS.sub("", body[output.end() :]).strip(),
                cut=last,
            )
        )
    return tasks


def _part(body: str, number: str, name: str, start: int = 0) -> re.Match[str] | None:
    """The start of a part: with the task's own number if there is one, else with any number or none."""
    for numbers in (rf"{number}[ \t]*[.):]", r"(?:\d+[ \t]*[.):])?"):
        pattern = re.compile(_PART.format(number=numbers, name=name), re.MULTILINE | re.IGNORECASE)
        if match := pattern.search(body, start):
            return match
    return None


def load_seeds(path: str | None) -> list[Record]:
    """The seed tasks of a JSONL file (`instruction`, `input`, `output`, or Self-Instruct's `instances`); None: the packaged ones."""
    source = Path(path) if path else resources.files("alpaca_jax.generate") / "seeds.jsonl"
    if not source.is_file():
        raise UserError(f"seeds={path}: no such file. Give a JSONL file of seed tasks, or null for the packaged ones.")
    seeds = []
    for number, line in enumerate(source.read_text(encoding="utf-8").split("\n"), start=1):
        if line.strip():
            try:
                task = json.loads(line)
                part = task["instances"][0] if "instances" in task else task
                seeds.append(Record(task["instruction"], part.get("input") or "", part["output"]))
            except (ValueError, KeyError, IndexError, TypeError, AttributeError) as problem:
                raise UserError(f"{source}, line {number}: not a seed task ({type(problem).__name__}: {problem}).") from None
    return seeds
