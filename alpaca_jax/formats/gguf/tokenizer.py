"""Reads the tokenizer of a GGUF header: byte-level BPE as in GPT-2, or SentencePiece as in LLaMA 1 and 2."""

from collections.abc import Mapping
from typing import Any

from alpaca_jax.errors import UserError
from alpaca_jax.formats.gguf import pretokenizer as gguf_pretokenizer
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Backend, Json, SentencePiece, sentencepiece_model

PREFIX = "tokenizer.ggml."
ENDS = ("eos", "eot", "eom")  # the tokens that end an answer, in llama.cpp's words


def check(header: Mapping[str, Any], vocab_size: int) -> None:
    """Raises a UserError where a key of the tokenizer has another type, more tokens than the model's `vocab_size`, or an id beyond them."""
    tokens = header[PREFIX + "tokens"]
    for name, kind in (("tokens", str), ("merges", str), ("token_type", int), ("scores", float)):
        values = header.get(PREFIX + name, [])
        if not isinstance(values, list) or not all(isinstance(value, kind) for value in values):
            raise UserError(f"{PREFIX}{name} is no list of {'texts' if kind is str else 'numbers'}; download it again")
        if name in ("token_type", "scores") and values and len(values) != len(tokens):
            raise UserError(f"{PREFIX}{name} has {len(values):,} values for {len(tokens):,} tokens; download it again")
    if len(tokens) > vocab_size:
        raise UserError(f"the tokenizer has {len(tokens):,} tokens, the model {vocab_size:,} rows for them; download it again")
    for name in ("bos", "padding", "unknown", "separator", *ENDS):
        key = f"{PREFIX}{name}_token_id"
        id = header.get(key, 0)
        if not isinstance(id, int) or isinstance(id, bool) or not 0 <= id < len(tokens):
            raise UserError(f"{key} is {str(id)[:80]}, and should be one of the {len(tokens):,} tokens; download it again")
    for key in (PREFIX + "model", PREFIX + "pre", "tokenizer.chat_template"):
        if not isinstance(header.get(key, ""), str):
            raise UserError(f"{key} is {str(header[key])[:80]}, and should be a text; download it again")


def build(header: Mapping[str, Any]) -> Tokenizer:
    """Returns the tokenizer of a GGUF header; a KeyError where a key is missing, a UserError where its kind is not supported."""
    model = header[PREFIX + "model"]
    if model not in ("gpt2", "llama"):
        raise UserError(f"its tokenizer is of the kind {model!r}; only gpt2 and llama are supported")
    backend: Backend = Json(_bpe(header)) if model == "gpt2" else SentencePiece(_sentencepiece(header))
    eos = int(header[PREFIX + "eos_token_id"])
    bos = header.get(PREFIX + "bos_token_id")
    usual = model == "llama" or gguf_pretokenizer.of_name(header[PREFIX + "pre"]).adds_bos
    return Tokenizer(
        backend=backend,
        bos_id=None if bos is None else int(bos),
        eos_id=eos,
        pad_id=int(header.get(PREFIX + "padding_token_id", eos)),
        adds_bos=bool(header.get(PREFIX + "add_bos_token", usual)) and bos is not None,
        chat_template=header.get("tokenizer.chat_template"),
    )


def eos_ids(header: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[int, ...]:
    """Returns the ids that end an answer, the tokenizer's own EOS first."""
    named = (header.get(f"{PREFIX}{name}_token_id") for name in ENDS)
    return tuple(dict.fromkeys((tokenizer.eos_id, *(int(id) for id in named if id is not None))))


def padding(id: int) -> str:
    """Returns the name of a row of the vocabulary without a token."""
    return f"[PAD{id}]"


def _bpe(header: Mapping[str, Any]) -> str:
    import tokenizers
    from tokenizers import decoders, models

    pre = gguf_pretokenizer.of_name(header[PREFIX + "pre"])
    rows = list(enumerate(zip(header[PREFIX + "tokens"], header[PREFIX + "token_type"], strict=True)))
    vocab = {token: id for id, (token, type) in rows if not (type == UNUSED and token == padding(id))}
    merges = [tuple(merge.split(" ")) for merge in header.get(PREFIX + "merges", ())]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=pre.ignore_merges))
    normalizer, tokenizer.pre_tokenizer = gguf_pretokenizer.build(pre)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    # One call for all: every call goes through the tokens that were added before.
    special = [tokenizers.AddedToken(token, special=True, normalized=False) for _, (token, type) in rows if type == CONTROL]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([tokenizers.AddedToken(token, normalized=False) for _, (token, type) in rows if type == USER_DEFINED])
    return tokenizer.to_str()


def _sentencepiece(header: Mapping[str, Any]) -> bytes:
    model = sentencepiece_model()
    rows = list(zip(*(header[PREFIX + name] for name in ("tokens", "scores", "token_type")), strict=True))
    while rows and rows[-1][0] == padding(len(rows) - 1) and rows[-1][2] == UNUSED:
        rows.pop()
    for token, score, type in rows:
        model.pieces.add(piece=token, score=score, type=type)
    unknown = next((id for id, piece in enumerate(model.pieces) if piece.type == UNKNOWN), None)
    if unknown is None:
        raise UserError("its SentencePiece vocabulary has no unknown token; download it again, or give another model.source")
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = unknown
    model.trainer_spec.unk_piece = model.pieces[unknown].piece
    for name in ("bos", "eos", "pad"):
        id = int(header.get(f"{PREFIX}{'padding' if name == 'pad' else name}_token_id", -1))
        setattr(model.trainer_spec, f"{name}_id", id)
        if id >= 0:
            setattr(model.trainer_spec, f"{name}_piece", model.pieces[id].piece)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = header.get(PREFIX + "add_space_prefix", True)
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()
