"""Who votes on what next: the questions that everybody gets, then those that nobody has taken yet."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from alpaca_jax.errors import UserError
from alpaca_jax.scores.people import questions, votes
from alpaca_jax.scores.people.questions import Question
from alpaca_jax.scores.people.votes import Ledger, Level, Vote

T = TypeVar("T")
HELD = 900.0  # seconds for which a question stays with the voter it was shown to


@dataclasses.dataclass(frozen=True)
class Ballot:
    """A question as a voter sees it: without names, the answers in the voter's own order."""

    id: str
    turns: tuple[str, ...]
    a: tuple[str, ...]  # one text a turn
    b: tuple[str, ...]
    level: Level | None  # the earlier vote, where there is one


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a voter stands: votes given, questions left, and the ballot to show (None: there is none for now)."""

    voter: str
    done: int
    left: int
    closed: bool
    ballot: Ballot | None


class Booth:
    """All voters of one comparison; one thread calls it."""

    def __init__(
        self, asked: Sequence[Question], folder: Path, overlap: float, seed: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder = folder
        self._asked = {question.key: question for question in asked}
        self._shared = questions.shared(asked, overlap, seed)
        self._seed = seed
        self._clock = clock
        self._ledgers = {votes.identity(ledger.voter): ledger for ledger in votes.read(folder)}
        self._held: dict[str, tuple[str, float]] = {}  # question: by whom, until when

    @property
    def ledgers(self) -> list[Ledger]:
        """Everybody's votes."""
        return list(self._ledgers.values())

    def votes(self) -> list[Vote]:
        """Everybody's last vote on each question that is still there."""
        return votes.all_votes(self.ledgers, self._asked)

    def enter(self, name: str) -> Place:
        """Returns where the voter goes on; a UserError for a name that is none."""
        return self._place(self._ledger(name))

    def vote(self, name: str, ballot: str, level: Level) -> Place:
        """Writes a vote, new or in the place of an earlier one, and returns where the voter goes on."""
        ledger = self._open(name)
        question = self._question(name, ballot)
        first, second = self._as_shown(question, name, question.models)
        ledger.add(Vote(ledger.voter, question.key, question.prompt, first, second, level))
        self._held.pop(question.key, None)
        return self._place(ledger)

    def back(self, name: str, ballot: str | None) -> Place:
        """Returns the place with the ballot that the voter voted on before this one (None: the last)."""
        ledger = self._open(name)
        given = self._given(ledger)
        at = given.index(self._question(name, ballot)) if ballot and self._question(name, ballot) in given else len(given)
        place = self._place(ledger)
        return dataclasses.replace(place, ballot=self._ballot(ledger, given[at - 1])) if at > 0 else place

    def close(self, name: str) -> Place:
        """Ends the voter's voting, after which results may be shown."""
        ledger = self._open(name)
        if not ledger.votes:
            raise UserError("vote first: the results are shown to those who have voted")
        ledger.close()
        return self._place(ledger)

    def _ledger(self, name: str) -> Ledger:
        return self._ledgers.setdefault(votes.identity(name), votes.ledger(self.folder, name))

    def _open(self, name: str) -> Ledger:
        ledger = self._ledger(name)
        if ledger.closed:
            raise UserError(f"{ledger.voter} has seen the results, and votes no more")
        return ledger

    def _question(self, name: str, ballot: str) -> Question:
        voter = votes.identity(name)
        for question in self._asked.values():
            if questions.ballot(question, voter, self._seed) == ballot:
                return question
        raise UserError("this page is older than the answers on the server: load it again")

    def _as_shown(self, question: Question, name: str, pair: tuple[T, T]) -> tuple[T, T]:
        return (pair[1], pair[0]) if questions.swapped(question, votes.identity(name), self._seed) else pair

    def _given(self, ledger: Ledger) -> list[Question]:
        return [self._asked[key] for key in ledger.votes if key in self._asked]

    def _ballot(self, ledger: Ledger, question: Question) -> Ballot:
        a, b = self._as_shown(question, ledger.voter, question.answers)
        earlier = ledger.votes.get(question.key)
        voter = votes.identity(ledger.voter)
        return Ballot(questions.ballot(question, voter, self._seed), question.turns, a, b, earlier.level if earlier else None)

    def _place(self, ledger: Ledger) -> Place:
        voter = votes.identity(ledger.voter)
        done = len(self._given(ledger))
        if ledger.closed:
            return Place(ledger.voter, done, 0, True, None)
        waiting = self._waiting(ledger)
        ordered = [
            question
            for group in (True, False)  # shared ones first: voters who leave early have still met
            for question in questions.shuffled([one for one in waiting if (one.key in self._shared) is group], voter, self._seed)
        ]
        free = next((question for question in ordered if question.key in self._shared or self._take(question.key, voter)), None)
        return Place(ledger.voter, done, len(waiting), False, None if free is None else self._ballot(ledger, free))

    def _waiting(self, ledger: Ledger) -> list[Question]:
        """The voter's share of what has no vote yet: shared questions without his own, others without anybody's."""
        taken = {key for other in self._ledgers.values() for key in other.votes}
        return [question for key, question in self._asked.items() if key not in ledger.votes and (key in self._shared or key not in taken)]

    def _take(self, key: str, voter: str) -> bool:
        """Whether the voter may have a question that only one gets; then it is his for HELD seconds."""
        now = self._clock()
        holder, until = self._held.get(key, (voter, now))
        if holder != voter and until > now:
            return False
        self._held[key] = (voter, now + HELD)
        return True
