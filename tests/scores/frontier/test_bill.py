"""What a run cost, item by item; a price that isn't known is an error."""

from pathlib import Path

import pytest
from scores_frontier import records, run

from alpaca_jax.scores.frontier import bill
from alpaca_jax.scores.frontier.bill import PriceMissing
from alpaca_jax.scores.frontier.config import FrontierConfig, Recorded
from alpaca_jax.scores.frontier.found import Run, find

CPU = FrontierConfig(prices={"cpu": 0.5})


def found(folder: Path) -> Run:
    runs, left_out = find(folder)
    assert not left_out
    return runs[0]


def test_the_teacher_is_charged_for_the_records_that_were_used(tmp_path: Path) -> None:
    run(tmp_path / "sweep" / "0", records(tmp_path / "parrot"), 25, 3.0)
    made = bill.of(found(tmp_path / "sweep"), CPU)
    assert {item.name: item.dollars for item in made.items} == {"teacher": 0.5, "teacher's machine": 0, "training": 0.5, "judge": 0}
    assert made.dollars == 1.0 and bill.teacher(found(tmp_path / "sweep"), CPU) == "parrot"
    assert not any(item.computed for item in made.items)


def test_a_teacher_on_this_machine_costs_its_hours(tmp_path: Path) -> None:
    place = records(tmp_path / "own", dollars=0.0, teacher={"model": None, "source": "models/own"}, seconds=7200.0)
    run(tmp_path / "sweep" / "0", place, 50, 3.0)
    made = bill.of(found(tmp_path / "sweep"), CPU)
    assert made.named("teacher's machine") == 0.5 * 2 * 0.5
    assert bill.teacher(found(tmp_path / "sweep"), CPU) == "own"


def test_a_recorded_teacher_is_computed_from_tokens_and_prices(tmp_path: Path) -> None:
    run(tmp_path / "sweep" / "0", "somewhere/alpaca_data.json", 1000, 3.0)
    config = FrontierConfig(
        prices={"cpu": 0.0}, teachers={"davinci": Recorded(records="alpaca_data.json", prompt=10.0, completion=20.0, source="a list")}
    )
    made = bill.of(found(tmp_path / "sweep"), config)
    assert made.dollars == pytest.approx(40_000 * 10 / 1e6 + 60_000 * 20 / 1e6)
    assert made.items[0].computed and "computed: 40,000 prompt and 60,000 answer tokens" in made.items[0].basis
    assert bill.teacher(found(tmp_path / "sweep"), config) == "davinci"


def test_machines_cost_what_the_run_the_user_or_the_list_says_in_this_order(tmp_path: Path) -> None:
    place = records(tmp_path / "parrot", dollars=0.0)
    run(tmp_path / "sweep" / "0", place, 10, 3.0, chip="A100", devices=8)
    whole = found(tmp_path / "sweep")
    assert bill.of(whole, FrontierConfig()).dollars == pytest.approx(8 * 2.49)
    assert bill.of(whole, FrontierConfig(prices={"a100": 1.0})).dollars == 8.0
    run(tmp_path / "sweep" / "0", place, 10, 3.0, chip="A100", devices=8, config={"hardware": {"dollars_per_hour": 3.0}})
    assert bill.of(found(tmp_path / "sweep"), FrontierConfig(prices={"A100": 1.0})).dollars == pytest.approx(3.0)


def test_a_judge_is_charged_by_its_own_bill(tmp_path: Path) -> None:
    more = {"compare": {"bill": {"dollars": 0.75, "requests": 504}, "judge": {"model": "gpt"}, "comparisons": []}}
    run(tmp_path / "sweep" / "0", records(tmp_path / "parrot"), 100, 3.0, more=more)
    assert bill.of(found(tmp_path / "sweep"), CPU).named("judge") == 0.75


@pytest.mark.parametrize(
    ("file", "config", "says"),
    [
        ("parrot", FrontierConfig(), "the price of an hour of 'cpu' isn't known: give frontier.prices.cpu=DOLLARS"),
        ("plain.json", CPU, "what the records in plain.json cost isn't known: they have no manifest.json"),
        ("gone.json", CPU, "they aren't there, nor the manifest.json beside them"),
    ],
)
def test_a_price_that_is_not_known_is_named_with_its_key(tmp_path: Path, file: str, config: FrontierConfig, says: str) -> None:
    (tmp_path / "plain.json").write_text("[]")
    place = records(tmp_path / "parrot") if file == "parrot" else tmp_path / file
    run(tmp_path / "sweep" / "0", place, 10, 3.0)
    with pytest.raises(PriceMissing, match=says):
        bill.of(found(tmp_path / "sweep"), config)
