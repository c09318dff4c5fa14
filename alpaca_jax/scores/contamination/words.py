"""The words that are compared."""

import re

from alpaca_jax.records import Record

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits of any script, in lower case: on ASCII the tokens of the package rouge_score."""
    return _WORD.findall(text.lower())


def asked(record: Record) -> str:
    """What the user says in a record; of a text for pre-training all of it."""
    if not record.instruction:
        return record.output
    return "\n".join([record.instruction, record.input, *(user for user, _ in record.turns)])
