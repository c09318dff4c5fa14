"""Templates: how a record reads as a prompt and a response, and the same as a chat template that travels with the checkpoint."""

import dataclasses
from typing import Protocol

from alpaca_jax.config import suggestion
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.errors import UserError

# Stanford's text, word for word; the response follows the last colon directly.
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
)

# The same in jinja, for `transformers` and for our own server: a system message stands before the text, each answer ends with EOS.
ALPACA_CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}"
    "{{ " + repr(ALPACA) + " + '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ '### Response:' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}"
)
PLAIN_CHAT = (
    "{% for message in messages %}{{ message['content'] + (eos_token if message['role'] == 'assistant' else '') + '\\n' }}{% endfor %}"
)


class Template(Protocol):
    """How a record reads: what the model is shown, what it learns to answer, and the jinja that makes a chat look the same."""

    @property
    def special(self) -> bool:
        """Whether special tokens may be spelled in the prompt's text."""
        ...

    def prompt(self, instruction: str, input: str = "") -> str:
        """Returns the text before the response."""
        ...

    def response(self, output: str) -> str:
        """Returns the text that is learnt, without EOS."""
        ...

    def chat_template(self) -> str:
        """Returns jinja that renders one user message, with add_generation_prompt, as `prompt` does."""
        ...


@dataclasses.dataclass(frozen=True)
class Alpaca:
    """Stanford's template, with and without an input."""

    bos: bool = False
    special: bool = False

    def prompt(self, instruction: str, input: str = "") -> str:
        if input:
            return f"{ALPACA_INPUT}### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        return f"{ALPACA}### Instruction:\n{instruction}\n\n### Response:"

    def response(self, output: str) -> str:
        return output

    def chat_template(self) -> str:
        return _with_bos(ALPACA_CHAT, self.bos)


@dataclasses.dataclass(frozen=True)
class Plain:
    """The instruction, the input and the response on lines of their own, without any other word."""

    bos: bool = False
    special: bool = False

    def prompt(self, instruction: str, input: str = "") -> str:
        return f"{instruction}\n{input}\n" if input else f"{instruction}\n"

    def response(self, output: str) -> str:
        return output

    def chat_template(self) -> str:
        return _with_bos(PLAIN_CHAT, self.bos)


@dataclasses.dataclass(frozen=True)
class Chat:
    """The tokenizer's own chat template: the record is one user turn, the response is the assistant's."""

    tokenizer: Tokenizer
    special: bool = True

    def prompt(self, instruction: str, input: str = "") -> str:
        content = f"{instruction}\n\n{input}" if input else instruction
        return self.tokenizer.render_chat([{"role": "user", "content": content}])

    def response(self, output: str) -> str:
        return output

    def chat_template(self) -> str:
        assert self.tokenizer.chat_template is not None  # `get` has asked
        return self.tokenizer.chat_template


NAMES = ("alpaca", "plain", "chat")


def get(name: str, tokenizer: Tokenizer) -> Template:
    """Returns the template of that name for the tokenizer; a UserError where there is none."""
    if name == "alpaca":
        return Alpaca(bos=tokenizer.adds_bos)
    if name == "plain":
        return Plain(bos=tokenizer.adds_bos)
    if name != "chat":
        raise UserError(f"data.template={name}: there is no such template{suggestion(name, NAMES)}; the templates are {', '.join(NAMES)}")
    if not tokenizer.chat_template:
        raise UserError("data.template=chat: this tokenizer has no chat template; give data.template=alpaca or plain")
    return Chat(tokenizer)


def _with_bos(jinja: str, bos: bool) -> str:
    # `transformers` tokenizes a rendered chat without adding BOS, so the template brings it.
    return ("{{ bos_token }}" if bos else "") + jinja
