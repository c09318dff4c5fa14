"""The tasks in a teacher's numbered list, read in time linear in the text, whatever the text."""

import dataclasses
import re


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


# A part begins at the start of a line; its number may be wrong or missing, and some teachers set it in bold. What a quantifier has taken
# it never gives back (*+, ++, ?+), so that no line is read more than once.
_START = r"^[ \t]*+(?:#{1,4}+[ \t]*+)?+\**+[ \t]*+"
_END = r"\**+[ \t]*+:[ \t]*+\**+[ \t]*+"
_INSTRUCTION = re.compile(_START + r"(\d++)[ \t]*+[.):][ \t]*+\**+Instruction" + _END, re.MULTILINE | re.IGNORECASE)
_PART = re.compile(_START + r"(?:(\d++)[ \t]*+[.):])?+[ \t]*+\**+(Input|Output)" + _END, re.MULTILINE | re.IGNORECASE)
_NO_INPUT = re.compile(r"\W*+(?:no ?input|none|n/a)\W*+", re.IGNORECASE)
SEPARATORS = {"#": 2, "-": 3, "*": 3}  # characters of which a line between two tasks consists, and how many it has at least


def parse_tasks(text: str, cut: bool) -> list[Candidate]:
    """The tasks of a numbered list, whatever their numbers; with `cut` the last one is marked as cut.

    A task extends from its "Instruction:" to the next one, so `###` inside an output belongs to the output.
    """
    heads = list(_INSTRUCTION.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    tasks = []
    for head, end in zip(heads, ends, strict=False):  # without heads, `ends` has one element more
        body, last = text[head.end() : end], cut and end == len(text)
        parts = list(_PART.finditer(body))
        input_ = _part(parts, head.group(1), "input")
        output = _part(parts, head.group(1), "output", input_.end() if input_ else 0)
        if output is None:
            tasks.append(Candidate(instruction=body.strip()[:200], cut=last, problem="cut" if last else "no_output"))
            continue
        given = body[input_.end() : output.start()].strip() if input_ else ""
        tasks.append(
            Candidate(
                instruction=body[: (input_ or output).start()].strip(),
                input="" if _NO_INPUT.fullmatch(given) else given,
                output=_without_separators(body[output.end() :]),
                cut=last,
            )
        )
    return tasks


def _part(parts: list[re.Match[str]], number: str, name: str, start: int = 0) -> re.Match[str] | None:
    """The part of that name: with the task's own number if there is one, else with any number or none."""
    named = [part for part in parts if part.start() >= start and part.group(2).lower() == name]
    return next((part for part in named if part.group(1) == number), named[0] if named else None)


def _without_separators(text: str) -> str:
    """The text without the lines between two tasks at its end, and without the space around it."""
    lines = text.split("\n")
    while lines and (not lines[-1].strip() or _is_separator(lines[-1].strip(" \t"))):
        lines.pop()
    return "\n".join(lines).strip()


def _is_separator(line: str) -> bool:
    return len(line) >= SEPARATORS.get(line[0], len(line) + 1) and line == line[0] * len(line)
