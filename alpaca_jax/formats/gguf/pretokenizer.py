"""Pre-tokenizers of byte-level BPE: llama.cpp's names for them (`tokenizer.ggml.pre`), and those of a tokenizer.json."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from alpaca_jax.errors import UserError

# From their tokenizer.json: words with one leading symbol, numbers in threes (Llama 3) or digit by digit (Qwen 2), symbols, spaces.
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_SIGNS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = (_WORDS + numbers + _SIGNS for numbers in (r"\p{N}{1,3}", r"\p{N}"))


class Pre(NamedTuple):
    """A pre-tokenizer. Without a `pattern`, that of GPT-2, which is built into the `tokenizers` package."""

    pattern: str | None = None
    digits: bool = False  # first splits off every digit
    normalizer: str | None = None
    ignore_merges: bool = False  # a word that is a token stays whole, whatever the merges are
    adds_bos: bool = False  # the default where the header does not say


# An export has the first name that fits.
KNOWN = {
    "gpt-2": Pre(),
    "smollm": Pre(digits=True),
    "llama-bpe": Pre(_LLAMA3, ignore_merges=True, adds_bos=True),
    "dbrx": Pre(_LLAMA3),
    "qwen2": Pre(_QWEN2, normalizer="NFC"),
    "stablelm2": Pre(_QWEN2),
    # Other names.
    "smaug-bpe": Pre(_LLAMA3, ignore_merges=True),
    "llama3": Pre(_LLAMA3, ignore_merges=True, adds_bos=True),
    "llama-v3": Pre(_LLAMA3, ignore_merges=True, adds_bos=True),
    "deepseek-r1-qwen": Pre(_QWEN2, normalizer="NFC"),
    "starcoder": Pre(digits=True),
    "refact": Pre(digits=True),
}


def of_name(name: str) -> Pre:
    """Returns the pre-tokenizer of a `tokenizer.ggml.pre`; a UserError where it is not known."""
    if name not in KNOWN:
        raise UserError(f"its pre-tokenizer is {name!r}; the known ones are {', '.join(KNOWN)}")
    return KNOWN[name]


def name_of(spec: Mapping[str, Any]) -> str:
    """Returns llama.cpp's name for the pre-tokenizer of a tokenizer.json; a UserError where it has none."""
    wanted = Pre(*_pattern(spec), normalizer=_normalizer(spec), ignore_merges=bool(spec["model"].get("ignore_merges")))
    for name, pre in KNOWN.items():
        if pre._replace(adds_bos=False) == wanted:
            return name
    if all(pre.pattern != wanted.pattern for pre in KNOWN.values()):
        raise _unknown(f"the regular expression {wanted.pattern}")
    raise _unknown(f"the normalizer {wanted.normalizer} and ignore_merges {wanted.ignore_merges} with its regular expression")


def steps(spec: Mapping[str, Any], part: Literal["normalizer", "pre_tokenizer"]) -> list[dict[str, Any]]:
    """Returns the normalizers or pre-tokenizers of a tokenizer.json as a flat list."""
    return _flat(spec.get(part))


def build(pre: Pre) -> tuple[Any, Any]:
    """Returns the normalizer (or None) and the pre-tokenizer of the `tokenizers` package."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    parts: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if pre.digits else []
    if pre.pattern is not None:
        parts.append(pre_tokenizers.Split(Regex(pre.pattern), "isolated"))
    parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.pattern is None))
    return normalizers.NFC() if pre.normalizer == "NFC" else None, pre_tokenizers.Sequence(parts)


def _pattern(spec: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The regular expression, and whether digits are split off first."""
    *before, last = steps(spec, "pre_tokenizer") or [{"type": None}]
    if last["type"] != "ByteLevel":
        raise _unknown(f"the pre-tokenizer {last['type']}")
    if last.get("add_prefix_space"):
        raise _unknown("a space before the text")
    match before, bool(last.get("use_regex", True)):
        case [], True:
            return None, False
        case [{"type": "Digits", "individual_digits": True}], True:
            return None, True
        case [{"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", **rest}], False if not rest.get("invert"):
            return pattern, False
    raise _unknown(f"the pre-tokenizers {[step['type'] for step in before]}")


def _normalizer(spec: Mapping[str, Any]) -> str | None:
    normalizers = steps(spec, "normalizer")
    if len(normalizers) > 1:
        raise _unknown(f"the normalizers {[step['type'] for step in normalizers]}")
    return normalizers[0]["type"] if normalizers else None


def _flat(part: Any) -> list[dict[str, Any]]:
    if not part:
        return []
    inner = part.get("normalizers", part.get("pretokenizers", []))
    return [step for each in inner for step in _flat(each)] if part["type"] == "Sequence" else [part]


def _unknown(what: str) -> UserError:
    return UserError(f"llama.cpp doesn't support this tokenizer: it has {what}; give a Hugging Face target instead")
