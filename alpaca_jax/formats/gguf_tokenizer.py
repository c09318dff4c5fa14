"""The tokenizer in a GGUF header: gpt2-style BPE, or SentencePiece as LLaMA 1 and 2 have it."""

from collections.abc import Mapping
from typing import Any

from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.data.tokenizer_backends import CONTROL, UNKNOWN, USER_DEFINED, Backend, Json, SentencePiece
from alpaca_jax.errors import UserError

# How `tokenizer.ggml.pre` cuts a text before BPE: does it cut each digit off?
SPLITS_DIGITS = {"smollm": True, "gpt-2": False}


def build(header: Mapping[str, Any]) -> Tokenizer:
    """Returns the tokenizer a GGUF header describes; KeyError where a key is lacking, UserError where its kind is not known."""
    model = header["tokenizer.ggml.model"]
    if model not in ("gpt2", "llama"):
        raise UserError(f"its tokenizer is of the kind {model!r}; gpt2 and llama are read")
    backend: Backend = Json(_bpe(header)) if model == "gpt2" else SentencePiece(_sentencepiece(header))
    eos = int(header["tokenizer.ggml.eos_token_id"])
    bos = header.get("tokenizer.ggml.bos_token_id")
    adds_bos = header.get("tokenizer.ggml.add_bos_token", model == "llama")
    return Tokenizer(
        backend=backend,
        bos_id=None if bos is None else int(bos),
        eos_id=eos,
        pad_id=int(header.get("tokenizer.ggml.padding_token_id", eos)),
        adds_bos=bool(adds_bos) and bos is not None,
        chat_template=header.get("tokenizer.chat_template"),
    )


def _bpe(header: Mapping[str, Any]) -> str:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    kind = header["tokenizer.ggml.pre"]
    if kind not in SPLITS_DIGITS:
        raise UserError(f"its tokenizer cuts text as {kind!r}; known are {', '.join(SPLITS_DIGITS)}")
    tokens, types = header["tokenizer.ggml.tokens"], header["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in header["tokenizer.ggml.merges"]]
    made = tokenizers.Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    digits = [pre_tokenizers.Digits(individual_digits=True)] if SPLITS_DIGITS[kind] else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    for token, type in zip(tokens, types, strict=True):
        if type == CONTROL:
            made.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False)])
        elif type == USER_DEFINED:
            made.add_tokens([tokenizers.AddedToken(token, normalized=False)])
    return made.to_str()


def _sentencepiece(header: Mapping[str, Any]) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    columns = (header[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type"))
    for token, score, type in zip(*columns, strict=True):
        model.pieces.add(piece=token, score=score, type=type)
    unknown = next(id for id, piece in enumerate(model.pieces) if piece.type == UNKNOWN)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.unk_id = unknown
    model.trainer_spec.unk_piece = model.pieces[unknown].piece
    for name in ("bos", "eos", "pad"):
        id = int(header.get(f"tokenizer.ggml.{'padding' if name == 'pad' else name}_token_id", -1))
        setattr(model.trainer_spec, f"{name}_id", id)
        if id >= 0:
            setattr(model.trainer_spec, f"{name}_piece", model.pieces[id].piece)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = header.get("tokenizer.ggml.add_space_prefix", True)
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()
