"""The summary and the page hold what the stages measured, and the page needs nothing but itself."""

import html.parser
import json
import re

import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.recipe import outcome
from alpaca_jax.rundir import RunDir


@pytest.fixture
def published(finished_run, tmp_path, capsys):
    config, markers = finished_run
    summary = outcome.publish(config, RunDir(tmp_path), markers)
    return summary, (tmp_path / "report.html").read_text(), capsys.readouterr().out


def test_summary_holds_the_figures(published, tmp_path):
    summary, _, _ = published
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    expected = {
        "records_kept": 96,
        "heldout_loss_before": 2.0514,
        "heldout_loss_after": 1.7382,
        "heldout_loss_fall": 0.3132,
        "tokens_real": 16830,
        "seconds": {"generate": 183.2, "train": 214.9, "evaluate": 38.4, "convert": 7.1},
        "dollars": 0.0,
        "peak_memory_bytes": 5_920_000_000,
        "hf_dir": str(tmp_path / "hf"),
        "command": f"alpaca-jax recipe experiment=laptop dir={tmp_path} seed=0",
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["versions"]["jax"]


def test_terminal_ends_with_a_table_and_the_line_that_starts_a_chat(published, tmp_path):
    shown = published[2]
    assert "2.051 -> 1.738 nats a token (fell by 0.313)" in shown
    assert shown.rstrip().splitlines()[-1].strip() == f"alpaca-jax serve model.source={tmp_path / 'hf'}"


class Page(html.parser.HTMLParser):
    """Collects the tags, what they refer to, and the text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.ids, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "action"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_page_is_whole_and_refers_to_nothing_outside(published):
    page = Page(published[1])
    assert page.open == []
    assert all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not re.search(r"url\((?!#)|@import", published[1])


def test_page_shows_every_part_and_escapes_what_models_wrote(published):
    text = Page(published[1]).text
    for part in ("Held-out loss", "Training", "Samples", "Data", "The bill", "Environment", "Reproduce this run"):
        assert part in text
    for figure in ("1.738", "96", "16,830", "134,515,008", "7 min 24 s", "91.0%", "near duplicate"):
        assert figure in text
    assert "<script>alert(1)" not in published[1]
    assert "<script>alert(1)</script>" in text  # as text
    assert published[0]["command"] in text


def test_a_suite_and_a_comparison_are_a_card_a_line_and_a_section(finished_run, tmp_path, capsys):
    row = {"task": "basics", "alias": "basics", "depth": 0, "version": "1", "filter": "none", "shots": 0, "metric": "lenient"}
    row |= {"higher_is_better": True, "before": 0.3, "before_stderr": 0.06, "value": 0.3667, "stderr": 0.061, "questions": 60}
    row |= {"difference": 0.0667, "difference_stderr": 0.051}
    facts = {"chat_template": "alpaca", "bos": "as in training"}
    scores = json.loads((tmp_path / "evaluate" / "scores.json").read_text())
    scores["suites"] = {"basics": {"error": None, "rows": [row], "facts": {"before": facts, "after": facts}, "files": {}}}
    (tmp_path / "evaluate" / "scores.json").write_text(json.dumps(scores))
    config, markers = finished_run
    summary = outcome.publish(config, RunDir(tmp_path), markers)
    assert summary["suites"]["basics"]["value"] == 0.3667 and summary["compare"] == []
    assert "0.300 -> 0.367 lenient, 60 questions, by +0.067 \u00b1 0.051" in " ".join(capsys.readouterr().out.replace("\u2502", "").split())
    text = Page((tmp_path / "report.html").read_text()).text
    assert "0.300 \u2192 0.367" in text and "Suite basics" in text and "+0.0667 \u00b1 0.0510" in text


def test_run_of_fewer_stages_has_fewer_sections(finished_run, tmp_path):
    config, markers = finished_run
    for name in ("records/manifest.json", "evaluate/scores.json"):
        (tmp_path / name).unlink()
    summary = outcome.publish(config, RunDir(tmp_path), markers[1:2])
    text = Page((tmp_path / "report.html").read_text()).text
    assert summary["records_kept"] is None
    assert summary["hf_dir"] is None
    assert "Training" in text
    assert "Samples" not in text


def test_broken_file_of_a_stage_is_named(finished_run, tmp_path):
    config, markers = finished_run
    (tmp_path / "evaluate" / "scores.json").write_text("{")
    with pytest.raises(UserError, match=r"scores\.json"):
        outcome.publish(config, RunDir(tmp_path), markers)
