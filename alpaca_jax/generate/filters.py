"""Filters that drop tasks: each returns the name under which the manifest counts the drop, or None."""

import itertools
import re
import zlib

from alpaca_jax.generate.config import Filters

LONGEST_WORD = 100  # characters of a word on average, in an instruction that isn't too long
_CANNOT = r"i (?:can't|cannot|am unable to|am not able to|won't|will not|do not|don't) (?:\w+ )?"
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\Ai(?:'m| am) (?:very |so |really )?sorry,? but (?:i|as|this|that|it)\b"
    rf"|\b{_CANNOT}(?:help(?! but)|assist|provide|fulfill?|comply|answer|access|browse|have the ability|have access)\b"
    r"|\A(?:i'm|i am|unfortunately, i'm|unfortunately, i am) (?:unable|not able) to\b"
    # It asks for something it was not given.
    r"|\A(?:sure[,!.] |of course[,!.] )?(?:(?:could|can) you (?:please )?|please )(?:provide|share|paste|give)\b",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"<\|[\w ]{1,30}\|>|</?s>|\[/?INST\]|###\s*(?:Instruction|Response)\s*:", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\[(?:insert|your|enter|add|paste|name|topic|text|specific)\b", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]")


def instruction_problem(text: str, filters: Filters) -> str | None:
    """Why this instruction is unfit by Alpaca's rules, or None."""
    words = text.split()
    if len(words) < filters.min_words:
        return "short_instruction"
    if len(words) > filters.max_words or len(text) > LONGEST_WORD * filters.max_words:
        return "long_instruction"
    if any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in filters.blocklist):
        return "not_text"
    if filters.plain_start and not re.match(r"[A-Za-z0-9\"']", text):
        return "odd_start"
    if filters.plain_start and text.lower().startswith("write a program"):
        return "write_a_program"
    if filters.broken and (_CONTROL.search(text) or _TEMPLATE.search(text) or has_placeholder(text)):
        return "broken_instruction"
    return None


def answer_problem(output: str, cut: bool, filters: Filters) -> str | None:
    """Why this answer is unfit, or None."""
    if cut and filters.cut:
        return "cut"
    if not re.search(r"\w", output):
        return "empty"
    if filters.refusals and is_refusal(output):
        return "refusal"
    if filters.broken and is_broken(output):
        return "broken"
    return None


def is_refusal(output: str) -> bool:
    """Whether the answer begins by declining, or by asking for something it was not given."""
    return _REFUSAL.search(output.replace("\u2019", "'")[:200]) is not None


def has_placeholder(text: str) -> bool:
    """Whether the text has a part in square brackets such as [insert a name], or one in double braces."""
    if (found := _PLACEHOLDER.search(text)) and "]" in text[found.end() :]:
        return True
    parts = text.split("}")  # two braces in a row leave nothing between them
    return any("{{" in part and not after for part, after in itertools.pairwise(parts[:-1]))


def is_broken(output: str) -> bool:
    """Whether the text contains undecodable bytes, control characters, template fragments or an unclosed code fence, or repeats itself."""
    if _CONTROL.search(output) or _TEMPLATE.search(output) or output.count("```") % 2:
        return True
    return is_loop(output)


def is_loop(output: str) -> bool:
    """Whether the text repeats itself: over three tenths of its word trigrams repeat earlier ones, or it compresses more than fourfold.

    A share of 0.7 distinct trigrams separates SmolLM2-135M's answers cleanly (loops are below 0.66, all others above 0.8) and drops
    0.2% of Alpaca's records.
    """
    words = re.findall(r"\w+", output.lower())
    runs = list(zip(words, words[1:], words[2:], strict=False))
    if len(runs) >= 10 and len(set(runs)) < 0.7 * len(runs):
        return True
    content = output.encode()
    return len(content) > 200 and len(content) > 4 * len(zlib.compress(content, 9))  # also catches text without words
