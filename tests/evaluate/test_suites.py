"""The part `suites`: each suite before and after, and one that can't be had doesn't keep the others from being run."""

import io
from types import SimpleNamespace

from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.parts import suites
from alpaca_jax.scores.suites import results, running
from alpaca_jax.scores.suites.config import SuiteConfig
from alpaca_jax.terminal import Console


def result(*values):
    """A suite of one task whose questions have these values."""
    mean = sum(values) / len(values)
    own = {"alias": "t", "sample_len": len(values), "acc,none": mean, "acc_stderr,none": 0.25, "f1,none": 0.5, "f1_stderr,none": "N/A"}
    samples = [{"doc_id": number, "metrics": ["acc"], "acc": value} for number, value in enumerate(values)]
    raw = {"results": {"t": own}, "versions": {"t": 1.0}, "n-shot": {"t": 5}, "samples": {"t": samples}, "higher_is_better": {}}
    return results.of(raw, {"bos": "<s>, once, before every text", "chat_template": None, "truncated": 2}, "results_x.json")


def test_what_can_not_be_had_is_said_and_the_rest_goes_on(monkeypatch):
    said, shown = io.StringIO(), io.StringIO()
    chosen = {"far": SuiteConfig(tasks=("mmlu",)), "near": SuiteConfig(tasks=("t",), metrics=("acc",))}
    context = SimpleNamespace(config=SimpleNamespace(suites=chosen), folder=None, console=Console(file=said), label="before")
    found = {"before: near": result(1, 0, 0, 1), "after: near": result(1, 1, 0, 1)}

    def run(name, suite, loaded, folder, console, title):
        if name == "far":
            raise UserError("suites.far: its data can't be had from the hub")
        return found[f"{title}{name}"]

    monkeypatch.setattr(running, "run", run)
    before = suites.with_model(context, None)
    context.label = "after"
    after = suites.with_model(context, None)
    assert said.getvalue().count("can't be had from the hub") == 2
    value = suites.conclude(context, before, after)
    assert value["far"] == {"error": "suites.far: its data can't be had from the hub", "rows": []}
    (row,) = value["near"]["rows"]
    assert (row["before"], row["value"], row["difference"], row["difference_stderr"]) == (0.5, 0.75, 0.25, 0.25)
    suites.show(value, {}, Console(file=shown, width=160))
    text = shown.getvalue()
    assert "0.5000 ± 0.2500" in text and "0.7500 ± 0.2500" in text and "+0.2500 ± 0.2500" in text
    assert "without a chat template; BOS: <s>, once, before every text; 2 questions lost the beginning" in text
    assert text.count("suites.far: its data can't be had from the hub") == 1
    (section,) = suites.sections(value, {})
    assert [block.kind for block in section.blocks] == ["prose", "table"]


def test_one_model_has_the_usual_table():
    context = SimpleNamespace(config=SimpleNamespace(suites={"near": SuiteConfig(tasks=("t",))}))
    value = suites.conclude(context, None, {"near": result(1, 0)})
    shown = io.StringIO()
    suites.show(value, {}, Console(file=shown, width=160))
    for word in ("Tasks", "Version", "Filter", "n-shot", "Metric", "Value", "Stderr", "0.5000", "± 0.2500"):
        assert word in shown.getvalue()
