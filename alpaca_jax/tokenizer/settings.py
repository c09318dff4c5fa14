"""What the JSON files beside a tokenizer's vocabulary say: its settings, its special tokens by name, the tokens that were added."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer.backends import Backend, Json

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
NEEDED = ("bos_token", "eos_token", "pad_token")
EXTRA = ("extra_special_tokens", "additional_special_tokens")
AS_IT_IS = ("mistral", "mixtral", "ministral", "phi3")  # models of which transformers reads tokenizer.json as it is, whatever the class
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
GAP, MOST = 1 << 16, 1 << 24  # at most: ids without a token, and rows of a model


@dataclasses.dataclass
class Files:
    """What the JSON files beside a vocabulary say: the settings, the special tokens by their name, and the added ones by their id."""

    folder: Path
    config: dict[str, Any]
    named: dict[str, Any]
    added: dict[int, Any]
    extra: list[Any]
    decoder: bool  # whether the settings list all added tokens: then only they count
    rows: int | None  # of the model's embedding, where there is a model
    kind: str | None  # the class of transformers, without Fast

    @classmethod
    def read(cls, folder: Path) -> "Files":
        config, model = json_file(folder / CONFIG), json_file(folder / "config.json")
        rows = model.get("vocab_size")
        kind = config.get("tokenizer_class") or model.get("tokenizer_class")
        kind = None if model.get("model_type") in AS_IT_IS else kind
        files = cls(
            folder=folder,
            config=config,
            named={},
            added={},
            extra=[],
            decoder=config.get("added_tokens_decoder") is not None,
            rows=rows if isinstance(rows, int) and rows > 0 else None,
            kind=kind.removesuffix("Fast") if isinstance(kind, str) else None,
        )
        files._read_named(config, CONFIG)
        if files.decoder:
            decoder = typed(config["added_tokens_decoder"], dict, folder / CONFIG, "added_tokens_decoder")
            for id, token in decoder.items():
                files._add(id, token, folder / CONFIG, f"added_tokens_decoder.{id}")
        else:
            files._read_named(json_file(folder / MAP), MAP)
            special = {str(token) for token in (*files.named.values(), *files.extra) if token is not None}
            for text, id in json_file(folder / ADDED).items():
                token = {"content": text, "normalized": text not in special, "special": text in special}
                files._add(id, token, folder / ADDED, repr(text))
        return files

    def add_all(self, tokens: Iterable[Mapping[str, Any]]) -> None:
        """Takes the added tokens of tokenizer.json for those of the folder, unless the settings list them."""
        for each in () if self.decoder else tokens:
            self._add(each["id"], each, self.folder / "tokenizer.json", "an added token")

    def special(self, name: str) -> Any:
        """Returns the special token of this name, with the flags of the added token that it is."""
        known = {str(each): each for each in self.added.values()}
        return known.get(str(self.named.get(name)), self.named.get(name))

    def _read_named(self, content: Mapping[str, Any], file: str) -> None:
        for name, value in content.items():
            if name in NAMES or (name.endswith("_token") and isinstance(value, str)):
                value = value | {"special": True} if file == MAP and isinstance(value, dict) else value
                self.named[name] = None if value in (None, "") else token(value, self.folder / file, name)
        for name in reversed(EXTRA):
            if content.get(name):
                values = content[name].values() if isinstance(content[name], dict) else content[name]
                values = typed(list(values) if isinstance(content[name], dict) else values, list, self.folder / file, name)
                self.extra = [token(value, self.folder / file, name) for value in values]

    def _add(self, id: Any, value: Any, file: Path, key: str) -> None:
        id = int(id) if isinstance(id, str) and id.isascii() and id.isdigit() and len(id) < 20 else id
        if not isinstance(id, int) or isinstance(id, bool) or id < 0:
            raise UserError(f"{file}: the id of {key} is {id!r}, where a number from 0 on is due")
        self.added[id] = token(value, file, key)

    @property
    def ours(self) -> bool:
        """Whether they are an export of ours, which means its add_bos_token; the tokenizer.json of earlier ones could say otherwise."""
        return self.kind == "PreTrainedTokenizer" and "add_eos_token" in self.config and "model_max_length" not in self.config

    def limit(self, size: int) -> int:
        """Returns the first id that no token of a vocabulary of `size` tokens may have."""
        return max(min(self.rows or 0, MOST), size + GAP)

    def flag(self, name: str, default: bool | None) -> bool | None:
        """Returns a setting that is true or false; `default` where it is null or absent."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise UserError(f"{self.folder / CONFIG}: {name} is {value!r}, where true or false is due")
        return default if value is None else value


def json_file(path: Path) -> dict[str, Any]:
    """Returns the object in a JSON file, empty where there is no file; a UserError if it holds anything else."""
    return documents.json_object(documents.read(path), str(path)) if path.is_file() else {}


def token(value: Any, file: Path, key: str) -> Any:
    """Returns a text or an object as an AddedToken of `tokenizers`; a text is one that is special."""
    import tokenizers

    if isinstance(value, str):
        value = {"content": value, "normalized": False, "special": True}
    content = typed(typed(value, dict, file, key).get("content"), str, file, f"{key}.content")
    if not content:
        raise UserError(f"{file}: {key} is a token without text; take it out, or give its text")
    flags = {name: typed(value[name], bool, file, f"{key}.{name}") for name in FLAGS if value.get(name) is not None}
    return tokenizers.AddedToken(content, **flags)


def typed(value: Any, kind: type, file: Path, key: str) -> Any:
    if not isinstance(value, kind):
        due = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}[kind]
        raise UserError(f"{file}: {key} is {str(value)[:60]!r}, where {due} is due")
    return value


def special_ids(files: Files, backend: Backend) -> tuple[dict[str, int | None], list[str]]:
    """Returns the ids of `bos`, `eos` and `pad` (None: there is none), and what config.json and generation_config.json say otherwise.

    The tokenizer's own files come first: the token named there, then the id in a tokenizer.model.
    """
    ids: dict[str, int | None] = {}
    notes = []
    for name in ("bos", "eos", "pad"):
        own = files.named.get(f"{name}_token")
        found = backend.declared.get(name) if own is None else _single_id(f"{name}_token", str(own), files, backend)
        for file in ("generation_config.json", "config.json"):
            others = _model_ids(files, file, f"{name}_token_id", max(backend.vocab_size, files.rows or 0))
            if others and found is None:
                found, said = _with_token(name, others[0], files.folder / file, backend)
                notes += said
            elif others and found not in others:
                notes.append(f"its {name} is {backend.token(found)!r} (id {found}) by its tokenizer; {file} names the id {others[0]}")  # type: ignore[arg-type]
                break
            if others:
                break
        ids[name] = found
    return ids, notes


def _with_token(name: str, id: int, file: Path, backend: Backend) -> tuple[int | None, list[str]]:
    """An id that only the model names, if it has a token; without one, EOS pads, and nothing else can take its place."""
    if id < backend.vocab_size and backend.token(id) is not None:
        return id, []
    if name != "pad":
        raise UserError(f"{file}: {name}_token_id is {id}, for which the tokenizer has no token; name {name}_token in {CONFIG}")
    return None, [f"{file.name} names the id {id} for padding, for which the tokenizer has no token; EOS pads"]


def _single_id(name: str, text: str, files: Files, backend: Backend) -> int:
    if text in backend.added:
        return backend.added[text]
    ids = backend.encode([text], True, True)[0]
    if len(ids) != 1:
        raise UserError(f"{files.folder}: its {name} {text!r} is not a single token of its vocabulary")
    return ids[0]


def _model_ids(files: Files, file: str, key: str, limit: int) -> list[int]:
    """The ids that a file of the model names; -1 and null are none."""
    value = json_file(files.folder / file).get(key)
    ids = value if isinstance(value, list) else [value]
    for id in ids:
        if id is not None and (not isinstance(id, int) or isinstance(id, bool) or not -1 <= id < limit):
            raise UserError(f"{files.folder / file}: {key} is {str(value)[:80]}, and its vocabulary has {limit} tokens")
    return [id for id in ids if id not in (None, -1)]


def adds_bos(files: Files, backend: Backend, bos: int | None) -> tuple[bool, list[str]]:
    """Returns whether BOS belongs before a text, and what is to be said about it.

    A tokenizer.json decides it by itself, as in `transformers` 5, whatever add_bos_token says.
    """
    leads = bos is not None and backend.leading_id == bos
    flag = files.flag("add_bos_token", None)
    own = isinstance(backend, Json) and (files.folder / "tokenizer.json").is_file() and not files.ours
    if bos is not None and own and flag is not None and flag != leads:
        does = "puts" if leads else "puts no"
        return leads, [
            f"its tokenizer.json {does} BOS before a text, and as in transformers add_bos_token: {str(flag).lower()} has no effect"
        ]
    if bos is not None and not own and flag is None and not leads and files.kind == "LlamaTokenizer":
        return False, ["as in transformers 5, no BOS stands before a text, since its files don't say add_bos_token: true"]
    return leads if flag is None or own else flag and bos is not None, []
