"""A comparison of scores.json for a person: in the terminal, and as sections of the page."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from alpaca_jax import report
from alpaca_jax.report import Bar, Bars, Block, Prose, Section
from alpaca_jax.terminal import Console

HEAD = ("model", "against", "prompts", "won", "tied", "lost", "win rate", "position", "position taken out", "length-controlled")
NUMBERS = range(2, len(HEAD))


def show(value: dict[str, Any], console: Console) -> None:
    """Prints the table, the verdicts in words, what should make a reader doubt, and the bill."""
    table = Table("", *(f"{each['model']} against {each['against']}" for each in value["comparisons"]), title_justify="left")
    rows = [_row(each) for each in value["comparisons"]]
    for place in range(2, len(HEAD)):
        table.add_row(HEAD[place], *(row[place] for row in rows))
    console.print(f"{title(value)}:", highlight=False, soft_wrap=True)
    console.print(table)
    for line in (*_sentences(value), *remarks(value), bill(value)):
        console.print(line, highlight=False, soft_wrap=True)


def sections(value: dict[str, Any]) -> Sequence[Section]:
    """Bars with intervals, the table, the verdicts, and how it was judged."""
    blocks: list[Block] = [Prose(line) for line in _sentences(value)]
    bars = [bar for each in value["comparisons"] for bar in _bars(each)]
    if bars:
        blocks.append(
            Bars(bars, "Win rate in percent of prompts with its 95% interval; the line is at 50, where neither is better.", 100.0, 50.0)
        )
    blocks.append(
        report.Table(HEAD, [_row(each) for each in value["comparisons"]], NUMBERS, "The position is in logits; " + _length_note(value))
    )
    if value["paired"]:
        blocks.append(_paired(value["paired"]))
    if value["ranking"]:
        blocks += _ranking(value["ranking"])
    blocks += [Prose(line) for line in (*remarks(value), bill(value))]
    return [Section("Compared by a judge", blocks, title(value) + ".")]


def title(value: dict[str, Any]) -> str:
    """Who judged what, and how."""
    judge = value["judge"]
    how = f"{judge['model']} judges both orders of each pair by {judge['mode']}" if judge["mode"] else judge["why"]
    return f"Answers to the {value['prompts']['number']} prompts of {value['prompts']['name']}: {how} (prompt {judge['prompt']})"


def remarks(value: dict[str, Any]) -> list[str]:
    """What is missing or should make a reader doubt, in sentences."""
    found = [f"How verdicts are given: {value['judge']['why']}."] if value["judge"]["mode"] else []
    for each in value["comparisons"]:
        names = f"{each['model']} against {each['against']}"
        if each["missing"]:
            found.append(
                f"{names}: {len(each['missing'])} prompts have no answer of one of them ({_listed(each['missing'])}) and are left out."
            )
        if each["equal"]:
            found.append(f"{names}: {each['equal']} pairs of equal answers are ties, about which nobody was asked.")
        if each["unreadable"]:
            counts = ", ".join(f"{number} {problem}" for problem, number in each["unreadable"].items())
            found.append(f"{names}: verdicts that are missing: {counts}. Their prompts count in neither position nor verdict.")
    found += [f"The judge refused a pair: {said}" for said in value["judge"]["refusals"]]
    if damaged := value["judge"]["damaged_lines"]:
        found.append(f"{damaged} lines of the log of verdicts can't be read; what nothing else answers was asked again.")
    if value["stopped_by"]:
        budget = f"The budget of {value['stopped_by']} ended the comparison before all verdicts were in"
        found.append(f"{budget}; the same command goes on with a larger one.")
    return found + [flag["sentence"] for flag in value["flags"]]


def bill(value: dict[str, Any]) -> str:
    """What all verdicts took."""
    bill = value["bill"]
    tokens = bill["prompt_tokens"] + bill["completion_tokens"]
    doubtful = f" (and up to {bill['doubtful_dollars']:.4f} for requests without an answer)" if bill["doubtful_dollars"] else ""
    return f"All verdicts of this judge here: {bill['requests']} requests, {tokens:,} tokens, {bill['dollars']:.4f} dollars{doubtful}."


def _sentences(value: dict[str, Any]) -> list[str]:
    return [each["verdict"]["sentence"] for each in value["comparisons"] if each["verdict"]]


def _row(each: dict[str, Any]) -> list[str]:
    head = [each["model"], each["against"], str(each["prompts"])]
    if not each["rate"]:
        return head + [""] * (len(HEAD) - len(head))
    rate, place, length = each["rate"], each["position"], each["length_controlled"]
    counts = [str(rate[name]) for name in ("wins", "ties", "losses")]
    positions = [_interval(place["logit"], 2), _interval(place["corrected"])]
    return [*head, *counts, _with_error(rate["estimate"]), *positions, _with_error(length["estimate"])]


def _bars(each: dict[str, Any]) -> list[Bar]:
    names = f"{each['model']} against {each['against']}"
    if not each["rate"] or not each["rate"]["estimate"]:
        return []
    shown = [(names, each["rate"]["estimate"], "before"), ("position taken out", each["position"]["corrected"], "accent")]
    shown.append((each["length_controlled"]["method"], each["length_controlled"]["estimate"], "muted"))
    return [Bar(label, found["value"], _interval(found), colour, _ends(found)) for label, found, colour in shown if found]  # type: ignore[arg-type]


def _length_note(value: dict[str, Any]) -> str:
    notes = dict.fromkeys(each["length_controlled"]["note"] for each in value["comparisons"] if each["length_controlled"])
    return f"length-controlled is {'; '.join(notes)}." if notes else "nothing was compared."


def _paired(found: Sequence[dict[str, Any]]) -> report.Table:
    head = ("model", "less", "against", "prompts", "difference", "better : worse", "sign test", "p", "p (Holm)", "which is")
    rows = []
    for each in found:
        difference, sign = each["difference"], each["difference"]["sign"]
        names, counts = (each["a"], each["b"], each["against"], str(difference["prompts"])), f"{sign['better']} : {sign['worse']}"
        tests = (f"{sign['p_value']:.4f}", _p(each["p_value"]), _p(each["p_adjusted"]))
        rows.append([*names, _interval(difference["estimate"]), counts, *tests, each["verdict"]["word"]])
    return report.Table(head, rows, range(3, 9), "The difference of win rates in points on the same prompts, with its paired interval.")


def _ranking(ranking: dict[str, Any]) -> list[Block]:
    rows = []
    for model in ranking["models"]:
        low, high = model["ranks"]
        ranks = str(low) if low == high else f"{low} to {high}"
        rows.append([str(model["rank"]), ranks, model["name"], _interval(model["elo"], 0), str(model["votes"])])
    caption = f"Bradley-Terry's strengths in Elo points over {ranking['anchor']}, clustered by prompt."
    apart = [Prose(each["sentence"]) for each in ranking["apart"]]
    return [report.Table(("rank", "95% interval", "model", "Elo", "verdicts"), rows, (0, 3, 4), caption), *apart]


def _with_error(found: dict[str, Any] | None) -> str:
    if not found:
        return "none"
    return f"{found['value']:.2f}" + ("" if found["standard_error"] is None else f" ± {found['standard_error']:.2f}")


def _interval(found: dict[str, Any] | None, digits: int = 1) -> str:
    if not found:
        return "none"
    value = f"{found['value']:.{digits}f}"
    return value if found["low"] is None else f"{value} ({found['low']:.{digits}f} to {found['high']:.{digits}f})"


def _ends(found: dict[str, Any]) -> tuple[float, float] | None:
    return None if found["low"] is None else (found["low"], found["high"])


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
