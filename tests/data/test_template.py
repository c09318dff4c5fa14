"""Templates: the texts, and jinja that renders the same, as `transformers` would run it."""

import dataclasses
import json
from typing import Any

import pytest

from alpaca_jax.data import template
from alpaca_jax.errors import UserError

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HARD = ["Name three fruits.", 'It\'s "quoted"\\n with {{ braces }} {% raw %}', "  spaces and\n\nlines  \n", "日本語 é <s> </s>"]


def render(jinja: str, messages: list[dict[str, str]], **more: Any) -> str:
    """What `apply_chat_template` of transformers does, with its settings."""
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    return environment.from_string(jinja).render(messages=messages, bos_token="<s>", eos_token="</s>", **more)


@dataclasses.dataclass
class Fake:
    adds_bos: bool = False
    chat_template: str | None = CHATML

    def render_chat(self, messages: Any, add_generation_prompt: bool = True) -> str:
        return render(str(self.chat_template), messages, add_generation_prompt=add_generation_prompt)


def test_the_text_of_stanford() -> None:
    alpaca = template.get("alpaca", Fake())
    assert alpaca.prompt("Add.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Response:"
    )
    assert alpaca.prompt("Add.", "1 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
    )


@pytest.mark.parametrize("name", template.NAMES)
@pytest.mark.parametrize("instruction", HARD)
def test_one_user_message_renders_as_the_prompt(name: str, instruction: str) -> None:
    for bos in (False, True) if name != "chat" else (False,):
        made = template.get(name, Fake(adds_bos=bos))
        rendered = render(made.chat_template(), [{"role": "user", "content": instruction}], add_generation_prompt=True)
        assert rendered == ("<s>" if bos else "") + made.prompt(instruction)


@pytest.mark.parametrize("name", template.NAMES)
def test_the_answer_in_a_chat_stands_where_it_was_learnt(name: str) -> None:
    made = template.get(name, Fake())
    messages = [{"role": "user", "content": "Add 1 2."}, {"role": "assistant", "content": "It is 3."}]
    end = "<|im_end|>" if name == "chat" else "</s>"
    rendered = render(made.chat_template(), messages, add_generation_prompt=False)
    assert rendered.startswith(made.prompt("Add 1 2.") + made.response("It is 3.") + end)


def test_a_system_message_stands_before_the_text() -> None:
    alpaca = template.get("alpaca", Fake())
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Add."}]
    assert render(alpaca.chat_template(), messages, add_generation_prompt=True) == "Be brief.\n\n" + alpaca.prompt("Add.")


def test_chat_puts_the_input_below_the_instruction() -> None:
    assert template.get("chat", Fake()).prompt("Add.", "1 2") == "<|im_start|>user\nAdd.\n\n1 2<|im_end|>\n<|im_start|>assistant\n"


def test_what_is_no_template_is_said() -> None:
    with pytest.raises(UserError, match=r"data\.template=alpacca: .*did you mean alpaca\?"):
        template.get("alpacca", Fake())
    with pytest.raises(UserError, match=r"data\.template=chat: this tokenizer has no chat template; give data\.template=alpaca"):
        template.get("chat", Fake(chat_template=None))


def test_transformers_renders_it_so() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is installed on Python 3.11 only")
    tokenizers = pytest.importorskip("tokenizers")
    plain = tokenizers.Tokenizer.from_str(
        json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}})
    )
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="</s>", bos_token="<s>")
    for name in ("alpaca", "plain"):
        made = template.get(name, Fake(adds_bos=True))
        tokenizer.chat_template = made.chat_template()
        for instruction in HARD:
            messages = [{"role": "user", "content": instruction}]
            rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            assert rendered == "<s>" + made.prompt(instruction)
