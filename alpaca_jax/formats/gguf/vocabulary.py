"""Writes the tokenizer to a GGUF header: every token with its type, and what llama.cpp needs to split text in the same way."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.formats.gguf import pretokenizer as gguf_pretokenizer
from alpaca_jax.formats.gguf import tokenizer as gguf_tokenizer
from alpaca_jax.formats.gguf.tokenizer import ENDS, PREFIX
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import BYTE, CONTROL, NORMAL, SPACE, UNKNOWN, UNUSED, USER_DEFINED, Json, sentencepiece_model

# Texts in which tokenizers differ: case, contractions, numbers, runs of spaces and newlines, symbols, scripts, bytes without a token.
PROBES = (
    "The 3 quick foxes jumped over 12 lazy dogs 1969 times, 3.14159 or 1234567 in all. I'VE said it'll do; they're SURE it's Bob's.",
    "def f(x):\n    return {\"a\": [1, 2], 'b': x**2}  # done!\r\n\r\n\n\n\tEND\t \n   <<== ++ && || ...?!  ",
    "  naïve café, Übermut tut gut; Ελληνικά, нещо на български, हिन्दी, 日本語 と 北京, 한국어. 🙂👩‍🚀 ² ٣ ① º\u00a0x\u3000y",
)
_REMEDY = "give a Hugging Face target instead"
_LAST = -1e9  # the score of a token that no merge produces


def keys(tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> dict[str, Any]:
    """Returns the keys of a header for `tokenizer`, with a token for each of the `vocab_size` rows.

    The tokenizer is built again from the keys and must give the same ids; a UserError where GGUF can't express it.
    """
    files = tokenizer.backend.files()
    if "tokenizer.model" in files:
        fields = _sentencepiece(files["tokenizer.model"])
    else:
        fields = _json(json.loads(files["tokenizer.json"]))
    _pad(fields, vocab_size)
    fields = {PREFIX + key: value for key, value in {**fields, **_special(tokenizer, eos_ids)}.items()}
    if tokenizer.chat_template:
        fields["tokenizer.chat_template"] = tokenizer.chat_template
    _check_same(tokenizer, gguf_tokenizer.build(fields))
    return fields


def _special(tokenizer: Tokenizer, eos_ids: Sequence[int]) -> dict[str, Any]:
    others = [id for id in dict.fromkeys(eos_ids) if id != tokenizer.eos_id]
    others.sort(key=lambda id: tokenizer.backend.token(id) == "<|eom_id|>")  # ends a message that calls a tool
    ids = dict(zip(ENDS, (tokenizer.eos_id, *others), strict=False))  # llama.cpp recognises further ones by their text
    if tokenizer.bos_id is not None:
        ids["bos"] = tokenizer.bos_id
    if tokenizer.pad_id != tokenizer.eos_id:
        ids["padding"] = tokenizer.pad_id
    return {**{f"{name}_token_id": int(id) for name, id in ids.items()}, "add_bos_token": tokenizer.adds_bos, "add_eos_token": False}


def _json(spec: Mapping[str, Any]) -> dict[str, Any]:
    model = spec["model"]
    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise UserError(f"GGUF supports only byte-level BPE and SentencePiece tokenizers, and this one is {model.get('type')}; {_REMEDY}")
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    tokens = {id: token for token, id in model["vocab"].items()}
    types = {id: _type(token, model) for id, token in tokens.items()}
    for added in spec.get("added_tokens", []):
        tokens[added["id"]] = added["content"]
        if types.get(added["id"]) != UNKNOWN:
            types[added["id"]] = CONTROL if added["special"] else USER_DEFINED
    size = 1 + max(tokens)
    fields = {"tokens": [tokens.get(id) for id in range(size)], "token_type": [types.get(id, UNUSED) for id in range(size)]}
    if model.get("unk_token") is not None:
        fields["unknown_token_id"] = model["vocab"][model["unk_token"]]
    if model.get("byte_fallback"):
        return {**fields, **_scores(spec, fields, merges)}
    pre = gguf_pretokenizer.name_of(spec)
    return {"model": "gpt2", "pre": pre, **fields, "merges": [" ".join(merge) for merge in merges]}


def _type(token: str, model: Mapping[str, Any]) -> int:
    if not model.get("byte_fallback"):
        return NORMAL
    if token == model.get("unk_token"):
        return UNKNOWN
    return BYTE if re.fullmatch("<0x[0-9A-F]{2}>", token) else NORMAL


def _scores(spec: Mapping[str, Any], fields: Mapping[str, Any], merges: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """The keys of a SentencePiece model: the earlier the merge that produces a token, the better its score."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    scores = [
        0.0 if token is None or type != NORMAL or len(token) == 1 else float(-ranks[token]) if token in ranks else _LAST
        for token, type in zip(fields["tokens"], fields["token_type"], strict=True)
    ]
    return {"model": "llama", "pre": "default", "scores": scores, "add_space_prefix": _prefixes(spec)}


def _prefixes(spec: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json of a SentencePiece model puts a space before a text."""
    steps = [*gguf_pretokenizer.steps(spec, "normalizer"), *gguf_pretokenizer.steps(spec, "pre_tokenizer")]
    kinds = {step["type"]: step for step in steps}
    spaces = kinds.get("Metaspace", {}).get("replacement") == SPACE or kinds.get("Replace", {}).get("content") == SPACE
    if not spaces or set(kinds) - {"Metaspace", "Prepend", "Replace"}:
        raise UserError(f"its tokenizer.json is not that of a SentencePiece model: it has {', '.join(kinds) or 'no normalizer'}; {_REMEDY}")
    scheme = kinds.get("Metaspace", {}).get("prepend_scheme", "always" if "Metaspace" in kinds else "never")
    return "Prepend" in kinds or scheme != "never"


def _sentencepiece(proto: bytes) -> dict[str, Any]:
    model = sentencepiece_model(proto)
    normalizer = model.normalizer_spec
    if model.trainer_spec.model_type != model.trainer_spec.BPE or normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        raise UserError(f"llama.cpp supports only SentencePiece models that are BPE and don't normalise text; {_REMEDY}")
    return {
        "model": "llama",
        "pre": "default",
        "tokens": [piece.piece for piece in model.pieces],
        "scores": [float(piece.score) for piece in model.pieces],
        "token_type": [int(piece.type) for piece in model.pieces],
        "unknown_token_id": next(id for id, piece in enumerate(model.pieces) if piece.type == UNKNOWN),
        "add_space_prefix": normalizer.add_dummy_prefix,
    }


def _pad(fields: dict[str, Any], vocab_size: int) -> None:
    """Gives each row without a token its name in llama.cpp."""
    more = vocab_size - len(fields["tokens"])
    if more < 0:
        raise UserError(f"the tokenizer has {len(fields['tokens'])} tokens, the model {vocab_size} rows for them; {_REMEDY}")
    rows = enumerate([*fields["tokens"], *[None] * more])
    fields["tokens"] = [gguf_tokenizer.padding(id) if token is None else token for id, token in rows]
    fields["token_type"] = [*fields["token_type"], *[UNUSED] * more]
    if "scores" in fields:
        fields["scores"] = [*fields["scores"], *[_LAST] * more]
    if len(set(fields["tokens"])) < vocab_size:  # llama.cpp fails with an assertion on them
        twice = next(token for token in fields["tokens"] if fields["tokens"].count(token) > 1)
        raise UserError(f"two tokens of its vocabulary are both called {twice!r}, which llama.cpp does not allow; {_REMEDY}")


def _check_same(own: Tokenizer, built: Tokenizer) -> None:
    bytewise = isinstance(built.backend, Json)
    # The LlamaTokenizer of transformers puts no space before a text that begins with one; llama.cpp always does, and knows no other way.
    spaced = not bytewise and isinstance(own.backend, Json) and "Metaspace" in str(own.backend.spec.get("pre_tokenizer"))
    # Implementations of SentencePiece differ in whether a text starts anew after a special token: there, nothing is put between them.
    between = PROBES[0] if bytewise else ""
    for text in (*PROBES, "".join(token + between for token in own.backend.specials)):
        for start in (True,) if bytewise else (True, False):
            ours, theirs = (each.encode(text.lstrip(" ") if spaced else text, start, special=True) for each in (own, built))
            if ours != theirs:
                raise UserError(f"in GGUF its tokenizer would give other ids, for example for {text[:40]!r}; {_REMEDY}")
