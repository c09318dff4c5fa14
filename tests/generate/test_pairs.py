"""Pairs from several answers of a teacher, ordered by a judge or by length, and from what an evaluation preferred."""

import json
import ssl

import pytest
from scripted_judge import ScriptedJudge, quality
from scripted_teacher import Reply, answer, scripted_teacher

from alpaca_jax import records
from alpaca_jax.errors import UserError
from alpaca_jax.generate import pairs
from alpaca_jax.generate import run as verb
from alpaca_jax.generate.config import Budget, Config, Pairs, Sampling
from alpaca_jax.rundir import read_json
from alpaca_jax.scores import preferred, prompts
from alpaca_jax.scores.answers import Answer, AnswerSet, file
from alpaca_jax.scores.judge.config import JudgeConfig
from alpaca_jax.scores.people import votes
from alpaca_jax.teacher import client
from alpaca_jax.teacher.config import Prices, TeacherConfig


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(client, "MAX_WAIT", 0.01)
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)  # which takes a tenth of a second, and isn't needed


def teacher(server, **more):
    return TeacherConfig(base_url=server.base_url, model="m", concurrency=4, timeout=5.0, max_retries=2, free=True, **more)


def judge(server, **more):
    prices = Prices(prompt=1.0, completion=2.0, source="test")
    settings = TeacherConfig(base_url=server.base_url, model="judge", concurrency=4, timeout=5.0, max_retries=2, prices=prices)
    return JudgeConfig(teacher=settings, **more)


def asked(tmp_path, number=3):
    path = tmp_path / f"prompts{number}.jsonl"
    path.write_text("".join(json.dumps({"instruction": f"Describe thing {n}.", "input": f"it is {n}"}) + "\n" for n in range(number)))
    return str(path)


class Answers:
    """A teacher whose answers to a prompt have the given qualities, the same for equal seeds."""

    def __init__(self, *qualities, longer=True):
        self.qualities, self.longer = qualities, longer
        self.seen = {}

    def __call__(self, number, body):
        prompt = body["messages"][-1]["content"]
        seeds = self.seen.setdefault(prompt, [])
        seeds.append(body["seed"])
        given = self.qualities[(len(seeds) - 1) % len(self.qualities)]
        if given is None:
            return Reply(answer("I'm sorry, but I can't help with that.", body))
        words = " ".join(("round", "small", "quiet", "green")[: len(seeds) if self.longer else 1])
        return Reply(answer(f"It is {words}. {quality(given)}", body))


def config(tmp_path, server, pairs=None, dir="run", **more):
    pairs = {"prompts": asked(tmp_path), "answers": 3} | (pairs or {})
    return Config(dir=str(tmp_path / dir), teacher=teacher(server), method="pairs", pairs=Pairs(**pairs), **more)


def kept(tmp_path):
    return records.read(tmp_path / "run").records


def test_a_judge_orders_the_answers_and_the_best_and_the_worst_make_a_pair(tmp_path, capsys):
    script, taste = Answers(0.0, 4.0, -4.0), ScriptedJudge(position=2.0)
    with scripted_teacher(script) as server, scripted_teacher(taste) as judging:
        settings = config(tmp_path, server, compare=judge(judging))
        manifest = verb.run(settings)
        calls, verdicts = len(server.bodies), taste.calls
        again = verb.run(settings)
        assert (len(server.bodies), taste.calls) == (calls, verdicts)  # nothing is asked twice
    assert (calls, verdicts) == (9, 3 * 3 * 2)
    found = kept(tmp_path)
    assert [record.instruction for record in found] == [f"Describe thing {n}." for n in range(3)] and found[1].input == "it is 1"
    assert all(quality(4.0) in record.output and quality(-4.0) in record.rejected for record in found)
    assert {body["messages"][-1]["content"][-7:] for body in server.bodies} == {"it is 0", "it is 1", "it is 2"}
    said = found[0].provenance
    assert (said["method"], said["teacher"], said["by"], said["index"], said["of"]) == ("pairs", "m", "judge", 0, 3)
    assert 0.5 < said["margin"] <= 1 and len(set(said["answers"])) == 2
    assert manifest.counts == again.counts == {"kept": 3} and manifest.judge["model"] == "judge" and manifest.judge["dollars"] > 0
    assert "the judge judge" in capsys.readouterr().out
    assert read_json(tmp_path / "run" / "records" / "manifest.json")["method"] == "pairs"


def test_ties_close_ones_refusals_and_equal_answers_make_no_pair(tmp_path):
    refused = "not one pair could be made .*'{}': 3".format
    tying = ScriptedJudge(says="C")
    with scripted_teacher(Answers(1.0)) as server, scripted_teacher(tying) as judging, pytest.raises(UserError, match=refused("tied")):
        verb.run(config(tmp_path, server, compare=judge(judging, mode="letter")))
    given, taste = Answers(1.0, 1.2, 0.9), ScriptedJudge()
    with scripted_teacher(given) as server, scripted_teacher(taste) as judging, pytest.raises(UserError, match=refused("close")):
        verb.run(config(tmp_path, server, compare=judge(judging), pairs={"margin": 0.9}, dir="close"))
    with scripted_teacher(Answers(None, None, 2.0)) as server, pytest.raises(UserError, match=r"no_two_answers_refusal': 3"):
        verb.run(config(tmp_path, server, pairs={"by": "longer"}, dir="refused"))
    with scripted_teacher(Answers(0.0, longer=False)) as server, pytest.raises(UserError, match=r"no_two_answers_same_answer': 3"):
        verb.run(config(tmp_path, server, pairs={"by": "longer"}, dir="equal"))


def test_lengths_order_answers_without_a_judge_and_evaluation_sets_are_left_out(tmp_path):
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text('{"instruction": "Describe thing 1.", "output": ""}\n')
    with scripted_teacher(Answers(0.0)) as server:
        settings = config(tmp_path, server, pairs={"by": "shorter"}, decontaminate=(str(evaluation),))
        settings = config(tmp_path, server, pairs={"by": "shorter"}, count=2)
        manifest = verb.run(settings)
    assert len(server.bodies) == 6 and manifest.counts == {"kept": 2} and manifest.judge == {}
    assert all(len(record.output) < len(record.rejected) and record.provenance["by"] == "shorter" for record in kept(tmp_path))
    replayed = Config(**{**vars(settings), "pairs": Pairs(prompts=settings.pairs.prompts, answers=3, by="longer"), "replay": True})
    verb.run(replayed)
    assert all(len(record.output) > len(record.rejected) for record in kept(tmp_path))


def test_a_reward_model_orders_answers_and_filters_prompts(tmp_path, monkeypatch):
    def by_length(source, records):
        assert source == "runs/reward" and {record.input for record in records} == {f"it is {n}" for n in range(3)}
        return [len(record.output) / 10 + 10 * record.input.endswith("2") for record in records]

    monkeypatch.setattr(pairs, "rewards", by_length)
    with scripted_teacher(Answers(0.0)) as server:
        settings = {"by": "reward", "reward": "runs/reward", "least": 10.0}
        manifest = verb.run(config(tmp_path, server, pairs=settings))
    [record] = kept(tmp_path)
    assert manifest.counts == {"kept": 1, "below_least": 2}
    assert record.input == "it is 2" and len(record.output) > len(record.rejected) and record.provenance["by"] == "reward"
    with scripted_teacher(Answers(0.0)) as server, pytest.raises(UserError, match="'close': 3"):
        verb.run(config(tmp_path, server, pairs={"by": "reward", "reward": "runs/reward", "margin": 0.99}, dir="close"))
    with pytest.raises(ValueError, match=r"pairs.reward=DIR"):
        config(tmp_path, server, pairs={"by": "reward"})


def test_other_prompts_are_refused_by_the_log(tmp_path):
    with scripted_teacher(Answers(0.0)) as server:
        verb.run(config(tmp_path, server, pairs={"by": "shorter"}))
        with pytest.raises(UserError, match="prompts"):
            verb.run(config(tmp_path, server, pairs={"by": "shorter", "prompts": asked(tmp_path, 4)}))


def evaluation(tmp_path, taste=None):
    """A folder of an evaluation: two models' answers to three prompts, judged with the first model's points, and two voters."""
    folder = tmp_path / "evaluated" / "evaluate"
    whole = prompts.read(asked(tmp_path))
    ids = [prompt.id for prompt in whole]
    for name in ("one", "two"):
        answers = {id: (Answer(f"{name} to {number}"),) for number, id in enumerate(ids)}
        file.write(folder / "answers" / f"{name}.jsonl", AnswerSet.of(name, name, whole, answers))
    sets = [{"name": "one"}, {"name": "two"}]
    compared = {"comparisons": [{"model": "one", "against": "two"}]}
    scores = {"answers": {"prompts": {"place": asked(tmp_path), "number": 3}, "sets": sets}, "compare": compared}
    (folder / "scores.json").write_text(json.dumps(scores))
    asked_of, found = preferred._answered(folder)
    met = [bout for bout in preferred._bouts(asked_of, found) if bout.model == "one"]
    lines = [
        {"model": "one", "against": "two", "prompt": bout.prompt.id, "seed": 0, "texts": bout.texts, "preference": points}
        for bout, points in zip(met, taste or (0.9, 0.5, 0.2), strict=True)
    ]
    (folder / "compare").mkdir()
    (folder / "compare" / "preferences.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder, met


def vote(folder, bout, voter, level):
    asked_about = preferred.question(bout)
    one = votes.Vote(voter, asked_about.key, asked_about.prompt, *asked_about.models, level)
    votes.ledger(folder / "votes", voter).add(one)


def test_verdicts_and_votes_of_an_evaluation_are_pairs(tmp_path):
    folder, met = evaluation(tmp_path)
    found, counted = preferred.read(folder)
    assert [(each.chosen, each.rejected, each.by) for each in found] == [
        ("one to 0", "two to 0", "judge"),
        ("two to 2", "one to 2", "judge"),
    ]
    assert [round(each.margin, 6) for each in found] == [0.8, 0.6] and counted == {"tied": 1}
    for voter, level in (("ann", "second_much"), ("ben", "second_slightly"), ("eve", "both_bad")):
        vote(folder, met[0], voter, level)
    found, _ = preferred.read(folder)
    assert [(each.chosen, each.by) for each in found] == [("two to 0", "people"), ("two to 2", "judge")]  # people count more
    assert found[0].margin == pytest.approx(2 / 3)
    assert [each.by for each in preferred.read(folder, "judge")[0]] == ["judge", "judge"]
    assert [each.by for each in preferred.read(folder, "people")[0]] == ["people"]


def test_pairs_of_an_evaluation_are_records_and_nobody_is_asked(tmp_path):
    evaluation(tmp_path)
    pairs = Pairs(evaluation=str(tmp_path / "evaluated"), margin=0.7)
    settings = Config(dir=str(tmp_path / "run"), teacher=TeacherConfig(source="nobody"), method="pairs", pairs=pairs)
    manifest = verb.run(settings)
    [record] = kept(tmp_path)
    assert (record.instruction, record.output, record.rejected) == ("Describe thing 0.", "one to 0", "two to 0")
    assert record.provenance == {"method": "pairs", "teacher": "one", "rejected": "two", "by": "judge", "margin": 0.8}
    assert manifest.counts == {"close": 1, "kept": 1, "tied": 1} and manifest.requests == 0 and manifest.dollars == 0


def test_an_evaluation_without_preferences_is_named(tmp_path):
    folder, _ = evaluation(tmp_path)
    with pytest.raises(UserError, match="has no preferences of people: compare its answers"):
        preferred.read(folder, "people")
    with pytest.raises(UserError, match="has no answers; evaluate first"):
        preferred.read(tmp_path)


@pytest.mark.parametrize(
    ("pairs", "more", "said"),
    [
        ({}, {}, "give pairs.prompts=FILE"),
        ({"prompts": "p", "evaluation": "e"}, {}, "give pairs.prompts=FILE"),
        ({"prompts": "p"}, {}, "compare is missing: name the judge with compare=judge"),
        ({"prompts": "p", "by": "shorter"}, {"sampling": Sampling(temperature=0)}, "sampling.temperature=0 gives the same answer"),
    ],
)
def test_settings_that_make_no_pair_are_refused(pairs, more, said):
    with pytest.raises(ValueError, match=said):
        Config(dir="x", teacher=TeacherConfig(source="m"), method="pairs", pairs=Pairs(**pairs), **more)


def test_a_budget_ends_the_asking_and_the_judging_and_a_later_start_goes_on(tmp_path):
    with scripted_teacher(Answers(0.0, 4.0)) as server, scripted_teacher(ScriptedJudge()) as judging:
        few = config(tmp_path, server, compare=judge(judging), pairs={"answers": 2}, budget=Budget(requests=4))
        manifest = verb.run(few)
        assert manifest.stopped_by == "requests" and manifest.counts["unanswered"] == 3 - manifest.counts["kept"] > 0
        more = config(tmp_path, server, compare=judge(judging, max_dollars=0.002), pairs={"answers": 2})
        manifest = verb.run(more)
        assert len(server.bodies) == 6 and manifest.stopped_by == "dollars" and manifest.counts["not_judged"] == 3 - manifest.counts["kept"]
        manifest = verb.run(config(tmp_path, server, compare=judge(judging), pairs={"answers": 2}))
        assert manifest.counts == {"kept": 3} and len(server.bodies) == 6
    assert all(quality(4.0) in record.output for record in kept(tmp_path))
