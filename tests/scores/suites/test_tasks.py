"""Tasks of the harness by name: without the whole index, without a network, and with one clear line for what can't be had."""

import json
import sys

import datasets
import pytest
from huggingface_hub import constants

from alpaca_jax.errors import UserError
from alpaca_jax.scores.suites import tasks
from alpaca_jax.scores.suites.config import SuiteConfig


@pytest.fixture(autouse=True)
def without_a_hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def write(folder, split, *rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def question(number, key="B"):
    return {"question": f"Is it {number}?", "choices": {"text": ["no", "yes"], "label": ["A", "B"]}, "answerKey": key}


def test_an_unknown_task_names_those_that_are_close(monkeypatch):
    monkeypatch.setattr(tasks, "_named", lambda: {"arc_easy": tasks._root() / "arc", "arc_challenge": tasks._root() / "arc"})
    with pytest.raises(UserError, match=r"suites.mine.tasks: there is no task 'arc_eazy'; did you mean arc_easy\?"):
        tasks.load("mine", SuiteConfig(tasks=("arc_eazy",)))


def test_a_harness_that_is_not_installed_is_one_line_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.task", None)
    with pytest.raises(UserError, match=r"suites.science needs lm_eval\S*, which isn't installed: pip install 'alpaca-jax\[lm-eval\]'"):
        tasks.load("science", SuiteConfig(tasks=("arc_easy",)))


def test_a_hub_out_of_reach_is_one_line_with_a_remedy():
    with pytest.raises(UserError) as error:
        tasks.load("science", SuiteConfig(tasks=("arc_easy",)))
    said = str(error.value)
    assert said.startswith("suites.science: its data can't be had from the hub (Couldn't reach 'allenai/ai2_arc'") and "\n" not in said
    assert "suites.science.data=FOLDER" in said


def test_a_task_reads_local_files_in_the_columns_of_the_hub(tmp_path):
    for config in ("ARC-Easy", "ARC-Challenge"):
        write(tmp_path / config, "test", *map(question, range(3)))
    chosen = tasks.load("science", SuiteConfig(tasks=("ai2_arc",), data=str(tmp_path)))["tasks"]  # a tag
    assert sorted(chosen) == ["arc_challenge", "arc_easy"]
    task = chosen["arc_easy"]
    (document, *_) = task.eval_docs
    assert task.doc_to_text(document) == "Question: Is it 0?\nAnswer:"
    assert (task.doc_to_choice(document), task.doc_to_target(document)) == (["no", "yes"], 1)
    digests = task.dump_config()["metadata"]["local_data"]
    assert list(digests) == [str(tmp_path / "ARC-Easy" / "test.jsonl")]


def test_examples_need_their_split(tmp_path):
    write(tmp_path / "ARC-Easy", "test", question(0))
    suite = SuiteConfig(tasks=("arc_easy",), data=str(tmp_path), num_fewshot=2)
    with pytest.raises(
        UserError, match=r"ARC-Easy/train.jsonl: missing; arc_easy needs a line there for each row of allenai/ai2_arc \(ARC-Easy\)"
    ):
        tasks.load("science", suite)
    write(tmp_path / "ARC-Easy", "train", *map(question, range(5)))
    task = tasks.load("science", suite)["tasks"]["arc_easy"]
    assert len(task.fewshot_docs()) == 5


@pytest.mark.parametrize(
    ("content", "problem"),
    [("", "test.jsonl is empty"), ('{"question": 1}\n[]\n', "test.jsonl, line 2: an object is due"), ("{]", "line 1: not JSON")],
)
def test_a_broken_line_is_named(tmp_path, content, problem):
    write(tmp_path / "ARC-Easy", "test")
    (tmp_path / "ARC-Easy" / "test.jsonl").write_text(content)
    with pytest.raises(UserError, match=problem):
        tasks.load("science", SuiteConfig(tasks=("arc_easy",), data=str(tmp_path)))


def test_files_with_other_columns_are_named(tmp_path):
    write(tmp_path / "ARC-Easy", "test", {"query": "Is it?", "answerKey": "A"})
    with pytest.raises(
        UserError, match=r"suites.science: lm-evaluation-harness can't run it: UndefinedError: 'question' .* the columns of the hub\?"
    ):
        tasks.load("science", SuiteConfig(tasks=("arc_easy",), data=str(tmp_path)))


def test_missing_data_of_nltk_name_their_remedy():
    said = "Resource punkt_tab not found.\n  >>> import nltk\n  >>> nltk.download('punkt_tab')"
    with (
        pytest.raises(UserError, match="NLTK's data are missing; get it: python -m nltk.downloader punkt_tab"),
        tasks.explained("ifeval", SuiteConfig(tasks=("ifeval",))),
    ):
        raise LookupError(said)


def test_a_folder_of_ones_own_is_searched_alone_and_by_who_trusts_it(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"suites.own.folder=.*nowhere: there is no such folder"):
        tasks.load("own", SuiteConfig(tasks=("sums",), folder=str(tmp_path / "nowhere")))
    (tmp_path / "evil.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\ndef text(doc): return 'x'\n")
    (tmp_path / "sums.yaml").write_text("task: sums\ndataset_path: x\noutput_type: multiple_choice\ndoc_to_text: !function evil.text\n")
    with pytest.raises(UserError, match="can run code of its own .* export ALPACA_JAX_TRUST_TASKS=1"):
        tasks.load("own", SuiteConfig(tasks=("sums",), folder=str(tmp_path)))
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("ALPACA_JAX_TRUST_TASKS", "1")
    with pytest.raises(UserError, match=r"there is no task 'sum'; did you mean sums\?"):
        tasks.load("own", SuiteConfig(tasks=("sum",), folder=str(tmp_path)))


@pytest.mark.parametrize(("given", "own", "shots"), [(None, None, 0), (None, 5, 5), (3, 5, 3), (3, 0, 0), (3, None, 3), (0, 5, 0)])
def test_examples_are_as_many_as_the_suite_says_unless_a_task_never_has_any(given, own, shots):
    assert SuiteConfig(tasks=("x",), num_fewshot=given).shots(own) == shots
