"""The tokenizer of a folder, put together as the AutoTokenizer of `transformers` 5 does it.

The vocabulary is in tokenizer.json or tokenizer.model. Tokens that were added later, and the names of special ones, may be in
tokenizer_config.json, special_tokens_map.json and added_tokens.json too. A folder whose tokenizer_class is LlamaTokenizer has LLaMA's
own rules for spaces (`legacy`, `add_prefix_space`), whatever its tokenizer.json says.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from alpaca_jax import documents
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import tiktoken
from alpaca_jax.tokenizer.backends import CONTROL, SPACE, USER_DEFINED, Backend, Json, SentencePiece, sentencepiece_model, tokenizer_json
from alpaca_jax.tokenizer.settings import CONFIG, EXTRA, NAMES, NEEDED, Files, token, typed

CODE_LLAMA = "CodeLlamaTokenizer"
LLAMAS = ("LlamaTokenizer", CODE_LLAMA)
INFILLING = ("▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>", "<FILL_ME>")
LONGEST = 64  # characters that a normalizer may put into a text

T = TypeVar("T")


def read(folder: Path, files: Files) -> tuple[Backend, tuple[str, ...]]:
    """Returns the tokenizer of `folder` and what is to be said about it; a UserError where there is none or it can't be read."""
    for name, read_it in (("tokenizer.json", _from_json), ("tokenizer.model", _from_model)):
        file = folder / name
        if file.is_file():
            return _guard(file, partial(read_it, file, files))
    raise UserError(f"{folder} holds no tokenizer: tokenizer.json or tokenizer.model is needed")


def _from_json(file: Path, files: Files) -> tuple[Backend, tuple[str, ...]]:
    text, spec = _checked(file, files)
    files.add_all(spec.get("added_tokens") or [])
    model = file.with_name("tokenizer.model")
    if model.is_file() and files.kind not in LLAMAS and _says_the_same(text, spec, _converted(model)):
        return read_file(model), ()  # an export of ours
    if files.kind in LLAMAS and _is_llama(spec):
        made = _llama(spec["model"]["vocab"], _pairs(spec["model"].get("merges", [])), files)
        _set_processor(made, spec.get("post_processor"))
        files.extra += _infilling(files)
        return _with_added(made, None, files)
    return _with_added(_library(text), text, files)


def _from_model(file: Path, files: Files) -> tuple[Backend, tuple[str, ...]]:
    backend = read_file(file)
    if isinstance(backend, Json):  # Llama 3's rank file
        return backend, ()
    if files.kind in LLAMAS:
        return _with_added(_from_sentencepiece(documents.read(file), files), None, files)
    tokens = (*files.added.values(), *files.extra, *(each for each in files.named.values() if each is not None))
    if all(str(each) in backend.added for each in tokens):
        return backend, ()
    made, notes = _with_added(_library(tokenizer_json(documents.read(file))), None, files)
    made.declared = backend.declared
    return made, notes


def read_file(file: Path) -> Backend:
    """Returns the tokenizer in a file, without what other files say; a UserError where it can't be read."""
    if file.suffix == ".json":
        text, _ = _checked(file, Files.read(file.parent))
        return _guard(file, lambda: Json(text))
    content = documents.read(file)
    return _guard(file, lambda: Json(*tiktoken.tokenizer_json(content)) if tiktoken.matches(content) else SentencePiece(content))


def _guard(file: Path, make: Callable[[], T]) -> T:
    try:
        return make()
    except UserError as error:
        raise error if str(file.parent) in str(error) else UserError(f"{file}: {error}") from error
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


def _says_the_same(text: str, spec: Mapping[str, Any], converted: Any) -> bool:
    """Whether a tokenizer.json is that of `_converted`, in whichever version's spelling."""
    if converted is None or spec["model"].get("vocab") != converted["model"]["vocab"]:
        return False
    return spec == converted or json.loads(_library(text).to_str()) == converted


def _checked(file: Path, files: Files) -> tuple[str, dict[str, Any]]:
    """The text of a tokenizer.json and what it says, in which no id is out of all proportion and no two tokens have the same."""
    content = documents.read(file)
    spec = documents.json_object(content, str(file))
    model = typed(spec.get("model"), dict, file, "model")
    vocab = model.get("vocab")
    if isinstance(vocab, list):
        if not all(isinstance(each, list) and each and isinstance(each[0], str) for each in vocab):
            raise UserError(f"{file}: model.vocab lists something that is no pair of a text and its score; download it again")
        texts = [each[0] for each in vocab]
        ids: list[Any] = list(range(len(texts)))
    else:
        vocab = typed(vocab, dict, file, "model.vocab")
        texts, ids = list(vocab), list(vocab.values())
    added = typed(spec.get("added_tokens") or [], list, file, "added_tokens")
    for place, each in enumerate(added):
        token(each, file, f"added_tokens.{place}")
        ids.append(each.get("id"))
    limit = files.limit(len(texts) + len(added))
    for id in ids:
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < limit:
            raise UserError(f"{file}: a token has the id {str(id)[:40]!r}, where a number from 0 to {limit - 1} is due")
    for text in _inserted([spec.get("normalizer"), spec.get("pre_tokenizer")]):
        if len(text) > LONGEST:
            raise UserError(f"{file}: it would put a text of {len(text):,} characters into every text; don't trust it")
    if len(set(texts)) < len(texts) or len(set(ids[: len(texts)])) < len(texts):
        raise UserError(f"{file}: several tokens of model.vocab have the same text or id; download it again")
    return content.decode("utf-8-sig"), spec


def _inserted(part: Any) -> Iterator[str]:
    """The texts that normalizers and pre-tokenizers put into a text."""
    if isinstance(part, dict):
        yield from (value for key, value in part.items() if key in ("prepend", "content", "replacement") and isinstance(value, str))
        part = list(part.values())
    for each in part if isinstance(part, list) else ():
        yield from _inserted(each)


def _library(text: str) -> Any:
    import tokenizers

    return tokenizers.Tokenizer.from_str(text)


def _is_llama(spec: Mapping[str, Any]) -> bool:
    model = spec["model"]
    return (
        model.get("type", "BPE") == "BPE" and isinstance(model["vocab"], dict) and '"ByteLevel"' not in json.dumps({**spec, "model": None})
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
    scheme = ("always" if files.flag("legacy", False) and files.kind != CODE_LLAMA else "first") if spaced else "never"
    # Where each byte has a token, nothing is unknown; formats of others still want the token named.
    unknown = str(files.named["unk_token"] or "")
    named = {"unk_token": unknown} if unknown in vocab and all(f"<0x{byte:02X}>" in vocab for byte in range(256)) else {}
    made = tokenizers.Tokenizer(models.BPE(dict(vocab), merges, fuse_unk=True, byte_fallback=True, **named))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    strip = [decoders.Strip(" ", 1, 0)] if spaced else []
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return made


def _infilling(files: Files) -> list[Any]:
    """The tokens that Code Llama fills gaps with, which no file of it names."""
    return [token(text, files.folder / CONFIG, CODE_LLAMA) for text in INFILLING] if files.kind == CODE_LLAMA else []


def _from_sentencepiece(proto: bytes, files: Files) -> Any:
    from tokenizers import processors

    pieces = sentencepiece_model(proto).pieces
    vocab = {piece.piece: id for id, piece in enumerate(pieces)}
    made = _llama(vocab, _merges_by_id(vocab), files)
    if not any(files.config.get(name) for name in EXTRA):
        user = [piece for piece in pieces if piece.type in (CONTROL, USER_DEFINED)]
        flags = [{"content": piece.piece, "normalized": False, "special": piece.type == CONTROL} for piece in user]
        files.extra = [token(each, files.folder / "tokenizer.model", "a piece") for each in flags]
    files.extra += _infilling(files)
    before, after = (
        str(files.named[name])
        if files.flag(f"add_{name}", files.kind == CODE_LLAMA and name == "bos_token") and files.named.get(name)
        else ""
        for name in ("bos_token", "eos_token")
    )
    ends = [(text, vocab[text]) for text in dict.fromkeys((before, after)) if text in vocab]
    single = " ".join(text for text in (before, "$A", after) if text)
    made.post_processor = processors.TemplateProcessing(single, f"{single} {single.replace('$A', '$B')}", ends)
    return made


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
