"""The answers that a file of prompts holds beside them."""

from alpaca_jax.errors import UserError
from alpaca_jax.scores.answers.answer import Answer, AnswerSet
from alpaca_jax.scores.prompts import PromptSet

REFERENCE = "reference"  # their name


def reference(prompts: PromptSet) -> AnswerSet:
    """Returns those of Self-Instruct, AlpacaEval and records (`output`) or MT-bench (`reference`); a UserError where there are none."""
    found = {}
    for prompt in prompts:
        given = prompt.source.get("output") or prompt.source.get("reference")
        texts = [given] if isinstance(given, str) else given
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            found[prompt.id] = [Answer(texts[0], later=tuple(texts[1:]))]
    if not found:
        raise UserError(f"compare.against: {prompts.place} holds no reference answers; give the name of other answers")
    return AnswerSet.of(REFERENCE, prompts.place, prompts, found)
