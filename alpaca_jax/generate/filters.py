"""Why a task is dropped: each test returns the name under which the manifest counts it."""

import re
import zlib

from alpaca_jax.generate.config import Filters

_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:just |only )?an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    r"|\bi(?:'m| am) (?:very |so |really )?sorry\b"
    r"|\bi (?:can(?:'t|not)|am unable to|am not able to|won't|will not|do not have the ability to|don't have the ability to)"
    r" (?:\w+ )?(?:help|assist|provide|fulfil|fulfill|comply|answer|create|generate|write|access|browse|do that|offer|discuss)\b"
    r"|\bi(?:'m| am) (?:unable|not able) to\b"
    r"|\b(?:could|can) you (?:please )?(?:provide|share|give)\b"
    r"|\bplease (?:provide|share|paste) (?:me |us )?(?:with )?(?:the|your|more|some)\b",
    re.IGNORECASE,
)
_TEMPLATE = re.compile(r"<\|[\w ]{1,30}\|>|</?s>|\[/?INST\]|###\s*(?:Instruction|Response)\s*:", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\[(?:insert|your|enter|add|paste|name|topic|text|specific)\b[^\]]*\]|\{\{[^}]*\}\}", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]")


def instruction_problem(text: str, filters: Filters) -> str | None:
    """Why this instruction is unfit, as Alpaca judged it, or None."""
    words = text.split()
    if len(words) < filters.min_words:
        return "short_instruction"
    if len(words) > filters.max_words:
        return "long_instruction"
    if any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in filters.blocklist):
        return "not_text"
    if filters.plain_start and not re.match(r"[A-Za-z0-9\"']", text):
        return "odd_start"
    if filters.plain_start and text.lower().startswith("write a program"):
        return "write_a_program"
    if filters.broken and (_CONTROL.search(text) or _TEMPLATE.search(text) or _PLACEHOLDER.search(text)):
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
    """Whether the answer begins by declining, or by asking for what it was not given."""
    return _REFUSAL.search(output.replace("\u2019", "'")[:200]) is not None


def is_broken(output: str) -> bool:
    """Whether the text holds undecodable bytes, control characters, pieces of a template, an open code fence, or goes round in circles."""
    if _CONTROL.search(output) or _TEMPLATE.search(output) or output.count("```") % 2:
        return True
    return is_loop(output)


def is_loop(output: str) -> bool:
    """Whether the text repeats itself: it shrinks more than fourfold, or one line of some length stands there three times."""
    lines = [line.strip() for line in output.splitlines() if len(line.strip()) > 20]
    if any(lines.count(line) > 2 for line in set(lines)):
        return True
    content = output.encode()
    return len(content) > 200 and len(content) > 4 * len(zlib.compress(content, 9))
