"""Models compared by a judge: each with each that it is compared with, all numbers that follow, and what they cost."""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from alpaca_jax.scores import statistics
from alpaca_jax.scores.answers import AnswerSet
from alpaca_jax.scores.judge import prompt
from alpaca_jax.scores.judge.asking import Judge, Judged
from alpaca_jax.scores.judge.bouts import Bout, Fought, bouts, fought, lengths, to_ask
from alpaca_jax.scores.prompts import PromptSet
from alpaca_jax.scores.statistics import Difference, Difficulties, Flag, Position, Vote
from alpaca_jax.scores.statistics.estimate import LEVEL, Estimate, two_sided

BY_POSITION = 1.5  # logits, from which on a judge is said to answer by position: odds of 4.5 to 1


@dataclasses.dataclass(frozen=True)
class Compared:
    """The JSON value of a comparison, and the bouts that it was made from."""

    value: dict[str, Any]
    bouts: Sequence[Fought]

    def lines(self) -> list[dict[str, Any]]:
        """The preference of each bout, as JSON."""
        return [each.line() for each in self.bouts]

    def per_prompt(self) -> dict[str, dict[str, float]]:
        """The mean preference for each model by prompt, over all that it was compared with."""
        found = {}
        for model in dict.fromkeys(each.bout.model for each in self.bouts):
            found[model] = _by_prompt([each for each in self.bouts if each.bout.model == model])
        return found


def compare(
    judge: Judge,
    prompts: PromptSet,
    models: Sequence[AnswerSet],
    against: Sequence[AnswerSet],
    related: Mapping[str, str],
    anchor: str | None = None,
    difficulties: Difficulties | None = None,
) -> Compared:
    """Every model against every other set, judged in both orders, with all that follows from the verdicts.

    `related` are the names of models by their role (teacher, model, baseline), for a judge that is one of them; `anchor` is the answer set
    that a ranking of more than two is anchored at.
    """
    meetings = [(model, other) for other in against for model in models if model.name != other.name]
    # Seed after seed, so that a budget that ends early was spent on all prompts alike.
    all_bouts = sorted((bout for model, other in meetings for bout in bouts(prompts, model, other)), key=lambda bout: bout.seed)
    pairs = to_ask(all_bouts)
    judged = judge.judge(pairs, _about(prompts, meetings, all_bouts)) if pairs else None
    done = list(fought(all_bouts, judged.verdicts if judged else ()))
    comparisons = [_comparison(model, other, prompts, _of(done, model, other), difficulties) for model, other in meetings]
    _adjust(comparisons)
    names = list(dict.fromkeys(answers.name for answers in (*models, *against)))
    value = {
        "judge": _judge(judge, judged),
        "prompts": {"name": prompts.name, "fingerprint": prompts.fingerprint, "number": len(prompts)},
        "comparisons": comparisons,
        "paired": _paired(models, against, done),
        "ranking": _ranking(done, names, anchor or against[0].name, judge),
        "flags": [dataclasses.asdict(flag) for flag in _flags(judge, models, against, related, comparisons)],
        "unreadable": judged.problems if judged else {},
        "stopped_by": judged.stopped_by if judged else "",
        "bill": judge.bill.figures(),
    }
    return Compared(value, done)


def _about(prompts: PromptSet, meetings: Sequence[Any], all_bouts: Sequence[Bout]) -> str:
    equal = sum(bout.equal for bout in all_bouts)
    met = f" of {len(meetings)} comparisons" if len(meetings) > 1 else ""
    return f" on {len(prompts)} prompts{met} in both orders" + (f" ({equal} pairs of equal answers are ties)" if equal else "")


def _of(done: Sequence[Fought], model: AnswerSet, other: AnswerSet) -> list[Fought]:
    return [each for each in done if (each.bout.model, each.bout.against) == (model.name, other.name)]


def _comparison(
    model: AnswerSet, other: AnswerSet, prompts: PromptSet, done: Sequence[Fought], difficulties: Difficulties | None
) -> dict[str, Any]:
    """All numbers of one model against another."""
    names = (model.name, other.name)
    answered = {each.bout.prompt.id for each in done}
    missing = [item.id for item in prompts if item.id not in answered]
    head = {"model": model.name, "against": other.name, "prompts": len(answered), "missing": missing}
    equal = sum(each.bout.equal for each in done)
    counts = Counter(verdict.problem for each in done for verdict in (each.first, each.second) if verdict.problem)
    head |= {"seeds": max(model.seeds, other.seeds), "equal": equal, "unreadable": dict(counts)}
    if not done:
        return head | dict.fromkeys(("rate", "position", "length_controlled", "difference", "p_value", "p_adjusted", "verdict"))
    rate, place = _rate(done), _position(done)
    mine = _by_prompt(done)
    controlled = statistics.length_controlled(mine, lengths([each.bout for each in done]), difficulties)
    difference = statistics.paired(mine, {key: 1 - value for key, value in mine.items()}) if mine else None
    return head | {
        "rate": dataclasses.asdict(rate),
        "position": dataclasses.asdict(place),
        "length_controlled": dataclasses.asdict(controlled),
        "difference": dataclasses.asdict(difference) if difference else None,
        "p_value": _p_value(place.corrected or place.plain, difference),
        "p_adjusted": None,
        "verdict": dataclasses.asdict(statistics.verdict_of_rate(place if place.plain else rate, names)),
    }


def _rate(done: Sequence[Fought]) -> statistics.Rate:
    preferences = [verdict.preferred for each in done for verdict in (each.first, each.second)]
    return statistics.win_rate(preferences, [each.bout.prompt.id for each in done for _ in range(2)])


def _position(done: Sequence[Fought]) -> Position:
    return statistics.position(
        [verdict.preferred for each in done for verdict in (each.first, each.second)],
        [each.bout.prompt.id for each in done for _ in range(2)],
        [shown_first for _ in done for shown_first in (True, False)],
        [not each.bout.equal for each in done for _ in range(2)],
    )


def _by_prompt(done: Sequence[Fought]) -> dict[str, float]:
    """The mean preference of each prompt that has a verdict in both orders."""
    return statistics.by_prompt([each.preference for each in done], [each.bout.prompt.id for each in done])


def _p_value(estimate: Estimate | None, difference: Difference | None) -> float | None:
    """That of the win rate being 50; the sign test's where all prompts say the same, so that there is no standard error."""
    if estimate is None or estimate.standard_error is None or difference is None:
        return None
    if estimate.standard_error == 0:
        return difference.sign.p_value
    return two_sided((estimate.value - 50) / estimate.standard_error)


def _adjust(found: Sequence[dict[str, Any]]) -> None:
    """Adds the p-values adjusted for being several (Holm), and takes back each verdict that doesn't stand up to that."""
    tested = [each for each in found if each["p_value"] is not None]
    for each, adjusted in zip(tested, statistics.holm([each["p_value"] for each in tested]), strict=True):
        each["p_adjusted"], said = adjusted, each["verdict"]
        if said["word"] != "can't tell" and adjusted >= LEVEL:
            so = f"Among {len(tested)} comparisons that isn't enough (p = {adjusted:.3f} by Holm), so they can't be told apart."
            sentence = f"{said['sentence']} {so}"
            each["verdict"] = said | {"word": "can't tell", "sentence": sentence}


def _paired(models: Sequence[AnswerSet], against: Sequence[AnswerSet], done: Sequence[Fought]) -> list[dict[str, Any]]:
    """The difference of each two models that met the same other one, on the prompts of both."""
    pairs = list[tuple[str, str, str, Difference]]()
    for other in against:
        met = {model.name: preferences for model in models if (preferences := _by_prompt(_of(done, model, other)))}
        names = list(met)
        for place, one in enumerate(names):
            for two in names[place + 1 :]:
                if met[one].keys() & met[two].keys():
                    pairs.append((one, two, other.name, statistics.paired(met[one], met[two])))
    tested = [difference.p_value for *_, difference in pairs if difference.p_value is not None]
    adjusted = iter(statistics.holm(tested))
    return [_difference(*pair, None if pair[3].p_value is None else next(adjusted)) for pair in pairs]


def _difference(one: str, two: str, against: str, difference: Difference, adjusted: float | None) -> dict[str, Any]:
    said = statistics.verdict(difference, (one, two), adjusted)
    head = {"a": one, "b": two, "against": against, "p_value": difference.p_value, "p_adjusted": adjusted}
    return head | {"difference": dataclasses.asdict(difference), "verdict": dataclasses.asdict(said)}


def _ranking(done: Sequence[Fought], names: Sequence[str], anchor: str, judge: Judge) -> dict[str, Any] | None:
    """Bradley and Terry's strengths where there are more than two."""
    votes = []
    for each in done:
        ours, theirs, id = each.bout.model, each.bout.against, each.bout.prompt.id
        if each.first.preferred is not None:
            votes.append(Vote(ours, theirs, each.first.preferred, id, judge.name))
        if each.second.preferred is not None:
            votes.append(Vote(theirs, ours, 1 - each.second.preferred, id, judge.name))
    met = {name for vote in votes for name in (vote.first, vote.second)}
    if len(names) < 3 or anchor not in met:
        return None
    return dataclasses.asdict(statistics.bradley_terry(votes, anchor))


def _flags(
    judge: Judge,
    models: Sequence[AnswerSet],
    against: Sequence[AnswerSet],
    related: Mapping[str, str],
    comparisons: Sequence[dict[str, Any]],
) -> list[Flag]:
    """What should make a reader distrust the comparison."""
    found = list(statistics.judge_flags(judge.name, related))
    for answers in {each.name: each for each in (*models, *against)}.values():
        texts = ["\n".join(answer.texts) for several in answers.answers.values() for answer in several]
        found += statistics.answer_flags(answers.name, texts, prompt.LABELS)
    for each in comparisons:
        place = each["position"]
        if place is None or place["first"] is None:
            continue
        logit, seen = place["logit"], place["first"]["value"]
        if "always prefers" in place["reason"] or (logit is not None and abs(logit["value"]) >= BY_POSITION):
            size = f"a position of {logit['value']:+.1f} logits" if logit else place["reason"]
            which = f"{each['model']} against {each['against']}"
            sentence = (
                f"This judge answers by position ({which}): it prefers the answer shown first in {seen:.0f}% of its verdicts, {size}."
            )
            found.append(Flag("the judge answers by position", sentence, seen / 100))
    return found


def _judge(judge: Judge, judged: Judged | None) -> dict[str, Any]:
    config = judge.config
    return {
        "model": judge.name,
        "endpoint": config.teacher.endpoint,
        "mode": judged.choice.mode if judged else None,
        "why": judged.choice.why if judged else "all answers are equal: nobody was asked",
        "prompt": prompt.VERSION,
        "temperature": config.temperature,
        "damaged_lines": judged.damaged if judged else 0,
        "refusals": list(dict.fromkeys(judge.refusals))[:3],
    }
