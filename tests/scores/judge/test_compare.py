import json
import ssl

import pytest
from known_judge import KnownJudge
from scripted_judge import ScriptedJudge, quality
from scripted_teacher import scripted_teacher

from alpaca_jax.scores.answers import Answer, AnswerSet
from alpaca_jax.scores.judge.asking import Judge
from alpaca_jax.scores.judge.compare import compare
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.prompts import Prompt, PromptSet
from alpaca_jax.teacher.config import TeacherConfig

NUMBER = 18


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No certificates, which take a tenth of a second to read and are not needed."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)


def prompts(number=NUMBER):
    return PromptSet("test", "test.jsonl", tuple(Prompt.of(f"Question {place}?", id=f"p{place}") for place in range(number)))


def answers(name, of, number=NUMBER, seeds=1, skip=()):
    """Answers with a quality each: `of(prompt, seed)` logits, or a text."""
    found = {}
    for place in range(number):
        each = [of(place, seed) for seed in range(seeds)]
        texts = [one if isinstance(one, str) else f"{name} to {place}, {seed}. {quality(one)}" for seed, one in enumerate(each)]
        if place not in skip:
            found[f"p{place}"] = [Answer(text, seed) for seed, text in enumerate(texts)]
    return AnswerSet.of(name, name, prompts(number), found)


def compared(tmp_path, script, models, against, number=NUMBER, **more):
    with scripted_teacher(script) as server:
        teacher = TeacherConfig(base_url=server.base_url, model="gpt-judge", free=True, max_retries=1, timeout=5.0)
        judge = Judge(JudgeConfig(teacher=teacher), tmp_path, lambda line: None)
        made = compare(judge, prompts(number), models, against, **{"related": {}} | more)
    json.dumps(made.value, allow_nan=False)
    return made


@pytest.mark.parametrize("gives", ["logprobs", "letter", "json"])
def test_a_better_model_is_found_to_be_better_in_every_mode(tmp_path, gives):
    script = ScriptedJudge(gives, position=0.5)
    made = compared(tmp_path, script, [answers("ours", lambda place, _: 2.0 + place % 3)], [answers("theirs", lambda *_: 0.0)])
    (found,) = made.value["comparisons"]
    assert found["verdict"]["word"] == "better" and "ours is better than theirs" in found["verdict"]["sentence"]
    assert found["rate"]["estimate"]["value"] > 80 and found["rate"]["prompts"] == NUMBER and found["missing"] == []
    assert found["position"]["prompts"] == NUMBER
    if gives == "logprobs":
        assert found["position"]["logit"]["value"] == pytest.approx(0.5, abs=1e-6)
        assert found["position"]["corrected"]["value"] == pytest.approx(93.76, abs=0.1)  # the mean of the sigmoid at 2, 3 and 4
    assert made.value["judge"]["mode"] == gives and made.value["judge"]["prompt"] == "pairwise-1"
    assert made.value["bill"]["prompt_tokens"] == 400 * script.asked.total()
    assert made.per_prompt()["ours"].keys() == {f"p{place}" for place in range(NUMBER)}


def test_the_two_win_rates_of_a_pair_add_up_to_100_and_equal_answers_are_never_asked(tmp_path):
    ours, theirs = (
        answers("ours", lambda place, _: "The same." if place < 6 else 1.0),
        answers("theirs", lambda place, _: "The same." if place < 6 else 0.0),
    )
    script = ScriptedJudge(position=1.0)
    made = compared(tmp_path, script, [ours, theirs], [theirs, ours])
    one, two = made.value["comparisons"]
    assert one["rate"]["estimate"]["value"] + two["rate"]["estimate"]["value"] == pytest.approx(100)
    assert one["position"]["corrected"]["value"] + two["position"]["corrected"]["value"] == pytest.approx(100)
    assert len(script.asked) == 24 and set(script.asked.values()) == {1}  # of both meetings
    assert one["equal"] == 6 and not any("The same." in prompt for prompt in script.asked)
    assert [line["preference"] for line in made.lines()[:6]] == [0.5] * 6
    same = compared(tmp_path / "same", script, [ours], [answers("twin", lambda place, _: ours.answers[f"p{place}"][0].text)])
    assert same.value["comparisons"][0]["rate"]["estimate"]["value"] == 50 and same.value["judge"]["mode"] is None


def test_seeds_are_averaged_within_their_prompt(tmp_path):
    ours = answers("ours", lambda place, seed: 2.0 * seed - 1.0, seeds=3)
    made = compared(tmp_path, ScriptedJudge(), [ours], [answers("theirs", lambda *_: 0.0)])
    (found,) = made.value["comparisons"]
    mean = 100 * sum(1 / (1 + 2.718281828459045**-logit) for logit in (-1, 1, 3)) / 3
    assert found["rate"]["estimate"]["value"] == pytest.approx(mean) and found["rate"]["prompts"] == NUMBER
    assert found["rate"]["estimate"]["standard_error"] == pytest.approx(0, abs=1e-6) and found["seeds"] == 3


def test_missing_answers_are_named_and_the_rest_is_judged(tmp_path):
    ours, theirs = answers("ours", lambda *_: 1.0, skip=(3,)), answers("theirs", lambda *_: 0.0, skip=(7,))
    (found,) = compared(tmp_path, ScriptedJudge(), [ours], [theirs]).value["comparisons"]
    assert found["missing"] == ["p3", "p7"] and found["rate"]["prompts"] == NUMBER - 2


def test_a_judge_that_always_says_a_is_named(tmp_path):
    made = compared(
        tmp_path, ScriptedJudge(says="A", gives="letter"), [answers("ours", lambda *_: 1.0)], [answers("theirs", lambda *_: 0.0)]
    )
    (found,) = made.value["comparisons"]
    (flag,) = made.value["flags"]
    assert "This judge answers by position" in flag["sentence"] and "100%" in flag["sentence"]
    assert found["rate"]["estimate"]["value"] == 50 and found["verdict"]["word"] == "can't tell"
    assert "always prefers the answer that is shown first" in found["position"]["reason"]


def test_a_strong_position_is_flagged_with_its_logit(tmp_path):
    made = compared(
        tmp_path, ScriptedJudge(position=3.0), [answers("ours", lambda place, _: place % 5 - 2.0)], [answers("theirs", lambda *_: 0.0)]
    )
    assert "a position of +3.0 logits" in made.value["flags"][0]["sentence"]


def test_several_models_are_ranked_and_their_differences_paired(tmp_path):
    sets = [answers("good", lambda place, _: 1.5 + place % 3), answers("fair", lambda place, _: 0.2 + place % 3)]
    teacher = answers("teacher", lambda place, _: 1.0 * (place % 4))
    made = compared(
        tmp_path, ScriptedJudge("letter", position=0.5), sets, [teacher, answers("bad", lambda place, _: -1.0)], anchor="teacher"
    )
    assert [each["model"] for each in made.value["comparisons"]] == ["good", "fair"] * 2
    assert all(each["p_adjusted"] >= each["p_value"] for each in made.value["comparisons"])
    strengths = {model["name"]: model["logit"]["value"] for model in made.value["ranking"]["models"]}
    assert made.value["ranking"]["anchor"] == "teacher" and strengths["good"] > strengths["fair"]
    first = made.value["paired"][0]
    assert (first["a"], first["b"], first["against"]) == ("good", "fair", "teacher") and first["difference"]["estimate"]["value"] > 0
    assert first["verdict"]["word"] in ("better", "can't tell")


def test_flags_of_answers_and_of_a_related_judge(tmp_path):
    ours = answers("ours", lambda place, _: "Yes." if place % 4 else "")
    made = compared(
        tmp_path, ScriptedJudge(), [ours], [answers("theirs", lambda *_: 0.0)], related={"teacher": "gpt-judge", "baseline": "llama-7b"}
    )
    assert {flag["kind"] for flag in made.value["flags"]} == {"the judge is the teacher", "empty answers", "nearly constant answer"}


@pytest.mark.parametrize("gives", ["logprobs", "letter"])
def test_position_is_taken_out_over_http(tmp_path, gives):
    known, number = KnownJudge(quality=1.0, spread=1.0), 40
    import numpy as np

    strengths, _ = known.draw(number, np.random.default_rng(5))
    ours = answers("ours", lambda place, _: float(strengths[place]), number)
    made = compared(tmp_path, ScriptedJudge(gives, position=2.0), [ours], [answers("theirs", lambda *_: 0.0, number)], number)
    place = made.value["comparisons"][0]["position"]
    truth = 100 * float(np.mean(1 / (1 + np.exp(-strengths))))
    assert place["plain"]["value"] < place["corrected"]["value"]
    assert place["logit"]["low"] <= 2.0 + 1e-4 and place["logit"]["high"] >= 2.0 - 1e-4
    assert place["corrected"]["low"] <= truth + 0.01 and place["corrected"]["high"] >= truth - 0.01
