"""The two kinds of tokenizer behind `Tokenizer`: a `tokenizers` JSON and a SentencePiece model."""

import functools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from alpaca_jax.errors import UserError

WHITE = (
    "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)  # for tokens that strip it
SPACE = "\u2581"  # how SentencePiece writes a space
CUTS = 1 << 28  # the squares of all lengths of tokens, which bound the time to find their merges
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # piece types of sentencepiece_model.proto


class Backend(Protocol):
    """Text to ids and back, without BOS, EOS or chat templates."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""

    @property
    def specials(self) -> dict[str, int]:
        """The special tokens by their text."""

    @property
    def added(self) -> dict[str, int]:
        """The tokens that are found in a text before it is cut, special or not, by their text."""

    @property
    def leading_id(self) -> int | None:
        """The id that its own file puts before a text, if any."""

    @property
    def declared(self) -> dict[str, int]:
        """The ids of `bos`, `eos` and `pad` in its own file; a JSON has none."""

    def encode(self, texts: Sequence[str], start: bool, special: bool, after: str | None = None) -> list[list[int]]: ...

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        """The ids of a text, special tokens as such, and the (start, end) of the tokens in each of the spans of characters."""

    def takes_space(self, token: str) -> bool:
        """Whether this token takes the white space before it along."""

    def decode(self, ids: Sequence[int], skip_special: bool) -> str: ...

    def token(self, id: int) -> str: ...

    def files(self) -> dict[str, bytes]:
        """The files, by name, that load it again, here and in `transformers`."""


class Json:
    """A tokenizer.json of the `tokenizers` package, possibly converted from another file, which `declared` ids."""

    def __init__(self, text: str, declared: Mapping[str, int] = MappingProxyType({})) -> None:
        self._text = text
        self.declared = dict(declared)
        self._variant = functools.cache(self._make)  # by start and special: at most four
        self._main = self._variant(True, True)
        added = self._main.get_added_tokens_decoder()
        self._tokens = {token.content: token for token in added.values()}
        self.added = {token.content: id for id, token in added.items()}
        self.specials = {token.content: id for id, token in added.items() if token.special}
        self.leading_id: int | None = next(iter(self._main.encode("").ids), None)
        self.vocab_size = 1 + max([*self._main.get_vocab(with_added_tokens=True).values(), *added])

    @property
    def spec(self) -> dict[str, Any]:
        """What its tokenizer.json says."""
        return json.loads(self._text)

    def _make(self, start: bool, special: bool) -> Any:
        import tokenizers

        text = self._text
        if not start:
            spec = self.spec
            spec["normalizer"] = _without_prefix(spec.get("normalizer"))
            spec["pre_tokenizer"] = _without_prefix(spec.get("pre_tokenizer"))
            text = json.dumps(spec)
        tokenizer = tokenizers.Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = not special  # True: the text of a special token is text like any other
        return tokenizer

    @functools.cached_property
    def _restarts(self) -> bool:
        """Whether the text behind a special token begins as a whole text does."""
        return '"prepend_scheme": "first"' not in json.dumps(self.spec.get("pre_tokenizer"))

    def encode(self, texts: Sequence[str], start: bool, special: bool, after: str | None = None) -> list[list[int]]:
        if after is not None and special and not self._tokens[after].single_word:
            return [ids[1:] for ids in self.encode([after + text for text in texts], True, True)]
        if after is not None:
            start = self._restarts
            texts = [text.lstrip(WHITE) for text in texts] if self._tokens[after].rstrip else texts
        variant = self._variant(start, special)
        if len(texts) == 1:  # a batch would start threads
            return [variant.encode(texts[0], add_special_tokens=False).ids]
        return [encoding.ids for encoding in variant.encode_batch_fast(texts, add_special_tokens=False)]

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._main.encode(text, add_special_tokens=False)
        found = []
        for start, end in spans:
            first, last = (encoding.char_to_token(place) if start < end else None for place in (start, end - 1))
            if first is not None:
                found.append((first, len(encoding.ids) if last is None else last + 1))
        return encoding.ids, found

    def takes_space(self, token: str) -> bool:
        return token in self._tokens and self._tokens[token].lstrip

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        return self._main.decode(list(ids), skip_special_tokens=skip_special)

    def token(self, id: int) -> str:
        return self._main.id_to_token(id)

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.json": self._text.encode()}


class SentencePiece:
    """A SentencePiece model, as in LLaMA 1 and 2."""

    def __init__(self, proto: bytes) -> None:
        import sentencepiece

        self._proto = proto
        model = sentencepiece_model(proto)
        model.normalizer_spec.add_dummy_prefix = False
        self._start = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self._continue = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        self.vocab_size = len(model.pieces)
        self.specials = {piece.piece: id for id, piece in enumerate(model.pieces) if piece.type in (CONTROL, UNKNOWN)}
        self.added = self.specials | {piece.piece: id for id, piece in enumerate(model.pieces) if piece.type == USER_DEFINED}
        ids = {"bos": self._start.bos_id(), "eos": self._start.eos_id(), "pad": self._start.pad_id()}
        self.declared = {name: id for name, id in ids.items() if id >= 0}
        self.leading_id = self.declared.get("bos")

    def encode(self, texts: Sequence[str], start: bool, special: bool, after: str | None = None) -> list[list[int]]:
        start = start or after is not None  # the text behind a special token begins with the dummy prefix
        if special:
            return [self._encode_special(text, start) for text in texts]
        return (self._start if start else self._continue).encode(list(texts))

    def encode_spans(self, text: str, spans: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
        return self._json.encode_spans(text, spans)

    @functools.cached_property
    def _json(self) -> Json:
        return Json(tokenizer_json(self._proto))  # gives the same ids, and knows the place of each in the text

    def takes_space(self, token: str) -> bool:
        return False

    def _encode_special(self, text: str, start: bool) -> list[int]:
        ids: list[int] = []
        for index, part in enumerate(re.split("(" + "|".join(map(re.escape, self.specials)) + ")", text)):
            if part in self.specials:
                ids.append(self.specials[part])
            elif part:
                # After a special token the text starts again with the dummy prefix, as in LLaMA's published tokenizer.json.
                ids += (self._start if start or index else self._continue).encode(part)
        return ids

    def decode(self, ids: Sequence[int], skip_special: bool) -> str:
        ids = [id for id in ids if id < self.vocab_size]  # a model may have more rows, which have no text
        if skip_special:
            return self._start.decode([id for id in ids if id not in self.specials.values()])
        parts: list[list[int] | str] = [[]]
        for id in ids:
            if id in self.specials.values():
                parts += [self.token(id), []]
            else:
                parts[-1].append(id)  # type: ignore[union-attr]
        return "".join(part if isinstance(part, str) else self._start.decode(part) for part in parts)

    def token(self, id: int) -> str:
        return self._start.id_to_piece(id)

    def files(self) -> dict[str, bytes]:
        return {"tokenizer.model": self._proto, "tokenizer.json": tokenizer_json(self._proto).encode()}


def sentencepiece_model(proto: bytes = b"") -> Any:
    """Returns the ModelProto of a tokenizer.model; a UserError where its pieces can't be those of a tokenizer."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(proto)  # type: ignore[attr-defined]
    if any(not piece.piece or not isinstance(piece.piece, str) for piece in model.pieces):
        raise UserError("one of its pieces has no text, or is not UTF-8; download it again")
    if sum(len(piece.piece) ** 2 for piece in model.pieces) > CUTS:
        raise UserError("its pieces are longer than those of any tokenizer; download it again")
    return model


def tokenizer_json(proto: bytes) -> str:
    """Returns the `tokenizers` JSON that gives the same ids as a SentencePiece BPE model; a UserError where there is none."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, processors

    model = sentencepiece_model(proto)
    normalizer = model.normalizer_spec
    if model.trainer_spec.model_type != model.trainer_spec.BPE or normalizer.precompiled_charsmap or normalizer.remove_extra_whitespaces:
        raise UserError(
            "this SentencePiece model can't become a tokenizer.json: only BPE models that don't normalise text can (such as LLaMA's)"
        )
    unknown = next((piece.piece for piece in model.pieces if piece.type == UNKNOWN), None)
    if unknown is None:
        raise UserError("its SentencePiece vocabulary has no unknown token; download it again")
    vocab = {piece.piece: id for id, piece in enumerate(model.pieces)}
    bpe = models.BPE(vocab, _merges(model.pieces), unk_token=unknown, fuse_unk=True, byte_fallback=model.trainer_spec.byte_fallback)
    tokenizer = tokenizers.Tokenizer(bpe)
    prefix = [normalizers.Prepend(SPACE)] if normalizer.add_dummy_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    special = [piece.piece for piece in model.pieces if piece.type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in special])
    bos = model.trainer_spec.bos_piece
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", [(bos, vocab[bos])])
    return tokenizer.to_str()


def _merges(pieces: Iterable[Any]) -> list[tuple[str, str]]:
    # SentencePiece merges the pair whose union scores best, so merges are ranked by the score of their result, not by its id.
    normal = {piece.piece: (-piece.score, id) for id, piece in enumerate(pieces) if piece.type in (NORMAL, USER_DEFINED)}
    pairs = ((text[:cut], text[cut:]) for text in normal for cut in range(1, len(text)))
    known = [(left, right) for left, right in pairs if left in normal and right in normal]
    return sorted(known, key=lambda pair: (*normal[pair[0] + pair[1]], normal[pair[0]][1], normal[pair[1]][1]))


def _without_prefix(part: Any) -> Any:
    """A normalizer or pre-tokenizer of a tokenizer.json without the space that it puts before a text."""
    if not isinstance(part, dict):
        return part
    if part["type"] == "Prepend":
        return None
    if part["type"] == "Metaspace":
        return {key: value for key, value in part.items() if key != "add_prefix_space"} | {"prepend_scheme": "never"}
    if part["type"] == "ByteLevel":
        return part | {"add_prefix_space": False}
    for inner in ("normalizers", "pretokenizers"):
        if inner in part:
            part = part | {inner: [kept for each in part[inner] if (kept := _without_prefix(each)) is not None]}
    return part
