"""The log of every request with its raw answer: what was paid for once is never asked again, and records can be made from it anew."""

import dataclasses
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import append_line
from alpaca_jax.teacher.protocol import Answer, Request


class Log:
    """An append-only JSONL file, safe to append to from many threads.

    Its first line holds the settings that shape the requests; the log of other settings is refused. Where requests cost money, a line
    with the most that one may cost goes before it, so that a killed run knows what it may have spent unseen.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.asked: list[tuple[Request, Answer]] = []
        self.doubtful: list[float] = []
        self._answers: dict[int, list[Answer]] = {}
        self._lock = threading.Lock()
        lines = list(self._lines()) if path.exists() else []
        if not lines:
            append_line(path, json.dumps({"settings": settings}))
            return
        self._check(lines[0][1].get("settings"), json.loads(json.dumps(settings)))
        out: dict[tuple[int, int], float] = {}
        for number, line in lines[1:]:
            try:
                place = line["index"], line["step"]
                if "may_cost" in line or "cost_at_most" in line:
                    before = out.pop(place, 0.0)
                    if "may_cost" in line:
                        self.doubtful.append(before)  # of a run that was killed
                        out[place] = line["may_cost"]
                    else:
                        self.doubtful.append(line["cost_at_most"])
                    continue
                request = Request(**{**line["request"], "stop": tuple(line["request"]["stop"])})
                out.pop(place, None)
                self._take(*place, request, Answer(**line["answer"]))
            except (KeyError, TypeError, ValueError) as problem:
                raise self._broken(number, f"{type(problem).__name__}: {problem}") from None
        self.doubtful.extend(out.values())

    @property
    def indices(self) -> list[int]:
        """The indices with an answer, in order."""
        return sorted(self._answers)

    def answers(self, index: int) -> list[Answer]:
        """The answers of one index, in the order of their steps."""
        return list(self._answers.get(index, ()))

    def note(self, index: int, step: int, kind: str, dollars: float) -> None:
        """Puts on disk what a request "may_cost" before it is sent, or did "cost_at_most" when no answer came."""
        with self._lock:
            append_line(self.path, json.dumps({"index": index, "step": step, kind: dollars}))

    def append(self, index: int, step: int, request: Request, answer: Answer) -> None:
        """Puts an answer on disk before anybody builds on it."""
        line = {"index": index, "step": step, "request": dataclasses.asdict(request), "answer": dataclasses.asdict(answer)}
        with self._lock:
            append_line(self.path, json.dumps(line, ensure_ascii=False))
            self._take(index, step, request, answer)

    def _take(self, index: int, step: int, request: Request, answer: Answer) -> None:
        answers = self._answers.setdefault(index, [])
        if step != len(answers):
            raise ValueError(f"step {step} of index {index} follows {len(answers)} answers")
        answers.append(answer)
        self.asked.append((request, answer))

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        lines = self.path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except ValueError as problem:
                if number == len(lines):
                    return  # torn by a kill; the next append mends it
                raise self._broken(number, str(problem)) from None
            if not isinstance(found, dict):
                raise self._broken(number, "not an object")
            yield number, found

    def _broken(self, number: int, problem: str) -> UserError:
        return UserError(f"{self.path}, line {number}: not a line of an answers log ({problem}). Remove that line, or give another dir=.")

    def _check(self, before: Any, now: Mapping[str, Any]) -> None:
        if not isinstance(before, dict):
            raise self._broken(1, "no settings")
        differing = [
            f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in {**before, **now} if before.get(key) != now.get(key)
        ]
        if differing:
            raise UserError(
                f"{self.path} holds the answers of another run:\n  "
                + "\n  ".join(differing)
                + "\ngive another dir=, or the settings of before"
            )
