"""Answers to fixed prompts: asked as training shows a prompt, ended as training ends an answer."""

import dataclasses
from collections.abc import Sequence

import pytest
from bytewise import tokenizer

from alpaca_jax.data import template
from alpaca_jax.data.example import Recipe, tokenize
from alpaca_jax.decode.generation import Completion
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.scores import samples


@dataclasses.dataclass
class Echo:
    """A batch that answers with its prompt, up to the first token that ends an answer, and remembers what it was asked."""

    max_length: int = 256

    def generate(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stop_ids: Sequence[int]) -> list[Completion]:
        self.prompts, self.stop_ids = [list(prompt) for prompt in prompts], list(stop_ids)
        answers = [prompt[: min([prompt.index(id) for id in stop_ids if id in prompt], default=None)] for prompt in self.prompts]
        return [Completion(answer[:max_new_tokens], [0.0] * len(answer), "stop") for answer in answers]


def ask(name: str, prompts: Sequence[str], max_tokens: int = 40, **more: int) -> tuple[list[str], Echo]:
    bytewise, engine = tokenizer(adds_bos=True), Echo(**more)
    made = template.get(name, bytewise)
    answers = samples.answers(engine, bytewise, made, prompts, max_tokens, [bytewise.eos_id])  # type: ignore[arg-type]
    return answers, engine


@pytest.mark.parametrize("name", ["alpaca", "plain", "chatml", "llama2", "llama3", "vicuna"])
def test_a_prompt_is_asked_as_training_shows_it(name: str) -> None:
    bytewise = tokenizer(adds_bos=True)
    made = template.get(name, bytewise)
    records = [Record("Say hi.", output="hi"), Record("Name  a river.\n", output="Oder")]
    _, engine = ask(name, [record.instruction for record in records], max_tokens=1, max_length=400)
    trained, _ = tokenize(records, Recipe(made, bytewise, 400))
    assert engine.prompts == [each.ids[~each.learnt].tolist() for each in trained.take([0, 1])]


def test_an_answer_ends_where_the_template_ends_it() -> None:
    bytewise = tokenizer()
    eos, end = bytewise.eos_id, bytewise.backend.specials["<|eot_id|>"]
    assert ask("llama3", ["x"])[1].stop_ids == [eos, end]
    assert ask("llama3", ["x"])[0] == ["user\n\nx"]
    assert set(ask("alpaca", ["x"])[1].stop_ids) == {eos}


def test_a_text_is_gone_on_with() -> None:
    assert ask("text", ["Once upon a time"])[0] == ["Once upon a time"]


def test_every_prompt_has_its_answer_however_long_it_is() -> None:
    answers, engine = ask("plain", ["a", "b" * 500, "c"], max_tokens=20, max_length=64)
    assert answers == ["a", "b" * 20, "c"]
    assert [len(prompt) for prompt in engine.prompts] == [3, 44, 3]
    with pytest.raises(UserError, match=r"samples\.max_tokens=64 leaves no room for a prompt in the model's 64 positions"):
        ask("plain", ["a"], max_tokens=64, max_length=64)
