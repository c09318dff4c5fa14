"""The fold alone, over a log that was written by hand."""

import pytest
from replies import received

from alpaca_jax.generate.collect import Collector
from alpaca_jax.generate.config import Config, Magpie
from alpaca_jax.generate.dedupe import RougeSeen
from alpaca_jax.generate.methods import MagpieMethod
from alpaca_jax.teacher.bill import Bill
from alpaca_jax.teacher.config import Prices, TeacherConfig
from alpaca_jax.teacher.log import AnswerLog

INSTRUCTIONS = ("Name the longest river of Africa now.", "Name the longest river of Asia now.", "Name the longest river of Asia now.")


class Exact:
    """A filter that knows nothing but equal texts."""

    def __init__(self):
        self._texts = set()

    def add(self, text):
        self._texts.add(text)

    def holds(self, text):
        return text in self._texts


@pytest.fixture
def collector(tmp_path):
    """Makes the fold over a log with an answered index for each instruction; index 3 has no answer yet, 4 its instruction only."""
    teacher = TeacherConfig(base_url="http://127.0.0.1:1/v1", model="m", endpoint="completions")
    config = Config(dir=str(tmp_path), teacher=teacher, method="magpie", magpie=Magpie(prefix="<user>"))
    log = AnswerLog(tmp_path / "answers", {}, Bill(Prices(prompt=0.0, completion=0.0, source="free")))
    method = MagpieMethod(config)
    for index, texts in {**{i: (text, "The Nile.") for i, text in enumerate(INSTRUCTIONS)}, 4: ("Name a colour of the sky.",)}.items():
        for step, text in enumerate(texts):
            request = method.advance(index, log.answers(index), lambda instruction: False)
            log.entry(index, step, request).keep(received(text, model=f"m{step}", endpoint=request.endpoint))
    return lambda seen: Collector(config, method, log, seen)


def test_the_near_duplicate_filter_is_the_callers(collector):
    by_rouge, exact = collector(RougeSeen(0.7)), collector(Exact())
    by_rouge.judge_log(skip_gaps=False)
    exact.judge_log(skip_gaps=False)
    assert by_rouge.counts == {"kept": 1, "near_duplicate": 2}
    assert exact.counts == {"kept": 2, "near_duplicate": 1}
    assert [(record.instruction, record.provenance["index"]) for record in exact.kept] == [(INSTRUCTIONS[0], 0), (INSTRUCTIONS[1], 1)]
    assert exact.kept[0].provenance["teacher"] == "m1"


def test_an_index_without_all_its_answers_ends_the_fold_or_is_counted(collector):
    fold = collector(Exact())
    fold.judge_log(skip_gaps=False)
    assert fold.next == 3
    fold.judge_log(skip_gaps=True)
    assert (fold.next, fold.counts["unanswered"]) == (5, 2)
