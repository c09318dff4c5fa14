"""The tokenizer that belongs to a model: text to ids and back, its special tokens, its chat template."""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.rundir import read_json, write_atomic
from alpaca_jax.tokenizer import tiktoken
from alpaca_jax.tokenizer.backends import Backend, Json, SentencePiece


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back. `pad_id` is EOS where a tokenizer has no padding token; `adds_bos`: whether BOS belongs before a text."""

    backend: Backend
    bos_id: int | None
    eos_id: int
    pad_id: int
    adds_bos: bool
    chat_template: str | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Returns the tokenizer in a folder (or a tokenizer.json, SentencePiece or tiktoken file); a UserError where it can't be read."""
        path = Path(path)
        folder = path if path.is_dir() else path.parent
        backend = _backend(path)
        settings = _settings(folder)
        ids = {name: _special_id(name, settings, backend, folder) for name in ("bos", "eos", "pad")}
        if ids["eos"] is None:
            raise UserError(f"{path}: no EOS token is named; give eos_token in {folder / 'tokenizer_config.json'}")
        pad = ids["eos"] if ids["pad"] is None else ids["pad"]
        adds_bos = settings.get("add_bos_token")
        adds_bos = ids["bos"] is not None and (backend.leading_id == ids["bos"] if adds_bos is None else bool(adds_bos))
        return cls(backend, ids["bos"], ids["eos"], pad, adds_bos, _chat_template(folder, settings))

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

    def encode(self, text: str, start: bool = True, special: bool = False) -> list[int]:
        """Returns the ids of `text`, without BOS and EOS.

        `start=False`: it continues other text (no SentencePiece dummy prefix). `special=True`: a special token spelled in it, such as
        `<|im_end|>`, becomes that token; otherwise it is text like any other.
        """
        return self.backend.encode([text], start, special)[0]

    def encode_batch(self, texts: Sequence[str], start: bool = True, special: bool = False) -> list[list[int]]:
        """Returns what `encode` gives for each of `texts`, on all cores."""
        return self.backend.encode(texts, start, special) if texts else []

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Returns the text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode([int(id) for id in ids], skip_special)

    def with_chat_template(self, template: str | None) -> "Tokenizer":
        """Returns the same tokenizer with another chat template (Jinja, as in `transformers`)."""
        return dataclasses.replace(self, chat_template=template)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """Returns `messages` (role, content) as text by the chat template; a UserError where there is none or it refuses them."""
        import jinja2

        if self.chat_template is None:
            raise UserError("this tokenizer has no chat template: request a completion, or add chat_template.jinja beside it")
        names = {"bos_token": self.bos_id, "eos_token": self.eos_id, "pad_token": self.pad_id}
        tokens = {name: self.backend.token(id) for name, id in names.items() if id is not None}
        try:
            template = _compiled(self.chat_template)
            return template.render(messages=list(messages), add_generation_prompt=add_generation_prompt, tools=None, **tokens)
        except (jinja2.TemplateError, TypeError) as error:
            raise UserError(f"the chat template refuses these messages: {error}") from error

    def apply_chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> list[int]:
        """Returns the ids of `render_chat`, with special tokens as such."""
        return self.encode(self.render_chat(messages, add_generation_prompt), special=True)

    def files(self) -> dict[str, bytes]:
        """Returns the files, by name, that `load` and the AutoTokenizer of `transformers` read."""
        names = {"bos_token": self.bos_id, "eos_token": self.eos_id, "unk_token": self.backend.specials.get("<unk>")}
        if self.pad_id != self.eos_id:
            names["pad_token"] = self.pad_id
        special = {name: self.backend.token(id) for name, id in names.items() if id is not None}
        settings = {
            **special,
            "add_bos_token": self.adds_bos,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
        }
        files = dict(self.backend.files())
        if self.chat_template is not None:
            settings["chat_template"] = self.chat_template  # transformers before 4.43 reads no file for it
            files["chat_template.jinja"] = self.chat_template.encode()
        files["special_tokens_map.json"] = _json(special)
        files["tokenizer_config.json"] = _json(settings)
        return files

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes `files()` into `folder`, each atomically."""
        for name, content in self.files().items():
            write_atomic(Path(folder) / name, content)


class TextStream:
    """Decodes tokens that arrive one at a time; holds a character back until all of its bytes are there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
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
        before = self._tokenizer.decode(self._ids[self._context : self._returned])
        return self._tokenizer.decode(self._ids[self._context :])[len(before) :]


def _backend(path: Path) -> Backend:
    if path.is_file():
        return _read_backend(path)
    backends = [_read_backend(file) for name in ("tokenizer.json", "tokenizer.model") if (file := path / name).is_file()]
    if not backends:
        raise UserError(f"{path} holds no tokenizer: tokenizer.json or tokenizer.model is needed")
    # Tokens that were added later are only in tokenizer.json.
    return max(backends, key=lambda backend: (backend.vocab_size, isinstance(backend, SentencePiece)))


def _read_backend(file: Path) -> Backend:
    try:
        content = file.read_bytes()
        if file.suffix == ".json":
            return Json(content.decode("utf-8"))
        return Json(*tiktoken.tokenizer_json(content)) if tiktoken.matches(content) else SentencePiece(content)
    except Exception as error:  # both libraries raise bare Exceptions of their own
        raise UserError(f"{file} is not a tokenizer that can be read ({error}); download it again") from error


def _settings(folder: Path) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            content = read_json(folder / name)
            merged |= {key: value for key, value in content.items() if value is not None}
    return merged


def _special_id(name: str, settings: Mapping[str, Any], backend: Backend, folder: Path) -> int | None:
    token = settings.get(f"{name}_token")
    if isinstance(token, dict):
        token = token["content"]
    if token is not None:
        ids = backend.encode([token], True, True)[0]
        if len(ids) != 1:
            raise UserError(f"{folder}: its {name}_token {token!r} is not a single token of its vocabulary")
        return ids[0]
    id = settings.get(f"{name}_token_id", backend.declared.get(name))
    return id[0] if isinstance(id, list) else id


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {each["name"]: each["template"] for each in template}.get("default")
    return template


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    # The settings of transformers, for which published templates are written. A template comes with a download, hence the sandbox.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = refuse
    return environment.from_string(template)
