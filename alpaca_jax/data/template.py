"""Templates: how a record becomes context and targets, and the jinja that travels with the checkpoint.

A template is a chat template: one of `templates/NAME.jinja`, the tokenizer's own, or a file of the user.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from alpaca_jax import documents
from alpaca_jax.config import suggestion
from alpaca_jax.data.chat import Chat, Piece, bos_text
from alpaca_jax.errors import UserError
from alpaca_jax.records import Record
from alpaca_jax.tokenizer import Tokenizer

FOLDER = Path(__file__).with_name("templates")
TEXT, AUTO = "text", "auto"
BUILT_IN = ("alpaca", "plain", "chatml", "llama2", "llama3", "vicuna", TEXT)
NAMES = (*BUILT_IN, "chat", AUTO)
# The templates of conversations, for a tokenizer without its own, and the tokens that each needs.
FOR_CONVERSATIONS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "vicuna": (),
}
BOS = "{{ bos_token }}"
LARGEST = 1 << 20  # bytes of a jinja file


class Template(Protocol):
    """How a record becomes text, as context and as targets, and the jinja that renders a chat in the same way."""

    @property
    def special(self) -> bool:
        """Whether the context may contain special tokens, spelled as text."""

    @property
    def special_answer(self) -> bool:
        """Whether the targets may."""

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""

    @property
    def bos(self) -> str:
        """The BOS token where it stands before the first piece, otherwise ""."""

    def pieces(self, record: Record) -> list[Piece]:
        """Returns the record's text in order, without BOS and without the tokens that end the answers."""

    def prompt(self, instruction: str, input: str = "") -> str:
        """Returns the text before the answer, without BOS."""

    def chat_template(self) -> str:
        """Returns jinja that renders a chat as `pieces` does, with BOS where the tokenizer adds one."""


def following(counted: Mapping[str, int], number: int, tokenizer: Tokenizer) -> str:
    """Returns the name of the template that fits most of `number` records, of which `counted` counts conversations and documents.

    Conversations take the tokenizer's own chat template or, where it has none, one whose tokens it knows; instructions take Alpaca's.
    """
    documents, conversations = counted.get("documents", 0), counted.get("conversations", 0)
    if documents == number:
        return TEXT
    if 2 * conversations < number - documents:
        return "alpaca"
    return "chat" if tokenizer.chat_template else _for_conversations(tokenizer)


def _for_conversations(tokenizer: Tokenizer) -> str:
    known = tokenizer.backend.added
    return next(name for name, tokens in FOR_CONVERSATIONS.items() if all(token in known for token in tokens))


def get(name: str, tokenizer: Tokenizer) -> Template:
    """Returns the template called `name` (`NAMES`, or a jinja file) for the tokenizer; a UserError where they don't fit together.

    `auto`, which follows the records, is the tokenizer's own where there are none to follow, or else Alpaca's.
    """
    if name == AUTO:
        name = "chat" if tokenizer.chat_template else "alpaca"
    jinja = _jinja(name, tokenizer)
    templated, bos = tokenizer.with_chat_template(jinja), bos_text(tokenizer)
    if bos and name != "chat" and not templated.render_chat([{"role": "user", "content": "?"}]).startswith(bos):
        # `transformers` adds no BOS to a rendered chat, so the template has to write it. The tokenizer's own is left as it is.
        templated = templated.with_chat_template(BOS + jinja)
    if name == TEXT:
        return Document(templated)
    # A model trained here has one of our templates as its own.
    return Chat(name, templated, ours=jinja.removeprefix(BOS) in [_built_in(each) for each in BUILT_IN if each != TEXT])


def _jinja(name: str, tokenizer: Tokenizer) -> str:
    if name == "chat":
        if not tokenizer.chat_template:
            raise UserError("data.template=chat: this tokenizer has no chat template; give data.template=alpaca or plain")
        return tokenizer.chat_template
    if name in BUILT_IN:
        return _built_in(name)
    file = Path(name).expanduser()
    if not file.suffix and not file.exists():
        raise UserError(
            f"data.template={name}: there is no such template{suggestion(name, NAMES)}; "
            f"the templates are {', '.join(NAMES)}, or the path of a jinja file"
        )
    try:
        return documents.read(file, LARGEST).decode("utf-8")
    except ValueError as error:
        raise UserError(f"data.template={name}: can't be read ({error}); give the path of a jinja file, or {', '.join(NAMES)}") from error


def _built_in(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


@dataclasses.dataclass(frozen=True)
class Document:
    """A text for pre-training: all of it is learnt, up to its EOS."""

    tokenizer: Tokenizer
    special: bool = False
    special_answer: bool = False

    @property
    def end_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def bos(self) -> str:
        return bos_text(self.tokenizer)

    def pieces(self, record: Record) -> list[Piece]:
        if record.instruction:
            raise UserError(
                f"{record.place()} has an instruction, and data.template={TEXT} is for plain texts: give data.template=alpaca or another"
            )
        return [Piece(record.output, True)]

    def prompt(self, instruction: str, input: str = "") -> str:
        return f"{instruction}\n\n{input}" if input else instruction

    def chat_template(self) -> str:
        return str(self.tokenizer.chat_template)
