"""Pairs and marked answers in the data sheet, on the terminal and on the page."""

import io
import json
import re

import pytest

from alpaca_jax.config import parse
from alpaca_jax.inspect.config import Config
from alpaca_jax.inspect.run import run
from alpaca_jax.terminal import Console

PAIRS = [{"prompt": f"Say {number}.", "chosen": f"It is {number}.", "rejected": "No."} for number in range(4)]
MARKED = [{"prompt": f"Do {number}.", "completion": "Done.", "label": number % 2 == 0} for number in range(3)]


def shown(files, tmp_path, lines, **changes):
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    mapping = {
        "dir": str(tmp_path),
        "model": {"tokenizer": str(files / "tokenizer")},
        "data": {"records": str(file), "cache": str(tmp_path / "cache"), "template": "plain"},
        "batch": {"examples": 2, "sequence_length": 256},
        "batches": 1,
        "rows": 9,
    }
    out = Console(file=io.StringIO(), width=80)
    figures = run(parse(Config, mapping | changes), out)
    return figures, out.file.getvalue(), (tmp_path / "inspect.html").read_text()


def test_pairs_are_shown_side_by_side(files, tmp_path):
    figures, text, page = shown(files, tmp_path, [*PAIRS, {"prompt": "Q", "chosen": "same", "rejected": "same"}])
    assert figures["form"] == "pairs" and figures["records"]["pairs"] == figures["records"]["longer_chosen"] + 1 == 5
    assert (figures["examples"]["train"]["kept"], figures["examples"]["train"]["equal"]) == (4, 1)
    assert re.findall(r"example (\d+) \((pair \d, \w+)\)", text) == [
        ("1", "pair 1, chosen"),
        ("2", "pair 1, rejected"),
        ("3", "pair 2, chosen"),
        ("4", "pair 2, rejected"),
    ]
    assert re.search(r"with a rejected answer +5", text) and "are pairs of equal answers" in text
    assert "example 1 of 4 (pair 1, chosen)" in page
    assert re.search(r"example 2 \(pair 1, rejected\).*\n.*\n\u27e6No\.", text)


def test_marked_answers_are_shown_with_their_mark(files, tmp_path):
    figures, text, _ = shown(files, tmp_path, MARKED, batch={"examples": 3, "sequence_length": 256})
    assert figures["form"] == "labelled"
    assert sorted(re.findall(r"example \d+ \((\w+)\)", text)) == ["unwanted", "wanted", "wanted"]


@pytest.mark.parametrize(("form", "kept"), [("answers", 4), ("labelled", 8)])
def test_another_form_is_shown_where_it_is_asked_for(files, tmp_path, form, kept):
    figures, text, _ = shown(files, tmp_path, PAIRS, form=form)
    assert figures["examples"]["train"]["kept"] == kept
    assert ("wanted" in text) == (form == "labelled")
