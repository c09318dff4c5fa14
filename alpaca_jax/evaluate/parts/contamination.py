"""What the training records have in common with the prompts and suites of this evaluation, and the scores without it."""

import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from alpaca_jax import records, report
from alpaca_jax.errors import UserError
from alpaca_jax.evaluate.config import Config
from alpaca_jax.evaluate.context import Context
from alpaca_jax.evaluate.settings import Settings
from alpaca_jax.report import Section
from alpaca_jax.rundir import read_json
from alpaca_jax.scores import prompts, runs, trained
from alpaca_jax.scores.contamination import RULES, Item, Touch, find, split, suites, touched
from alpaca_jax.scores.contamination.rules import IN_WORDS
from alpaca_jax.scores.loaded import Loaded
from alpaca_jax.scores.suites.results import Result, place, read
from alpaca_jax.terminal import Console

NAME = "contamination"
SCORES = "per_item.json"  # what another part leaves in its folder: {set: {model: {id: score}}}
WORST, SHOWN = 10, 12  # items on the page, and scores in the terminal
LONGEST = 800  # characters of a text that is shown
NOTHING = "Contamination: no training record could be read, so nothing is known of it."
HEAD = ("set", "items", "equal", "13 words", "8 words", "ROUGE-L")  # in the order of RULES


def wanted(config: Config, settings: Settings) -> bool:
    """Whether there are prompts, and records that they may be among."""
    known = config.contamination.records is not None or settings.run is not None
    asked = config.answers.prompts is not None or bool(config.suites)
    return config.contamination.check and asked and known


def needs_model(config: Config) -> bool:
    """Never."""
    return False


def with_model(context: Context, loaded: Loaded) -> None:
    """Nothing."""


def conclude(context: Context, before: None, after: None) -> dict[str, Any]:
    """How many items of each set each rule touches, the worst with both texts, and the scores with and without them."""
    start, notes = time.perf_counter(), list[str]()
    items = list(_items(context))
    with context.console.status("contamination: comparing the training records with the prompts"):
        touches, number = find(_records(context, notes), items)
    limit = context.config.contamination.rouge_l
    by_set = {name: [touch for touch in touches if touch.item.set == name] for name in dict.fromkeys(item.set for item in items)}
    return {
        "records": number,
        "rouge_l": limit,
        "notes": notes,
        "sets": {name: _counted(own, limit) for name, own in by_set.items()},
        "worst": [_worst(touch) for touch in sorted(touches, key=lambda touch: touch.rank, reverse=True)[:WORST]],
        "scores": list(_splits(context, by_set, limit)),
        "seconds": round(time.perf_counter() - start, 3),
    }


def _items(context: Context) -> Iterator[Item]:
    """The prompts, and the questions of the suites."""
    config = context.config.answers
    if config.prompts is not None:
        asked = prompts.read(config.prompts).first(config.limit)
        yield from (Item(asked.name, prompt.id, prompt.text) for prompt in asked)
    for suite in context.config.suites:
        for _, result in itertools.islice(_results(context, suite), 1):  # all models were asked the same
            yield from suites.items(result)


def _results(context: Context, suite: str) -> Iterator[tuple[str, Result]]:
    """(label, newest result) of each model that a suite was run on."""
    for label, model in (("model", context.settings.model), ("baseline", context.settings.baseline)):
        folder = context.folder.root.joinpath(*place(suite, str(model.source))) if model else None
        if folder is not None and folder.is_dir() and (files := sorted(folder.glob("results_*.json"))):
            yield label, read(files[-1])


def _scores(context: Context) -> Iterator[tuple[str, str, str, str, Mapping[str, float]]]:
    """(part, set, model, metric, score by id) of all that was scored item by item."""
    for path in sorted(context.folder.path("evaluate", "x").parent.glob(f"*/{SCORES}")):
        found = read_json(path)
        if not isinstance(found, dict) or not all(isinstance(value, dict) for value in found.values()):
            raise UserError(f"{path} doesn't hold what the part {path.parent.name} writes; delete it, and run that part again")
        yield from ((path.parent.name, name, model, "preference", own) for name, models in found.items() for model, own in models.items())
    for suite in context.config.suites:
        for label, result in _results(context, suite):
            for (task, metric, rule), own in result.values.items():
                yield suite, task, label, metric if rule == "none" else f"{metric} ({rule})", own


def _records(context: Context, notes: list[str]) -> Iterator[records.Record]:
    """The records that the model, and those it started from, were trained on; or those that are given."""
    places = context.config.contamination.records
    if places is not None:
        for place in places:
            try:
                yield from records.read(place).records
            except UserError as problem:
                raise UserError(f"contamination.records: {problem}") from None
        notes.append(f"records of {', '.join(places)}")
        return
    source = context.settings.model.source if context.settings.model else None
    for run in runs.lineage(str(source)) if source else ():
        try:
            yield from trained.records_of(run)
            notes.append(f"records that {run.dir} was trained on ({', '.join(run.records().values())})")
        except UserError as problem:
            notes.append(f"the records that {run.dir} was trained on can't be read: {problem}")


def _counted(touches: Sequence[Touch], limit: float) -> dict[str, Any]:
    ids = {rule: [touch.item.id for touch in touches if touched(touch, rule, limit)] for rule in RULES}
    return {"items": len(touches), **{rule: len(found) for rule, found in ids.items()}, "touched": ids}


def _worst(touch: Touch) -> dict[str, Any]:
    figures = {name: getattr(touch, name) for name in RULES}
    texts: dict[str, Any] = {"record": None, "record_text": ""}
    if touch.record is not None:
        told = [touch.record.instruction, touch.record.input, touch.record.output]
        texts = {"record": touch.record.place(), "record_text": _cut("\n\n".join(text for text in told if text))}
    return {"set": touch.item.set, "id": touch.item.id, "text": _cut(touch.item.text), **texts, **figures}


def _splits(context: Context, by_set: Mapping[str, Sequence[Touch]], limit: float) -> Iterator[dict[str, Any]]:
    for part, name, model, metric, scores in _scores(context):
        for one in split(by_set.get(name, ()), scores, limit):
            yield {"part": part, "set": name, "model": model, "metric": metric, **dataclasses.asdict(one)}


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def show(value: dict[str, Any], scores: dict[str, Any], console: Console) -> None:
    """A row a set, and one a score that changes."""
    for note in value["notes"]:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if not value["records"]:
        console.print(NOTHING)
        return
    table = Table(*HEAD, title=f"Touched by the {value['records']:,} training records", title_justify="left")
    for row in _rows(value):
        table.add_row(*row)
    console.print(table)
    changed = _changed(value)
    for line in changed[:SHOWN]:
        console.print(_in_words(line), highlight=False, markup=False, soft_wrap=True)
    if len(changed) > SHOWN:
        console.print(f"and {len(changed) - SHOWN} scores more, on the page", highlight=False)


def sections(value: dict[str, Any], scores: dict[str, Any]) -> Sequence[Section]:
    """The counts, the scores with and without what is touched, and the worst items beside their records."""
    title, lead = "Contamination", "How much of what is asked stands in the training records already, and the worst of it."
    if not value["records"]:
        return [Section(title, [report.Prose(text) for text in (*value["notes"], NOTHING)], lead)]
    caption = (
        f"Items that at least one of {value['records']:,} training records touches. Words are runs of letters and digits in lower case. "
        "Equal: the same words in instruction and input. In a row: anywhere in instruction, input or answer. ROUGE-L: of what is asked, "
        f"{value['rouge_l']:g} or more."
    )
    blocks: list[report.Block] = [report.Table(HEAD, _rows(value), range(1, len(HEAD)), caption)]
    blocks += [report.Prose(note) for note in value["notes"]]
    if changed := _changed(value):
        head = ("part", "set", "model", "score", "rule", "items", "touched", "all", "without", "touched alone")
        rows = [
            [line["part"], line["set"], line["model"], line["metric"], IN_WORDS[line["rule"]], str(line["items"]), str(line["touched"])]
            + [_score(line[name]) for name in ("all", "without", "touched_alone")]
            for line in changed
        ]
        blocks.append(report.Table(head, rows, range(5, len(head)), "Mean scores with and without the items that are touched."))
    worst = value["worst"]
    samples = [report.Sample(f"{each['set']}, {each['id']}: {_figures(each)}", [each["text"], each["record_text"]]) for each in worst]
    blocks.append(report.Samples(["asked", "training record"], samples))
    return [Section(title, blocks, lead)]


def _changed(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores with items that a rule touches."""
    return [line for line in value["scores"] if line["touched"]]


def _rows(value: dict[str, Any]) -> list[list[str]]:
    return [[name, *(str(counts[key]) for key in ("items", *RULES))] for name, counts in value["sets"].items()]


def _figures(each: dict[str, Any]) -> str:
    return f"equal {each['equal']}, 13 words {each['gram13']}, 8 words {each['gram8']}, ROUGE-L {each['rouge_l']:.2f}"


def _in_words(line: dict[str, Any]) -> str:
    what = f"{line['part']}: {line['metric']} of {line['model']} on {line['set']}"
    rule = f"without the {line['touched']} of {line['items']} that are touched ({IN_WORDS[line['rule']]})"
    return f"{what}: {_score(line['all'])}, {rule} {_score(line['without'])}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
