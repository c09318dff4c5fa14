"""The answers of a model in this process: what it is asked, what is kept, and what a second run has left to do."""

import dataclasses
import io
import json

import pytest
from bytewise import tokenizer
from rich.console import Console

from alpaca_jax.data import template
from alpaca_jax.decode.generation import Generation, Token
from alpaca_jax.errors import UserError
from alpaca_jax.scores.answers import AnswersConfig, own
from alpaca_jax.scores.prompts import Prompt, PromptSet

BYTES = tokenizer(adds_bos=True)
ASKED = PromptSet("set", "set.jsonl", tuple(Prompt.of(text, id=f"p{n}") for n, text in enumerate(["One?", "And two?", "Three of them?"])))


class Killed(Exception):
    """The end of a process, in the middle of its work."""


class Batch:
    """Answers a prompt with its seed's first digit and its own last words, one token a step, and dies after so many answers."""

    def __init__(self, slots, max_length=200, dies_after=None):
        self.slots, self.max_length, self._dies_after = slots, max_length, dies_after
        self.live, self.asked = [], []

    @property
    def free(self):
        return self.slots - len(self.live)

    def admit(self, prompt, options):
        assert 0 < len(prompt) < self.max_length
        made = Generation(list(prompt), options)
        self.live.append(made)
        self.asked.append((BYTES.decode(list(prompt), skip_special=False), options))
        return made

    def step(self):
        if self._dies_after is not None and self._dies_after <= 0:
            raise Killed
        served = list(self.live)
        for one in served:
            text = f"{str(one.options.seed)[0]} {BYTES.decode(one.prompt)[-4:]}".encode()
            if len(one.tokens) == one.options.max_new_tokens:
                one.finish_reason = "length"
            elif len(one.tokens) == len(text):
                one.finish_reason = "stop"
            else:
                one.tokens.append(Token(BYTES.encode(chr(text[len(one.tokens)]))[-1], 0.0))
            if one.finish_reason:
                self.live.remove(one)
                if self._dies_after is not None:
                    self._dies_after -= 1
        return served


@dataclasses.dataclass
class Model:
    """What is asked of a model in memory."""

    name: str = "plain"
    weights: str = "w1"
    dies_after: int | None = None
    max_length: int = 200
    batches: list = dataclasses.field(default_factory=list)
    source: str = "runs/x"
    eos_ids: tuple = (BYTES.eos_id,)
    tokenizer = BYTES

    @property
    def template(self):
        return template.get(self.name, BYTES)

    def identity(self):
        return {"source": self.source, "weights": self.weights, "tokenizer": "t", "template": self.name, "dtype": "float32"}

    def alive(self):
        pass

    def batch(self, slots):
        self.batches.append(Batch(slots, self.max_length, self.dies_after))
        return self.batches[-1]


def config(**settings):
    return AnswersConfig(prompts="set.jsonl", max_tokens=20, **settings)


def answer(tmp_path, model, asked=ASKED, **settings):
    return own.answer(model, "model", asked, config(**settings), tmp_path / "model.jsonl", Console(file=io.StringIO()))


def said(found):
    return {id: [each.text for each in answers] for id, answers in found.answers.items()}


def test_every_prompt_is_asked_as_training_shows_it_and_answered(tmp_path):
    model = Model("alpaca")
    found = answer(tmp_path, model, slots=2)
    texts = {text for text, _ in model.batches[0].asked}
    assert texts == {f"<s>{template.get('alpaca', BYTES).prompt(prompt.instruction)}" for prompt in ASKED}
    assert all(options.temperature == 0 and options.stop_ids == {BYTES.eos_id} for _, options in model.batches[0].asked)
    assert list(found.answers) == ["p0", "p1", "p2"] and found.missing == () and found.source == "runs/x"
    assert found.answers["p0"][0].finish_reason == "stop" and found.answers["p0"][0].tokens > 3
    lines = [json.loads(line) for line in (tmp_path / "model.jsonl").read_text().splitlines()]
    assert lines[0]["settings"]["prompts"] == ASKED.fingerprint and len(lines) == 4


def test_a_killed_run_keeps_what_was_answered_and_the_next_makes_the_rest_alone(tmp_path):
    straight = answer(tmp_path / "straight", Model(), seeds=2, slots=2)
    with pytest.raises(Killed):
        answer(tmp_path, Model(dies_after=3), seeds=2, slots=2)
    with (tmp_path / "model.jsonl").open("a+") as file:
        file.seek(0)
        kept = len(file.readlines()) - 1
        file.write('{"id": "p0", "seed": 1, "te')  # torn by the kill
    resumed = Model()
    found = answer(tmp_path, resumed, seeds=2, slots=3)
    assert 3 <= kept < 6 and len(resumed.batches[0].asked) == 6 - kept
    assert found.answers == straight.answers
    third = Model()
    assert answer(tmp_path, third, seeds=2).answers == straight.answers and third.batches == []


def test_more_seeds_and_more_prompts_keep_what_is_there(tmp_path):
    model = Model()
    first = answer(tmp_path, model, ASKED.first(2), temperature=0.5)
    found = answer(tmp_path, model, ASKED, seeds=2, temperature=0.5)
    assert len(model.batches[1].asked) == 4
    assert [answers[0] for answers in found.answers.values()][:2] == [answers[0] for answers in first.answers.values()]
    assert [[each.seed for each in answers] for answers in found.answers.values()] == [[0, 1]] * 3
    assert len({options.seed for batch in model.batches for _, options in batch.asked}) == 6  # each prompt and seed has its own stream


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"weights": "w2"}, "weights: 'w1' there, 'w2' now"),
        ({"name": "alpaca"}, "template: '"),
        ({"max_tokens": 7}, "max_tokens: 20 there, 7 now"),
        ({"seeds": 2}, "temperature: 0.0 there, 0.7 now"),
        ({"asked": ASKED.first(2)}, None),
        ({"asked": PromptSet("s", "s", (*ASKED.prompts, Prompt.of("x")))}, "prompts: '"),
    ],
)
def test_answers_with_other_settings_are_refused_by_what_differs_or_set_aside(tmp_path, changed, what):
    answer(tmp_path, Model())
    before = (tmp_path / "model.jsonl").read_bytes()
    model = Model(**{key: value for key, value in changed.items() if key in ("weights", "name")})
    asked = changed.get("asked", ASKED)
    settings = {"max_tokens": 20} | {key: value for key, value in changed.items() if key in ("seeds", "max_tokens")}

    def again(**more):
        made = AnswersConfig(prompts="set.jsonl", **settings, **more)
        return own.answer(model, "model", asked, made, tmp_path / "model.jsonl", Console(file=io.StringIO()))

    if what is None:
        assert again().notes == ()
        return
    with pytest.raises(UserError, match="made with other settings") as error:
        again()
    assert f"\n  {what}" in str(error.value) and "answers.set_aside=true" in str(error.value)
    assert (tmp_path / "model.jsonl").read_bytes() == before
    found = again(set_aside=True)
    assert (tmp_path / "model.1.jsonl").read_bytes() == before
    assert found.missing == () and found.notes == (f"earlier answers with other settings are in {tmp_path / 'model.1.jsonl'}",)


def test_follow_up_turns_are_asked_after_the_answers_that_were_given(tmp_path):
    asked = PromptSet("mt", "mt.jsonl", (Prompt.of("First?", id="81", later=("Second!",)),))
    model = Model("chatml")
    found = answer(tmp_path, model, asked)
    (one, _), (two, _) = model.batches[0].asked
    first = found.answers["81"][0].text
    assert two == f"{one}{first}<|im_end|>\n<|im_start|>user\nSecond!<|im_end|>\n<|im_start|>assistant\n"
    assert len(found.answers["81"][0].later) == 1 and found.answers["81"][0].tokens > len(first)


def test_a_prompt_that_is_too_long_loses_its_beginning_and_is_counted(tmp_path):
    asked = PromptSet("s", "s", (Prompt.of("x" * 300 + " end?", id="long"), Prompt.of("short?", id="short")))
    model = Model()
    found = answer(tmp_path, model, asked)
    assert found.answers["long"][0].shortened and not found.answers["short"][0].shortened
    assert answer(tmp_path, Model(), asked).figures()["shortened"] == found.figures()["shortened"] == 1
    assert model.batches[0].asked[0][0].count("x") == 180 - len(" end?") - 1  # plain ends a prompt with a line break
    with pytest.raises(UserError, match=r"answers\.max_tokens=20 leaves no room for a prompt in the 20 positions of runs/x"):
        answer(tmp_path / "other", Model(max_length=20), asked)


def test_several_seeds_need_a_temperature():
    with pytest.raises(ValueError, match="temperature=0 gives the same answer for all 3 seeds"):
        config(seeds=3, temperature=0)
    assert config(seeds=3).settled_temperature == 0.7 and config().settled_temperature == 0
