"""No filter and no parser takes more than time linear in a text, whatever a teacher writes."""

import time

import pytest

from alpaca_jax.generate.config import Filters
from alpaca_jax.generate.dedupe import Evaluations, RougeSeen
from alpaca_jax.generate.filters import answer_problem, has_placeholder, instruction_problem, is_broken, is_loop, is_refusal
from alpaca_jax.generate.tasks import parse_tasks
from alpaca_jax.teacher import reply, usage
from alpaca_jax.teacher.protocol import Reply, Request

LENGTH = 60_000
SECONDS = 5.0  # of processor time for all of them on one text; quadratic ones take minutes
RUNS = [
    *("\n", " ", "\t", "\r", "\x0b", "\u2028", "\xa0", "a", "A", "1", "_", "é", "\u0300", "東", "\x00", "\ufffd", "I'", "\u2019"),
    *("#", "*", "-", "=", "`", "<", "|", "[", "]", "{", "}", "(", ":", ".", ")", "/", "\\", '"', "&"),
    *(" \n", "\n ", "\t\n", "\r\n", "#\n", "###\n", "### ", "---\n\n", "* ", "** ", " *", "# *", "a ", "ab1 ", "a\n", ". ", "1. ", "1.\n"),
    *("<|", "<|a ", "</s", "[insert ", "{{", "{{}", "}{", "###Instruction ", "i can't ", "please "),
    *("1. Instruction:", "1. Instruction:\n", "1. Instruction: a\n1. Output: b\n", "Output:\n", "n/a", "\n1"),
]  # fmt: skip
FILTERS = Filters(max_words=10**6)
REQUEST = Request(endpoint="chat", prompt="Hi", max_tokens=5, temperature=1.0, top_p=1.0, seed=3)


def all_of_them(text, evaluations):
    """Runs every filter and parser on a text."""
    instruction_problem(text, FILTERS)
    parse_tasks(text, cut=False)
    parse_tasks(f"1. Instruction: Name it.\n1. Input:{text}\n1. Output: {text.removesuffix('x')}", cut=True)
    parse_tasks(f"1. Instruction: {text}", cut=True)
    answer_problem(text, False, FILTERS)
    is_broken(text), is_loop(text), is_refusal(text), has_placeholder(text * 10), usage.fewest(text)
    evaluations.hold("Name a river of Asia.", text, text)
    seen = RougeSeen(0.7)
    seen.add("Name a river of Asia.")
    seen.holds(text)
    seen.add(text)
    reply.read(Reply(body=text.encode(), model="m", seconds=0.0), REQUEST)


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    file = tmp_path_factory.mktemp("sets") / "e.jsonl"
    file.write_text('{"instruction": "Count to a hundred."}\n')
    return Evaluations([str(file)], 0.7)


@pytest.mark.parametrize("run", RUNS)
def test_a_long_run_of_anything_is_read_in_linear_time(run, evaluations):
    start = time.thread_time()
    all_of_them(run * (LENGTH // len(run)) + "x", evaluations)
    assert time.thread_time() - start < SECONDS
