"""The tokenizer that belongs to a model: text to ids and back, its special tokens, its chat template."""

import dataclasses
import datetime
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.rundir import write_atomic
from alpaca_jax.tokenizer import folder as folders
from alpaca_jax.tokenizer import sandbox
from alpaca_jax.tokenizer.backends import Backend
from alpaca_jax.tokenizer.settings import CONFIG, Files, adds_bos, special_ids


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. `pad_id` is EOS where a tokenizer has no padding token; `adds_bos`: whether BOS belongs before a text."""

    backend: Backend
    bos_id: int | None
    eos_id: int
    pad_id: int
    adds_bos: bool
    chat_template: str | None = None
    named: tuple[tuple[str, str], ...] = ()  # the special tokens that a chat template knows by name, such as unk_token
    notes: tuple[str, ...] = ()  # what is to be said about its files

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Returns the tokenizer in a folder (or a tokenizer.json, SentencePiece or tiktoken file); a UserError where it can't be read."""
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        files = Files.read(folder)
        backend, notes = folders.read(folder, files) if path.is_dir() else (folders.read_file(path), ())
        ids, more = special_ids(files, backend)
        if ids["eos"] is None:
            raise UserError(f"{path}: no EOS token is named; give eos_token in {folder / CONFIG}")
        bos_leads, said = adds_bos(files, backend, ids["bos"])
        return cls(
            backend=backend,
            bos_id=ids["bos"],
            eos_id=ids["eos"],
            pad_id=ids["eos"] if ids["pad"] is None else ids["pad"],
            adds_bos=bos_leads,
            chat_template=_chat_template(folder, files.config),
            named=tuple((name, str(token)) for name, token in files.named.items() if token is not None and str(token) in backend.added),
            notes=tuple(f"{folder}: {note}" for note in (*notes, *more, *said)),
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id of the tokenizer; a model may have more rows."""
        return self.backend.vocab_size

    @functools.cached_property
    def fingerprint(self) -> str:
        """The sha256 (hex) of all that decides the ids of a text, without the chat template."""
        digest = hashlib.sha256(repr((self.bos_id, self.eos_id, self.pad_id, self.adds_bos)).encode())
        name, content = sorted(self.backend.files().items(), reverse=True)[0]  # the .model where there is one
        digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()

    def encode(self, text: str, start: bool = True, special: bool = False, after: str | None = None) -> list[int]:
        """Returns the ids of `text`, without BOS and EOS.

        `start=False`: it continues other text (no SentencePiece dummy prefix). `after`: it follows this special token, whose own id is
        left out. `special=True`: a special token spelled in it, such as `<|im_end|>`, becomes that token; otherwise it is text like any
        other.
        """
        return self.backend.encode([text], start, special, after)[0]

    def encode_batch(self, texts: Sequence[str], start: bool = True, special: bool = False, after: str | None = None) -> list[list[int]]:
        """Returns what `encode` gives for each of `texts`, on all cores."""
        return self.backend.encode(texts, start, special, after) if texts else []

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        """Returns the ids of `text`, with special tokens as such, and the (start, end) of the ids in each of the `spans` of characters."""
        return self.backend.encode_spans(text, spans)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode([int(id) for id in ids], skip_special)

    def with_chat_template(self, template: str | None) -> "Tokenizer":
        """Returns the same tokenizer with another chat template (Jinja, as in `transformers`)."""
        return dataclasses.replace(self, chat_template=template)

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, now: datetime.datetime | None = None
    ) -> str:
        """Returns `messages` (role, content) as text by the chat template; a UserError where there is none or it refuses them.

        `now`: the time that the template may write, by default that of the call.
        """
        return self.rendered_chat(messages, add_generation_prompt, now).text

    def rendered_chat(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, now: datetime.datetime | None = None
    ) -> sandbox.Rendered:
        """Returns what `render_chat` does, with the places that the template marks as generated."""
        if self.chat_template is None:
            raise UserError("this tokenizer has no chat template: request a completion, or add chat_template.jinja beside it")
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        tokens = {name: self.backend.token(id) for name, id in ids.items() if id is not None}
        given = {"tools": None, "documents": None, "add_generation_prompt": add_generation_prompt}
        try:
            return sandbox.render(self.chat_template, {**dict(self.named), **tokens, **given, "messages": _with_reasoning(messages)}, now)
        except ValueError as error:
            raise UserError(f"the chat template refuses these messages: {error}") from error

    def apply_chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> list[int]:
        """Returns the ids of `render_chat`, with special tokens as such."""
        return self.encode(self.render_chat(messages, add_generation_prompt), special=True)

    def settings(self) -> dict[str, Any]:
        """Returns the content of its tokenizer_config.json: the texts of its special tokens, and its chat template if it has one."""
        template = {} if self.chat_template is None else {"chat_template": self.chat_template}  # transformers before 4.43 reads no file
        return {
            **self._special(),
            "add_bos_token": self.adds_bos,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
            **template,
        }

    def _special(self) -> dict[str, str]:
        names = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.backend.specials.get("<unk>")}
        if self.pad_id != self.eos_id:
            names["pad_token"] = self.pad_id
        return {name: self.backend.token(id) for name, id in names.items() if id is not None}

    def files(self) -> dict[str, bytes]:
        """Returns the files, by name, that `load` and the AutoTokenizer of `transformers` read."""
        files = {name: self._with_bos(content) if name == "tokenizer.json" else content for name, content in self.backend.files().items()}
        if self.chat_template is not None:
            files["chat_template.jinja"] = self.chat_template.encode()
        files["special_tokens_map.json"] = _json(self._special())
        files["tokenizer_config.json"] = _json(self.settings())
        return files

    def _with_bos(self, content: bytes) -> bytes:
        """A tokenizer.json that puts BOS before a text, or not, as this tokenizer does: `transformers` goes by that file alone."""
        if self.bos_id is None or self.adds_bos == (self.backend.leading_id == self.bos_id):
            return content
        text, sequence = self.backend.token(self.bos_id), {"Sequence": {"id": "A", "type_id": 0}}
        single = [{"SpecialToken": {"id": text, "type_id": 0}}] * self.adds_bos + [sequence]
        second = [{"Sequence": {"id": "B", "type_id": 1}}]
        known = {text: {"id": text, "ids": [self.bos_id], "tokens": [text]}} if self.adds_bos else {}
        processor = {"type": "TemplateProcessing", "single": single, "pair": single + second, "special_tokens": known}
        return json.dumps(json.loads(content) | {"post_processor": processor}, ensure_ascii=False).encode()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `files()` into `folder`, each atomically."""
        for name, content in self.files().items():
            write_atomic(Path(folder) / name, content)


class TextStream:
    """Decodes tokens that arrive one at a time; holds a character back until all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer, skip_special: bool = True) -> None:
        self._tokenizer, self._skip_special = tokenizer, skip_special
        self._ids: list[int] = []
        # Decoding starts at `_context`, since a token alone may lose the space before it; up to `_returned` the text is returned.
        self._context = self._returned = 0

    def push(self, id: int) -> str:
        """Returns the text that this token completes, possibly ""."""
        self._ids.append(id)
        text = self._pending()
        if not text or text.endswith("\ufffd"):
            return ""
        self._context, self._returned = self._returned, len(self._ids)
        return text

    def rest(self) -> str:
        """Returns the text still held back, after the last token."""
        text = self._pending()
        self._context = self._returned = len(self._ids)
        return text

    def _pending(self) -> str:
        before = self._tokenizer.decode(self._ids[self._context : self._returned], self._skip_special)
        return self._tokenizer.decode(self._ids[self._context :], self._skip_special)[len(before) :]


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    file, where = folder / "chat_template.jinja", folder / CONFIG
    if file.is_file():
        try:
            return documents.read(file).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}); download it again") from error
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        if not all(isinstance(each, dict) and "name" in each for each in template):
            raise UserError(f"{where}: chat_template lists something without a name; give objects with name and template")
        template = {str(each["name"]): each.get("template") for each in template}.get("default")
    if template is not None and not isinstance(template, str):
        raise UserError(f"{where}: chat_template is {str(template)[:40]!r}, where a text is due")
    return template


def _with_reasoning(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The messages without null, and with an answer's reasoning under each name by which templates know it, as in `transformers`."""
    made = []
    for each in messages:
        message = {key: value for key, value in each.items() if value is not None}
        reasoning = next((message[key] for key in ("reasoning_content", "thinking", "reasoning") if key in message), None)
        made.append(message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning})
    return made


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
