"""Llama 3's tokenizer.model, a tiktoken rank file, converted to the `tokenizers` JSON that gives the same ids.

The file holds byte strings and their ranks, but neither the special tokens nor the pre-tokenizer, which are in the code that Meta
published with Llama 3. The special tokens have their names of Llama 3.1 and later; where Llama 3 has others for the same ids, these are
reserved and occur in no text.
"""

import base64
import binascii
import re

SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # Llama 3's
NAMED = {
    0: "begin_of_text",
    1: "end_of_text",
    4: "finetune_right_pad_id",
    6: "start_header_id",
    7: "end_header_id",
    8: "eom_id",
    9: "eot_id",
    10: "python_tag",
}
SPECIAL = 256  # ids of special tokens, after the ranks
ROLES = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>", "pad": "<|finetune_right_pad_id|>"}
ENDS = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")  # each of them ends an answer
_LLAMA_4 = 200_000  # ranks in its file; its pre-tokenizer is another one


def matches(content: bytes) -> bool:
    """Whether a file is a rank file, and not a SentencePiece model."""
    return re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content) is not None


def tokenizer_json(content: bytes) -> tuple[str, dict[str, int]]:
    """Returns the `tokenizers` JSON of a rank file and the ids of `bos`, `eos` and `pad`; a ValueError says what is wrong with the file."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    ranks = _ranks(content)
    if sum(len(token) ** 2 for token in ranks) > 1 << 28:
        raise ValueError("its tokens are longer than those of any tokenizer")
    letters = _letters()
    spelt = {token: token.decode("latin-1").translate(letters) for token in ranks}
    merges = [(spelt[left], spelt[right]) for left, right in _merges(ranks)]
    vocab = {text: ranks[token] for token, text in spelt.items()}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    cut = pre_tokenizers.Split(tokenizers.Regex(SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([tokenizers.AddedToken(token, special=True, normalized=False) for token in _special()])
    declared = {name: id for name, token in ROLES.items() if (id := tokenizer.token_to_id(token)) is not None}
    bos = ROLES["bos"]
    tokenizer.post_processor = processors.TemplateProcessing(f"{bos} $A", f"{bos} $A {bos} $B", [(bos, declared["bos"])])
    return tokenizer.to_str(), declared


def _ranks(content: bytes) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(content.splitlines()):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise ValueError(f"line {number + 1} is not a token and its rank") from None
    if len(ranks) == _LLAMA_4:
        raise ValueError("a rank file of Llama 4; only Llama 3's is supported")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError("its ranks have gaps: it was cut off")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"the byte {missing[0]} has no rank")
    return ranks


def _special() -> list[str]:
    unnamed = iter(range(SPECIAL))
    return [f"<|{NAMED[id]}|>" if id in NAMED else f"<|reserved_special_token_{next(unnamed)}|>" for id in range(SPECIAL)]


def _letters() -> dict[int, str]:
    """The letter of byte-level BPE for each byte: itself where it is a visible character, otherwise one from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(0x100, 0x200))
    return {byte: chr(byte if byte in visible else next(others)) for byte in range(256)}


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    # tiktoken merges any two neighbours whose union is a token, lowest rank first: each split of a token is a merge of its rank.
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(left, right) for left, right in cuts if left in ranks and right in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return merges
