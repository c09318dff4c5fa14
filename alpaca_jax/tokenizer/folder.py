"""The tokenizer of a folder, put together as the AutoTokenizer of `transformers` 5 does it.

The vocabulary is in tokenizer.json or tokenizer.model. Tokens that were added later, and the names of special ones, may be in
tokenizer_config.json, special_tokens_map.json and added_tokens.json too. A folder whose tokenizer_class is LlamaTokenizer has LLaMA's
own rules for spaces (`legacy`, `add_prefix_space`), whatever its tokenizer.json says.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import tiktoken
from alpaca_jax.tokenizer.backends import CONTROL, SPACE, USER_DEFINED, Backend, Json, SentencePiece, sentencepiece_model, tokenizer_json

CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
NEEDED = ("bos_token", "eos_token", "pad_token")
EXTRA = ("extra_special_tokens", "additional_special_tokens")
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
GAP = 1 << 16  # ids without a token, at most


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
            decoder = _typed(config["added_tokens_decoder"], dict, folder / CONFIG, "added_tokens_decoder")
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
                values = _typed(list(values) if isinstance(content[name], dict) else values, list, self.folder / file, name)
                self.extra = [token(value, self.folder / file, name) for value in values]

    def _add(self, id: Any, value: Any, file: Path, key: str) -> None:
        id = int(id) if isinstance(id, str) and id.isascii() and id.isdigit() and len(id) < 20 else id
        if not isinstance(id, int) or isinstance(id, bool) or id < 0:
            raise UserError(f"{file}: the id of {key} is {id!r}, where a number from 0 on is due")
        self.added[id] = token(value, file, key)

    def limit(self, size: int) -> int:
        """Returns the first id that no token of a vocabulary of `size` tokens may have."""
        return max(self.rows or 0, size + GAP)

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
    content = _typed(_typed(value, dict, file, key).get("content"), str, file, f"{key}.content")
    if not content:
        raise UserError(f"{file}: {key} is a token without text; take it out, or give its text")
    flags = {name: _typed(value[name], bool, file, f"{key}.{name}") for name in FLAGS if value.get(name) is not None}
    return tokenizers.AddedToken(content, **flags)


def _typed(value: Any, kind: type, file: Path, key: str) -> Any:
    if not isinstance(value, kind):
        due = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}[kind]
        raise UserError(f"{file}: {key} is {str(value)[:60]!r}, where {due} is due")
    return value


def read(folder: Path, files: Files) -> tuple[Backend, tuple[str, ...]]:
    """Returns the tokenizer of `folder` and what is to be said about it; a UserError where there is none or it can't be read."""
    vocabulary, model = folder / "tokenizer.json", folder / "tokenizer.model"
    if vocabulary.is_file():
        text, spec = _checked(vocabulary, files)
        files.add_all(spec.get("added_tokens") or [])
        if model.is_file() and files.kind != "LlamaTokenizer" and spec == _converted(model):
            return read_file(model), ()  # an export of ours, whose tokenizer.json says the same
        if files.kind == "LlamaTokenizer" and _is_llama(spec):
            made = _llama(spec["model"]["vocab"], _pairs(spec["model"].get("merges", [])), files)
            _set_processor(made, spec.get("post_processor"))
            return _with_added(made, None, files)
        return _with_added(_library(text), text, files)
    if not model.is_file():
        raise UserError(f"{folder} holds no tokenizer: tokenizer.json or tokenizer.model is needed")
    backend = read_file(model)
    if isinstance(backend, Json):  # Llama 3's rank file
        return backend, ()
    if files.kind == "LlamaTokenizer":
        return _with_added(*_from_sentencepiece(documents.read(model), files))
    missing = [each for each in (*files.added.values(), *files.extra) if str(each) not in backend.added]
    named = [each for each in files.named.values() if each is not None and str(each) not in backend.added]
    if not missing and not named:
        return backend, ()
    return _with_added(_library(tokenizer_json(documents.read(model))), None, files)


def read_file(file: Path) -> Backend:
    """Returns the tokenizer in a file, without what other files say; a UserError where it can't be read."""
    if file.suffix == ".json":
        text, _ = _checked(file, Files.read(file.parent))
        return _guard(file, lambda: Json(text))
    content = documents.read(file)
    return _guard(file, lambda: Json(*tiktoken.tokenizer_json(content)) if tiktoken.matches(content) else SentencePiece(content))


def _guard(file: Path, make: Any) -> Any:
    try:
        return make()
    except UserError:
        raise
    except BaseException as error:  # both libraries raise bare Exceptions of their own, and one of them panics
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise UserError(f"{file} is not a tokenizer that can be read ({str(error)[:200]}); download it again") from error


def _converted(model: Path) -> Any:
    """What an export of ours puts beside this tokenizer.model, if it can be put so."""
    content = documents.read(model)
    if tiktoken.matches(content):
        return None
    try:
        return json.loads(_guard(model, lambda: tokenizer_json(content)))
    except UserError:
        return None


def _checked(file: Path, files: Files) -> tuple[str, dict[str, Any]]:
    """The text of a tokenizer.json and what it says, in which no id is out of all proportion and no two tokens have the same."""
    content = documents.read(file)
    spec = documents.json_object(content, str(file))
    model = _typed(spec.get("model"), dict, file, "model")
    vocab = model.get("vocab")
    if isinstance(vocab, list):
        texts = [each[0] if isinstance(each, list) and each else None for each in vocab]
        ids: list[Any] = list(range(len(texts)))
    else:
        vocab = _typed(vocab, dict, file, "model.vocab")
        texts, ids = list(vocab), list(vocab.values())
    added = _typed(spec.get("added_tokens") or [], list, file, "added_tokens")
    for place, each in enumerate(added):
        token(each, file, f"added_tokens.{place}")
        ids.append(each.get("id"))
    limit = files.limit(len(texts) + len(added))
    for id in ids:
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < limit:
            raise UserError(f"{file}: a token has the id {str(id)[:40]!r}, where a number from 0 to {limit - 1} is due")
    if len(set(texts)) < len(texts) or len(set(ids[: len(texts)])) < len(texts):
        raise UserError(f"{file}: several tokens of model.vocab have the same text or id; download it again")
    return content.decode("utf-8-sig"), spec


def _library(text: str) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(text)


def _is_llama(spec: Mapping[str, Any]) -> bool:
    model = spec["model"]
    return (
        model.get("type", "BPE") == "BPE" and isinstance(model["vocab"], dict) and '"ByteLevel"' not in json.dumps(spec | {"model": None})
    )


def _pairs(merges: Iterable[Any]) -> list[tuple[str, str]]:
    return [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in merges]  # type: ignore[misc]


def _llama(vocab: Mapping[str, int], merges: list[tuple[str, str]], files: Files) -> Any:
    """The LlamaTokenizer of transformers 5: only the first word of a text gets a space, with `legacy` also that behind a special token."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    for name, text in (("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")):
        if name not in files.named:
            files.named[name] = token(text, files.folder / CONFIG, name)
    spaced = files.flag("add_prefix_space", True)
    scheme = ("always" if files.flag("legacy", False) else "first") if spaced else "never"
    made = tokenizers.Tokenizer(models.BPE(dict(vocab), merges, fuse_unk=True, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if spaced else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def _from_sentencepiece(proto: bytes, files: Files) -> tuple[Any, None, Files]:
    from tokenizers import processors

    pieces = sentencepiece_model(proto).pieces
    vocab = {piece.piece: id for id, piece in enumerate(pieces)}
    made = _llama(vocab, _merges_by_id(vocab), files)
    if not any(files.config.get(name) for name in EXTRA):
        user = [piece for piece in pieces if piece.type in (CONTROL, USER_DEFINED)]
        flags = [{"content": piece.piece, "normalized": False, "special": piece.type == CONTROL} for piece in user]
        files.extra = [token(each, files.folder / "tokenizer.model", "a piece") for each in flags]
    before, after = (
        str(files.named[name]) if files.flag(f"add_{name}", False) and files.named.get(name) else "" for name in ("bos_token", "eos_token")
    )
    ends = [(text, vocab[text]) for text in dict.fromkeys((before, after)) if text in vocab]
    single = " ".join(text for text in (before, "$A", after) if text)
    made.post_processor = processors.TemplateProcessing(single, f"{single} {single.replace('$A', '$B')}", ends)
    return made, None, files


def _merges_by_id(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges that transformers 5 reads from a SentencePiece model: by the id of the result, the shorter left part first."""
    merges = [(id, text[:cut], text[cut:]) for text, id in vocab.items() for cut in range(1, len(text))]
    known = [each for each in merges if each[1] in vocab and each[2] in vocab]
    return [(left, right) for _, left, right in sorted(known, key=lambda each: (each[0], len(each[1]), len(each[2])))]


def _set_processor(made: Any, processor: Any) -> None:
    if processor is not None:
        spec = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "post_processor": processor}
        made.post_processor = _library(json.dumps(spec)).post_processor


def _with_added(made: Any, text: str | None, files: Files) -> tuple[Json, tuple[str, ...]]:
    """The tokenizer `made` (of `text`, where it was read) with all tokens of `files`, and what was left out or has another id."""
    notes = []
    before = {token.content: (id, token.__getstate__()) for id, token in made.get_added_tokens_decoder().items()}
    size = made.get_vocab_size(with_added_tokens=True)
    for id, each in files.added.items():
        if id >= files.limit(size + len(files.added)):
            raise UserError(f"{files.folder}: its added token {each.content!r} has the id {id}, beyond its vocabulary of {size} tokens")
    tokens = [files.added[id] for id in sorted(files.added)]
    listed = {*before, *(each.content for each in tokens)}
    room = None if files.rows is None else files.rows - size
    names = sorted(files.named, key=lambda name: NAMES.index(name) if name in NAMES else len(NAMES))
    for name, each in (*((name, files.special(name)) for name in names), *((EXTRA[0], each) for each in files.extra)):
        if each is None or each.content in listed:
            continue
        if made.token_to_id(each.content) is None:
            if name in NEEDED and not room:
                raise UserError(
                    f"{files.folder}: its {name} {each.content!r} is not a single token of its vocabulary, and its model has no row for it"
                )
            if room is not None and room <= 0:
                notes.append(f"its {name} {each.content!r} is left out: the vocabulary lacks it, and the model has no row for it")
                continue
            room = None if room is None else room - 1
        listed.add(each.content)
        tokens.append(each)
    special = {str(each) for name, each in files.named.items() if each is not None}
    for each in tokens:
        each.special = each.special or each.content in special
    if all(before.get(each.content, (0, None))[1] == each.__getstate__() for each in tokens):
        return Json(text or made.to_str()), tuple(notes)
    made.add_tokens(tokens)
    for id, each in files.added.items():
        if (given := made.token_to_id(each.content)) != id:
            notes.append(f"its added token {each.content!r} has the id {given}, as in transformers, and not {id}, which its files name")
    return Json(made.to_str()), tuple(notes)


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
                found = others[0]
            elif others and found not in others:
                notes.append(f"its {name} is {backend.token(found)!r} (id {found}) by its tokenizer; {file} names the id {others[0]}")  # type: ignore[arg-type]
                break
            if others:
                break
        ids[name] = found
    return ids, notes


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
            raise UserError(f"{files.folder / file}: {key} is {str(id)[:40]}, which is no id of its vocabulary of {limit} tokens")
    return [id for id in ids if id not in (None, -1)]


def adds_bos(files: Files, backend: Backend, bos: int | None) -> tuple[bool, list[str]]:
    """Returns whether BOS belongs before a text, and what is to be said about it.

    A tokenizer.json decides it by itself, as in `transformers` 5, whatever add_bos_token says.
    """
    leads = bos is not None and backend.leading_id == bos
    flag, own = files.flag("add_bos_token", None), (files.folder / "tokenizer.json").is_file() and isinstance(backend, Json)
    if bos is not None and own and flag is not None and flag != leads:
        does = "puts" if leads else "puts no"
        return leads, [
            f"its tokenizer.json {does} BOS before a text, and as in transformers add_bos_token: {str(flag).lower()} has no effect"
        ]
    if bos is not None and not own and flag is None and not leads and files.kind == "LlamaTokenizer":
        return False, ["as in transformers 5, no BOS stands before a text, since its files don't say add_bos_token: true"]
    return leads if flag is None or own else flag and bos is not None, []
