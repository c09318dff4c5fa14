"""A suite is run once: what is on disk of the same model and settings is read."""

import dataclasses

import pytest

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import RunDir
from alpaca_jax.scores.suites import running
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.terminal import Console

RAW = {
    "results": {"t": {"alias": "t", "sample_len": 1, "acc,none": 1.0, "acc_stderr,none": "N/A"}},
    "versions": {"t": 1.0},
    "n-shot": {"t": 0},
    "samples": {"t": []},
}


@dataclasses.dataclass
class Named:
    """Of a model, what its results are kept by."""

    source: str = "org/model"
    template: str = "alpaca"

    def identity(self):
        return {"source": self.source, "template": self.template}


@pytest.fixture
def ran(monkeypatch):
    """The suites that were run."""
    names = []
    monkeypatch.setattr(running, "_harness", lambda name, suite, *_: names.append(name) or (RAW, {"bos": "once"}))
    return names


def test_a_finished_suite_is_read_and_not_run_again(ran, tmp_path):
    suite, folder = SuiteConfig(tasks=("t",)), RunDir(tmp_path)
    run = lambda suite, **model: running.run("s", suite, Named(**model), folder, Console(stderr=True))  # noqa: E731
    first = run(suite)
    assert run(suite) == first and ran == ["s"]
    assert [file.name[:8] for file in (tmp_path / "evaluate" / "suites" / "s" / "org__model").glob("results_*")] == ["results_"]
    assert run(dataclasses.replace(suite, slots=2, metrics=("acc",))) == first and len(ran) == 1  # these change no result
    assert run(suite, template="plain") == first and len(ran) == 1  # nor does the template of chats that aren't rendered
    run(dataclasses.replace(suite, limit=3))
    run(dataclasses.replace(suite, chat=True))
    run(dataclasses.replace(suite, chat=True), template="plain")
    run(suite, source="other")
    assert len(ran) == 5


def test_other_data_are_another_suite(ran, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    suite = SuiteConfig(tasks=("t",), data=str(data))
    for content in ("{}", "{}", "{} "):
        (data / "test.jsonl").write_text(content)
        running.run("s", suite, Named(), RunDir(tmp_path / "run"), Console(stderr=True))
    assert len(ran) == 2


def test_without_a_folder_nothing_is_kept(ran, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert running.run("s", SuiteConfig(tasks=("t",)), Named(), None, Console(stderr=True)).figures() == {"acc": 1.0}
    assert len(ran) == 2 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, r"either tasks or is our own; choose one by its name, suites=\[mmlu\]"),
        ({"tasks": ["x"], "own": {}}, "either tasks or is our own"),
        ({"tasks": ["x"], "base_url": "http://host/v1"}, "needs via=serve"),
        ({"tasks": ["x"], "via": "serve", "base_url": "host"}, "base_url "),
        ({"tasks": ["x"], "limit": 0}, "limit=0: give 1 or more"),
    ],
)
def test_a_suite_that_can_not_be_is_refused(given, problem):
    with pytest.raises(UserError, match=problem):
        parse(SuiteConfig, given)
