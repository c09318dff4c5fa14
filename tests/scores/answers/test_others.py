"""The answers of endpoints and files beside a model's own: asked once, paid once, told apart by name."""

import io
import json

import pytest
from rich.console import Console
from scripted_teacher import Reply, answer, scripted_teacher

from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.scores.answers import AnswersConfig, endpoint, file, gather
from alpaca_jax.scores.prompts import Prompt, PromptSet
from alpaca_jax.teacher.config import Prices, TeacherConfig

ASKED = PromptSet("set", "set.jsonl", (Prompt.of("One?", id="p0", later=("More?",)), Prompt.of("Two?", id="p1", system="Be brief.")))
PRICES = Prices(prompt=10.0, completion=20.0, source="a test")


def echo(number, body):
    return Reply(answer(f"{body['messages'][-1]['content']} {body['seed']}", body, usage=(20, 10)))


def ask(tmp_path, url, asked=ASKED, prices=None, free=True, model="m", said=None, **settings):
    teacher = TeacherConfig(base_url=url, model=model, free=free and prices is None, prices=prices, concurrency=2, max_retries=0)
    console = Console(file=said or io.StringIO(), width=200)
    return endpoint.answer("gpt", teacher, asked, AnswersConfig(prompts="set.jsonl", max_tokens=50, **settings), tmp_path / "gpt", console)


def test_an_endpoint_is_asked_each_turn_once_and_charged_once(tmp_path, monkeypatch):
    said = io.StringIO()
    with scripted_teacher(echo) as server:
        found = ask(tmp_path, server.base_url, prices=PRICES, said=said)
        assert len(server.bodies) == 3
        again = ask(tmp_path, server.base_url, prices=PRICES)
        assert (len(server.bodies), again) == (3, found)
        more = ask(tmp_path, server.base_url, PromptSet("set", "s", ASKED.prompts), prices=PRICES, temperature=0.0)
        assert (len(server.bodies), more.answers) == (3, found.answers)
    (first,), (second,) = found.answers["p0"], found.answers["p1"]
    assert (first.text, first.later, first.tokens, second.text) == ("One? 0", ("More? 0",), 20, "Two? 0")
    by_last = {body["messages"][-1]["content"]: body["messages"] for body in server.bodies}
    assert [(each["role"], each["content"]) for each in by_last["More?"]] == [("user", "One?"), ("assistant", "One? 0"), ("user", "More?")]
    assert by_last["Two?"][0] == {"role": "system", "content": "Be brief."}
    assert found.bill["dollars"] == pytest.approx(3 * (20 * 10 + 10 * 20) / 1e6) and found.bill["requests"] == 3
    assert "gpt: 3 requests, about" in said.getvalue() and "at most 150 of answers, about 0.00 dollars at most (a test)" in said.getvalue()


def test_more_seeds_ask_the_rest_alone(tmp_path):
    with scripted_teacher(echo) as server:
        ask(tmp_path, server.base_url, temperature=0.5)
        found = ask(tmp_path, server.base_url, temperature=0.5, seeds=2)
    assert len(server.bodies) == 6
    assert [(each.text, each.seed) for each in found.answers["p1"]] == [("Two? 0", 0), ("Two? 1", 1)]


def test_the_wall_of_dollars_stands_and_what_is_missing_is_named(tmp_path):
    wall = 1.2 * (64 + 20) * 10 / 1e6 + 50 * 20 / 1e6  # one request and a little more
    with scripted_teacher(echo) as server:
        found = ask(tmp_path, server.base_url, prices=PRICES, dollars=wall)
        assert found.bill["dollars"] <= wall and found.missing
        assert found.notes == (f"answers.dollars={wall} were used up before all prompts were answered",)
        number = len(server.bodies)
        whole = ask(tmp_path, server.base_url, prices=PRICES, dollars=1.0)
        assert (whole.missing, len(server.bodies)) == ((), 3) and number < 3


def test_a_log_with_other_settings_is_refused_or_set_aside(tmp_path):
    with scripted_teacher(echo) as server:
        ask(tmp_path, server.base_url)
        with pytest.raises(UserError, match=r"made with other settings:\n  teacher\.model: 'm' there, 'other' now"):
            ask(tmp_path, server.base_url, model="other")
        found = ask(tmp_path, server.base_url, model="other", set_aside=True)
    assert found.missing == () and found.notes == (f"earlier answers with other settings are in {tmp_path / 'gpt.1'}",)
    assert len(server.bodies) == 6


def test_prompts_are_asked_as_a_chat(tmp_path):
    teacher = TeacherConfig(base_url="http://127.0.0.1:9/v1", model="m", free=True, endpoint="completions")
    with pytest.raises(UserError, match=r"answers\.others\.gpt\.endpoint=completions: prompts are asked as a chat; give endpoint=chat"):
        endpoint.answer("gpt", teacher, ASKED, AnswersConfig(), tmp_path, Console(file=io.StringIO()))


def test_an_unknown_price_is_an_error_and_not_nothing(tmp_path):
    with pytest.raises(UserError, match="the price of 'm' is unknown"):
        ask(tmp_path, "http://127.0.0.1:9/v1", free=False)


def test_names_that_can_t_be_told_apart_are_refused(tmp_path):
    def names(*others):
        return gather.names(AnswersConfig(prompts="x", others=dict.fromkeys(others, "a.jsonl")), ["baseline", "model"])

    assert names("davinci", "gpt-4.1") == ["baseline", "model", "davinci", "gpt-4.1"]
    with pytest.raises(UserError, match=r"answers\.others\.Model is a name that has its meaning here: two sets .* give it another name"):
        names("Model")
    with pytest.raises(UserError, match=r"answers\.others\.A and a are the same name"):
        names("a", "A")
    with pytest.raises(UserError, match="becomes that of a file"):
        names("a/b")


def test_files_are_copied_beside_the_rest_and_a_config_takes_both_kinds(tmp_path):
    given = tmp_path / "given.json"
    given.write_text(json.dumps([{"id": "p1", "output": "x"}]))
    config = parse(AnswersConfig, {"prompts": "set.jsonl", "others": {"mine": str(given)}})
    said = io.StringIO()
    (found,) = gather.others(config, ASKED, tmp_path / "answers", Console(file=said)).sets
    assert (found.name, found.missing, found.source) == ("mine", ("p0",), str(given))
    assert file.read(tmp_path / "answers" / "mine.jsonl", ASKED).answers == found.answers
    both = parse(AnswersConfig, {"prompts": "s", "others": {"gpt": {"model": "gpt-4.1", "key_env": "OPENAI_API_KEY"}, "f": "a.jsonl"}})
    assert isinstance(both.others["gpt"], TeacherConfig) and both.others["f"] == "a.jsonl"
    with pytest.raises(ValueError, match=r"prompts says to what: give answers\.prompts=FILE"):
        AnswersConfig(others={"f": "a.jsonl"})


def test_one_that_can_t_be_used_is_left_out_and_named_and_the_others_go_on(tmp_path):
    (tmp_path / "good.jsonl").write_text('{"id": "p1", "output": "x"}')
    (tmp_path / "bad.jsonl").write_text('{"id": "q1", "output": "x"}')
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "bad.jsonl").write_text("of an earlier run")
    files: dict[str, str | TeacherConfig] = {name: str(tmp_path / f"{name}.jsonl") for name in ("bad", "missing")}
    files |= {"nobody": TeacherConfig(base_url="http://127.0.0.1:9/v1", model="m", free=True, max_retries=0)}
    files |= {"folder": str(tmp_path), "good": str(tmp_path / "good.jsonl")}
    said = io.StringIO()
    found = gather.others(AnswersConfig(prompts="set.jsonl", others=files), ASKED, tmp_path / "answers", Console(file=said, width=500))
    assert [each.name for each in found.sets] == ["good"]
    assert "answers other prompts" in found.failed["bad"] and "there is no file" in found.failed["missing"]
    assert "bad is left out: answers.others.bad: " in said.getvalue()
    assert "can't be reached" in found.failed["nobody"] and "{source: " in found.failed["folder"]
    assert sorted(path.name for path in (tmp_path / "answers").iterdir()) == ["good.jsonl", "nobody"]  # with its log
