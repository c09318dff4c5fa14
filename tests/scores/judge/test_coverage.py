"""Over real HTTP, with a judge whose taste is known: how far the estimates lie from the truth, and how often the intervals hold it."""

import json
import os
import time

import numpy as np
import pytest
from known_judge import KnownJudge
from scripted_judge import ScriptedJudge, quality
from scripted_teacher import Reply, error, scripted_teacher

from alpaca_jax.scores.answers import Answer, AnswerSet
from alpaca_jax.scores.judge.asking import Judge
from alpaca_jax.scores.judge.bouts import bouts, to_ask
from alpaca_jax.scores.judge.compare import compare
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.prompts import Prompt, PromptSet
from alpaca_jax.teacher import client
from alpaca_jax.teacher.config import TeacherConfig

SEEDS = int(os.environ.get("JUDGE_SEEDS", "200"))
PROMPTS = 60  # of each seed, drawn anew, since standard errors are over prompts


def drawn(known: KnownJudge, seed: int) -> tuple[PromptSet, AnswerSet, AnswerSet]:
    """New prompts with new strengths: the model's answers carry them, the other's carry none."""
    rng = np.random.default_rng(seed)
    strengths, _ = known.draw(PROMPTS, rng)
    asked = PromptSet("drawn", "drawn.jsonl", tuple(Prompt.of(f"Question {place} of {seed}?", id=f"p{place}") for place in range(PROMPTS)))
    ours = {f"p{place}": [Answer(f"Ours {place}. {quality(strength)}")] for place, strength in enumerate(strengths)}
    theirs = {f"p{place}": [Answer(f"Theirs {place}.")] for place in range(PROMPTS)}
    return asked, AnswerSet.of("ours", "", asked, ours), AnswerSet.of("theirs", "", asked, theirs)


def trouble(number, body):
    """A few replies of every bad kind."""
    kinds = {13: error(429), 31: Reply(hang_up=True), 47: Reply({"choices": []}), 71: error(503)}
    return kinds.get(number % 97)


@pytest.mark.prove
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("gives", ["letter", "logprobs", "json"])
def test_the_corrected_rate_is_unbiased_and_its_interval_covers(tmp_path, monkeypatch, gives):
    monkeypatch.setattr(client, "MAX_WAIT", 0.0)
    known, start = KnownJudge(quality=1.0, spread=1.0, position=2.0), time.monotonic()
    script = ScriptedJudge(gives, position=2.0, trouble=trouble)
    samples = [drawn(known, seed) for seed in range(SEEDS)]
    with scripted_teacher(script) as server:
        teacher = TeacherConfig(base_url=server.base_url, model="known", free=True, max_retries=30, timeout=60.0, concurrency=4)
        judge = Judge(JudgeConfig(teacher=teacher, mode=gives, retries=5), tmp_path, lambda line: None)
        judge.judge([pair for sample in samples for pair in to_ask(bouts(*sample))])
        calls = script.calls
        found = [compare(judge, asked, [ours], [theirs], {}).value["comparisons"][0] for asked, ours, theirs in samples]
        assert script.calls == calls and not any(each["unreadable"] for each in found)
        assert len(script.asked) == 2 * SEEDS * PROMPTS and set(script.asked.values()) == {1}
    plain, corrected, logits = ([each["position"][name] for each in found] for name in ("plain", "corrected", "logit"))
    covered = [each["low"] <= known.truth() <= each["high"] for each in corrected]
    said = {
        "mode": gives,
        "seeds": SEEDS,
        "prompts": PROMPTS,
        "requests": calls,
        "truth": known.truth(),
        "plain": mean(plain),
        "corrected": mean(corrected),
        "deviation": float(np.std([each["value"] for each in corrected], ddof=1)),
        "coverage": 100 * float(np.mean(covered)),
        "logit": mean(logits),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(said))
    assert abs(said["corrected"] - known.truth()) < 1.5
    assert 93 <= said["coverage"] <= 97


def mean(found):
    return float(np.mean([each["value"] for each in found]))
