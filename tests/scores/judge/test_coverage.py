"""Over real HTTP, with a judge whose taste is known: how far the estimates lie from the truth, and how often the intervals hold it."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from known_judge import KnownJudge
from scripted_judge import ScriptedJudge, quality
from scripted_teacher import Reply, error, scripted_teacher

from alpaca_jax.scores.answers import Answer, AnswerSet
from alpaca_jax.scores.judge.asking import Judge
from alpaca_jax.scores.judge.compare import compare
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.prompts import Prompt, PromptSet
from alpaca_jax.teacher import client
from alpaca_jax.teacher.config import TeacherConfig

SEEDS = int(os.environ.get("JUDGE_SEEDS", "200"))
PROMPTS = 100


def drawn(known: KnownJudge, seed: int) -> tuple[PromptSet, AnswerSet, AnswerSet]:
    """New prompts with new strengths: the model's answers carry them, the other's carry none; lengths differ by the judge's measure."""
    rng = np.random.default_rng(seed)
    strengths = known.quality + known.spread * rng.standard_normal(PROMPTS)
    asked = PromptSet("drawn", "drawn.jsonl", tuple(Prompt.of(f"Question {place} of {seed}?", id=f"p{place}") for place in range(PROMPTS)))
    ours = {f"p{place}": [Answer(f"Ours {place}. {quality(strength)}")] for place, strength in enumerate(strengths)}
    theirs = {f"p{place}": [Answer(f"Theirs {place}.")] for place in range(PROMPTS)}
    return asked, AnswerSet.of("ours", "", asked, ours), AnswerSet.of("theirs", "", asked, theirs)


def trouble(number, body):
    """A few replies of every bad kind."""
    kinds = {13: error(429), 31: Reply(hang_up=True), 47: Reply({"choices": []}), 71: error(503)}
    return kinds.get(number % 97)


@pytest.mark.prove
@pytest.mark.parametrize("gives", ["logprobs", "letter", "json"])
def test_the_corrected_rate_is_unbiased_and_its_interval_covers(tmp_path, monkeypatch, gives):
    monkeypatch.setattr(client, "MAX_WAIT", 0.0)
    known, start = KnownJudge(quality=1.0, spread=1.0, position=2.0), time.monotonic()
    script = ScriptedJudge(gives, position=2.0, trouble=trouble)
    corrected, plain, covered, logits = [], [], [], []
    with scripted_teacher(script) as server:
        teacher = TeacherConfig(base_url=server.base_url, model="known", free=True, max_retries=30, timeout=30.0, concurrency=4)
        for seed in range(SEEDS):
            asked, ours, theirs = drawn(known, seed)
            script.seed = seed
            judge = Judge(JudgeConfig(teacher=teacher, mode=gives, retries=5), tmp_path / str(seed), lambda line: None)
            found = compare(judge, asked, [ours], [theirs], {}).value["comparisons"][0]
            assert not found["unreadable"]
            place = found["position"]
            corrected.append(place["corrected"]["value"])
            plain.append(place["plain"]["value"])
            logits.append(place["logit"]["value"])
            covered.append(place["corrected"]["low"] <= known.truth() <= place["corrected"]["high"])
    share, mean = 100 * float(np.mean(covered)), float(np.mean(corrected))
    said = {
        "mode": gives, "seeds": SEEDS, "prompts": PROMPTS, "truth": known.truth(), "plain": float(np.mean(plain)), "corrected": mean,
        "deviation": float(np.std(corrected, ddof=1)), "coverage": share, "logit": float(np.mean(logits)), "requests": script.calls,
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip
    print(json.dumps(said))
    if "JUDGE_OUTPUT" in os.environ:
        with open(Path(os.environ["JUDGE_OUTPUT"]), "a") as file:
            file.write(json.dumps(said) + "\n")
    assert abs(mean - known.truth()) < 1.5
    assert 93 <= share <= 97
