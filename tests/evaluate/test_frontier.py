"""`evaluate action=frontier` on made-up folders of runs: the files, what is left out, and what is an error."""

import json
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest
from scores_frontier import records, run, write

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate import frontier
from alpaca_jax.evaluate.config import Config
from alpaca_jax.scores.frontier.found import find

PRICES = {"prices": {"cpu": 0.5}}


def config(folder: Path, **settings: Any) -> Config:
    return parse(Config, {"dir": str(folder), "model": {}, "batch": {"examples": 4}, "frontier": PRICES} | settings)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two teachers, three numbers of records: four runs on the front, one that can't be told from it, one behind."""
    folder = tmp_path / "sweep"
    cheap, dear = records(tmp_path / "cheap", dollars=1.0, teacher={"model": "cheap"}), records(tmp_path / "dear", dollars=8.0)
    for number, (place, count, loss) in enumerate(
        [(cheap, 25, 4.0), (cheap, 50, 3.4), (cheap, 100, 3.02), (dear, 25, 3.021), (dear, 50, 2.8), (dear, 100, 3.5)]
    ):
        run(folder / str(number), place, count, loss, seed=number)
    entries = [
        {"name": str(number), "dir": f"elsewhere/{number}", "swept": {"data.limit": str(25 * 2 ** (number % 3))}} for number in range(6)
    ]
    write(folder / "sweep.json", {"entries": entries})
    return folder


def test_the_page_the_table_and_the_picture_are_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = frontier.run(config(sweep))
    assert json.loads((sweep / "frontier.json").read_text()) == json.loads(json.dumps(value))
    heldout = value["qualities"]["heldout"]
    assert (heldout["front"], heldout["tied"], heldout["behind"]) == (["0", "1", "2", "4"], ["3"], ["5"])
    assert value["runs"][4]["dollars"] == 4.5 and [item["name"] for item in value["runs"][4]["items"]][:1] == ["teacher"]
    assert value["runs"][3]["qualities"]["heldout"]["against"] == "2"
    assert value["runs"][0]["swept"] == {"data.limit": "25"}
    svg = (sweep / "frontier.svg").read_text()
    assert xml.etree.ElementTree.fromstring(svg).tag.endswith("svg") and "var(--" not in svg
    page = (sweep / "frontier.html").read_text()
    assert heldout["halving"]["sentence"].split(" (")[0] in page.replace("&#39;", "'") and "taught by cheap" in page
    shown = capsys.readouterr().out
    assert "on the front" in shown and "the held-out loss" in shown


def test_the_same_runs_give_the_same_bytes(sweep: Path) -> None:
    first, second = [], []
    for files in (first, second):
        frontier.run(config(sweep))
        files += [(sweep / name).read_bytes() for name in ("frontier.json", "frontier.svg", "frontier.html")]
    assert first == second


def test_unfinished_runs_are_named_and_left_out(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sweep / "1" / "train" / "summary.json").unlink()
    (sweep / "2" / "evaluate" / "scores.json").unlink()
    (sweep / "3" / "train" / "summary.json").write_text("{")
    run(sweep / "4", sweep.parent / "cheap" / "records.jsonl", 25, 3.0, on="other")
    value = frontier.run(config(sweep))
    told = capsys.readouterr().err
    assert "run 1 isn't finished, train/summary.json is missing" in told
    assert "run 2 isn't scored, evaluate/scores.json is missing: alpaca-jax evaluate dir=" in told
    assert "summary.json" in told.split("run 3 ")[1].splitlines()[0]
    assert "run 4 isn't on the picture of the held-out loss: it was measured on other examples than most" in told
    assert {run["name"] for run in value["runs"] if run["qualities"]} == {"0", "5"}
    assert [one["name"] for one in value["left_out"]] == ["1", "2", "3", "4"]
    assert "What is left out" in (sweep / "frontier.html").read_text()


def test_a_missing_price_is_an_error_after_the_rest_is_drawn(sweep: Path) -> None:
    run(sweep / "0", "alpaca_data.json", 25, 4.0)
    with pytest.raises(UserError, match=r"what the records alpaca_data.json cost isn't known.*the page holds the other 5 runs"):
        frontier.run(config(sweep))
    value = json.loads((sweep / "frontier.json").read_text())
    assert len(value["runs"]) == 5 and len(value["missing_prices"]) == 1
    (sweep / "frontier.json").unlink()
    with pytest.raises(UserError, match="the price of an hour of 'cpu' isn't known"):
        frontier.run(config(sweep, frontier={}))
    assert not (sweep / "frontier.json").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no such folder"), ([], "there is no run below it"), (["train"], "none of its 1 runs can be put on a frontier")],
)
def test_an_empty_sweep_is_said(tmp_path: Path, content: list[str] | None, says: str) -> None:
    for name in content or []:
        (tmp_path / "sweep" / "0" / name).mkdir(parents=True)
    if content == []:
        (tmp_path / "sweep").mkdir()
    with pytest.raises(UserError, match=says):
        frontier.run(config(tmp_path / "sweep"))


def test_runs_are_found_without_a_list_and_a_broken_list_is_said(sweep: Path) -> None:
    (sweep / "sweep.json").unlink()
    run(sweep / "more" / "6", sweep.parent / "cheap" / "records.jsonl", 25, 4.0)
    assert [one.name for one in find(sweep)[0]] == ["0", "1", "2", "3", "4", "5", "more/6"]
    (sweep / "sweep.json").write_text('{"entries": 3}')
    with pytest.raises(UserError, match="is not the list of a sweep's jobs"):
        find(sweep)


def test_suites_and_win_rates_have_pictures_of_their_own(sweep: Path) -> None:
    for number in range(6):
        row = {"task": "basics", "metric": "lenient", "value": 0.1 * number, "stderr": 0.02, "higher_is_better": True}
        rate = {"value": 50.0 + number, "standard_error": 2.0}
        compare = {
            "bill": {"dollars": 0.0, "requests": 2},
            "judge": {"model": "gpt"},
            "comparisons": [{"model": "model", "against": "reference", "position": {"corrected": rate}}],
        }
        path = sweep / str(number) / "evaluate" / "scores.json"
        write(path, json.loads(path.read_text()) | {"suites": {"basics": {"rows": [row]}}, "compare": compare})
    value = frontier.run(config(sweep))
    assert set(value["qualities"]) == {"heldout", "suites.basics", "compare.reference"}
    basics = value["qualities"]["suites.basics"]
    assert basics["better"] == "higher" and basics["front"] == ["0", "1", "2", "3", "4", "5"]
    assert (sweep / "frontier-suites-basics.svg").exists()
