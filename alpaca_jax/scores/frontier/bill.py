"""What a run cost, by item. A price that isn't known is an error, never 0."""

import dataclasses
from collections.abc import Sequence

from alpaca_jax import hardware
from alpaca_jax.scores.frontier.config import FrontierConfig, Recorded
from alpaca_jax.scores.frontier.found import Run, Source, at, number, whole

ITEMS = ("teacher", "teacher's machine", "training", "judge")


class PriceMissing(ValueError):
    """A price that is needed and not known; the message names the key that gives it."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One line of a bill: dollars, how they came about, and whether they were computed rather than charged."""

    name: str
    dollars: float
    basis: str
    computed: bool = False


@dataclasses.dataclass(frozen=True)
class Bill:
    """The items of one run, in the order of ITEMS."""

    items: Sequence[Item]

    @property
    def dollars(self) -> float:
        """All items together."""
        return sum(item.dollars for item in self.items)

    def named(self, name: str) -> float:
        """Returns the dollars of one item."""
        return sum(item.dollars for item in self.items if item.name == name)


def teacher(run: Run, config: FrontierConfig) -> str:
    """Returns who answered in the run's records: by their manifest, else by `frontier.teachers`, else the name of their file."""
    names = []
    for source in run.sources:
        if source.manifest is not None:
            described = source.manifest.teacher
            name = str(described.get("source") or described.get("model") or source.records.stem).rpartition("/")[2]
        else:
            name = next((name for name, one in config.teachers.items() if one.records == source.records.name), source.records.stem)
        names.append(name)
    return " + ".join(dict.fromkeys(names))


def of(run: Run, config: FrontierConfig) -> Bill:
    """Returns the bill of a run; PriceMissing where a price isn't known.

    Records that `generate` made are charged by their manifest, in the proportion in which the run used them. Machines are charged by the
    hour from the first line to the last, waiting included; scoring a run isn't charged, except for a judge.
    """
    hourly, price = _hourly(run, config)
    seconds = number(run.summary.get("seconds")) or 0.0
    asked, machine = zip(*[_records(run, source, config, hourly) for source in run.sources], strict=True)
    training = Item("training", seconds / 3600 * hourly, f"{seconds:,.0f} s at {hourly:g} dollars an hour ({price})")
    return Bill([_together("teacher", asked), _together("teacher's machine", machine), training, _judge(run)])


def _records(run: Run, source: Source, config: FrontierConfig, hourly: float) -> tuple[Item, Item]:
    """What the teacher charged for the records that the run used, and what its machine did."""
    manifest = source.manifest
    if manifest is None:
        return _recorded(run, source, config), Item("teacher's machine", 0.0, "the teacher charges by the token")
    alone = len(run.sources) == 1
    share = min(1.0, run.records / manifest.records) if alone and manifest.records and run.records else 1.0
    used = f"{share:.0%} of {manifest.records:,} records"
    asked = Item("teacher", share * manifest.dollars, f"{used}, {manifest.prices.get('source', 'prices of its manifest')}")
    if not manifest.teacher.get("source"):
        return asked, Item("teacher's machine", 0.0, "the teacher charges by the token")
    basis = f"{used}, made in {manifest.seconds:,.0f} s on the same machine"
    return asked, Item("teacher's machine", share * manifest.seconds / 3600 * hourly, basis)


def _recorded(run: Run, source: Source, config: FrontierConfig) -> Item:
    """The bill of a teacher whose answers were taken from a file: its records' tokens times its prices."""
    found: tuple[str, Recorded] | None = next(
        ((name, one) for name, one in config.teachers.items() if one.records == source.records.name), None
    )
    if found is None and not source.records.exists():
        raise PriceMissing(
            f"what the records {source.records} cost isn't known: they aren't there, nor the manifest.json beside them. Start from the "
            "folder in which the runs were started, or name their teacher's prices in frontier.teachers"
        )
    if found is None:
        raise PriceMissing(
            f"what the records in {source.records.name} cost isn't known: they have no manifest.json. Give the teacher's prices, as in "
            f"'frontier.teachers.NAME={{records: {source.records.name}, prompt: 20, completion: 20, source: where you read it}}'"
        )
    if len(run.sources) > 1:
        raise PriceMissing(f"the tokens of {source.records.name} alone aren't known, since the run mixes several sets of records")
    name, prices = found
    tokens, answers = (whole(at(run.summary, "counts", "train", key)) for key in ("tokens", "target_tokens"))
    dollars = ((tokens - answers) * prices.prompt + answers * prices.completion) / 1e6
    basis = f"{tokens - answers:,} prompt and {answers:,} answer tokens at {prices.prompt:g} and {prices.completion:g} dollars a million"
    return Item("teacher", dollars, f"computed: {basis}, {name}, {prices.source}", computed=True)


def _hourly(run: Run, config: FrontierConfig) -> tuple[float, str]:
    """Dollars an hour of all devices of a run, and where the price comes from."""
    rate = number(at(run.config, "hardware", "dollars_per_hour"))
    if rate is not None:
        return rate, "hardware.dollars_per_hour of the run"
    chip, devices = str(at(run.summary, "hardware", "chip") or "cpu"), max(1, whole(at(run.summary, "hardware", "devices")))
    given = {_key(name): price for name, price in config.prices.items()}
    if _key(chip) in given:
        return devices * given[_key(chip)], f"{devices} x {chip}, frontier.prices"
    if (listed := hardware.list_price(chip)) is not None:
        return devices * listed.dollars_per_hour, f"{devices} x {chip}, {listed.source}"
    raise PriceMissing(
        f"the price of an hour of {chip!r} isn't known: give frontier.prices.{chip.replace(' ', '_')}=DOLLARS, that of one device "
        "(or train with hardware.dollars_per_hour)"
    )


def _judge(run: Run) -> Item:
    compare = run.scores.get("compare")
    if not compare:
        return Item("judge", 0.0, "no judge was asked")
    dollars = number(at(compare, "bill", "dollars"))
    if dollars is None:
        raise PriceMissing("scores.json has a comparison but not what its judge cost; compare again with this version")
    return Item("judge", dollars, f"{whole(at(compare, 'bill', 'requests')):,} requests, {at(compare, 'judge', 'model')}")


def _together(name: str, items: Sequence[Item]) -> Item:
    basis = "; ".join(dict.fromkeys(item.basis for item in items))
    return Item(name, sum(item.dollars for item in items), basis, any(item.computed for item in items))


def _key(chip: str) -> str:
    return chip.lower().replace("_", " ")
