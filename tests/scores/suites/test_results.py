"""The harness's files, written and read back, and two models side by side."""

import json
import math

import numpy as np
import pytest

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import RunDir
from alpaca_jax.scores.suites import page, results, together

PLACE = ("evaluate", "suites", "s", "m")


def raw(**values):
    """What the harness gives for a group of two tasks, whose questions have these values."""
    tasks = {task: list(map(float, own)) for task, own in values.items()}
    means = {task: np.float64(np.mean(own)) for task, own in tasks.items()}
    sizes = np.array([len(own) for own in tasks.values()])
    whole = float(np.array(list(means.values())) @ sizes / sizes.sum())
    return {
        "results": {
            "group": {"name": "group", "alias": "group", "sample_len": int(sizes.sum()), "acc,none": whole, "acc_stderr,none": "N/A"},
            **{
                task: {"alias": f" - {task}", "sample_len": len(own), "acc,none": means[task], "acc_stderr,none": 0.1, "f1,none": math.nan}
                for task, own in tasks.items()
            },
        },
        "group_subtasks": {"group": list(tasks)},
        "versions": {"group": 2, **dict.fromkeys(tasks, 1.0)},
        "n-shot": dict.fromkeys(tasks, 5),
        "higher_is_better": {task: {"acc": True} for task in ("group", *tasks)},
        "samples": {
            task: [
                {
                    "doc_id": number,
                    "doc": {"question": np.int64(number)},
                    "arguments": [("a question", " yes"), ("a question", " no")],
                    "resps": [[(-1.0, True)], [(-2.0, False)]],
                    "filtered_resps": [(-1.0, True), (-2.0, False)],
                    "target": 0,
                    "filter": "none",
                    "metrics": ["acc"],
                    "acc": value,
                }
                for number, value in enumerate(own)
            ]
            for task, own in tasks.items()
        },
    }


def test_a_result_is_written_in_the_harness_layout_and_read_back(tmp_path):
    folder, ours = RunDir(tmp_path), {"key": {"model": "m", "limit": (1, 2)}, "facts": {"bos": "once"}}
    made = results.write(folder, PLACE, raw(a=[1, 0, 1], b=[0]), ours)
    names = sorted(path.name for path in tmp_path.joinpath(*PLACE).iterdir())
    date = names[0].removeprefix("results_").removesuffix(".json")
    assert names == [f"results_{date}.json", f"samples_a_{date}.jsonl", f"samples_b_{date}.jsonl"]
    assert results.find(folder, PLACE, ours["key"]) == made
    assert results.find(folder, PLACE, {"model": "another"}) is None
    shown = [(row.alias, row.depth, row.version, row.shots, row.metric, row.value, row.stderr, row.questions) for row in made.rows]
    assert shown == [
        ("group", 0, "2", 5, "acc", 0.5, None, 4),
        ("a", 1, "1.0", 5, "acc", pytest.approx(2 / 3), 0.1, 3),
        ("b", 1, "1.0", 5, "acc", 0.0, 0.1, 1),
    ]
    assert made.values["a", "acc", "none"] == {"0": 1.0, "1": 0.0, "2": 1.0}
    (line, *_) = tmp_path.joinpath(*PLACE, names[1]).read_text().splitlines()
    sample = json.loads(line)
    assert sample["arguments"]["gen_args_1"] == {"arg_0": "a question", "arg_1": " no"}
    assert sample["target"] == "0" and sample["resps"] == [[["-1.0", "True"]], [["-2.0", "False"]]]


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "results_x.json"
    file.write_text('{"results": {"a": {"acc,none": 1.0}}}')
    with pytest.raises(UserError, match="results_x.json: is no results file of lm-evaluation-harness .*'versions'"):
        results.read(file)


def test_the_difference_is_over_the_same_questions():
    before, after = (results.of(raw(a=a, b=b), {}) for a, b in (([1, 0, 1, 0], [0, 1]), ([1, 1, 1, 0], [1, 1])))
    whole, first, second = together.rows(before, after)
    differences = {"a": np.array([0, 1, 0, 0]), "b": np.array([1, 0])}
    errors = {task: own.std(ddof=1) / math.sqrt(len(own)) for task, own in differences.items()}
    assert (first.difference, first.difference_stderr) == (0.25, pytest.approx(errors["a"]))
    assert (second.difference, second.difference_stderr) == (0.5, pytest.approx(errors["b"]))
    assert whole.difference == pytest.approx(2 / 6)
    assert whole.difference_stderr == pytest.approx(math.hypot(4 / 6 * errors["a"], 2 / 6 * errors["b"]))
    (alone, *_) = together.rows(None, after)
    assert alone.before is None and alone.difference is None


def test_the_metric_that_counts_comes_first():
    both = raw(a=[1, 0], b=[1])
    both["results"]["group"] |= {"zeta,none": 0.25}
    made = results.of(both, {})
    assert made.figures() == {"acc": pytest.approx(2 / 3), "zeta": 0.25}
    assert list(made.figures(("zeta", "acc"))) == ["zeta", "acc"]
    assert [row.metric for row in together.rows(None, made, ("zeta",))] == ["zeta"]


def test_the_table_has_the_columns_that_people_know():
    before, after = results.of(raw(a=[1, 0], b=[0]), {}), results.of(raw(a=[1, 1], b=[0]), {})
    one = [vars(row) for row in together.rows(None, after)]
    assert page.head(one) == ("Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "Stderr")
    assert page.cells(one[1], page.head(one)) == [" - a", "1.0", "none", "5", "acc", "↑", "1.0000", "± 0.1000"]
    two = [vars(row) for row in together.rows(before, after)]
    assert page.cells(two[1], page.head(two))[6:] == ["0.5000 ± 0.1000", "1.0000 ± 0.1000", "+0.5000 ± 0.5000"]
    value = {
        "s": {"rows": two, "error": None, "facts": {"after": {"bos": "once", "chat_template": None}}},
        "t": {"rows": [], "error": "why"},
    }
    (section,) = page.sections(value)
    assert [block.kind for block in section.blocks] == ["table", "prose"]
    assert section.blocks[0].caption == "s: asked as plain text, without a chat template; BOS: once."
