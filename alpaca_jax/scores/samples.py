"""What a model answers to fixed prompts, greedily, so that two models can be read side by side."""

from collections.abc import Sequence

from alpaca_jax.data.example import prompt_ids
from alpaca_jax.data.template import Template
from alpaca_jax.decode.batch import Batch
from alpaca_jax.errors import UserError
from alpaca_jax.tokenizer import Tokenizer


def answers(
    batch: Batch, tokenizer: Tokenizer, template: Template, prompts: Sequence[str], max_tokens: int, stop_ids: Sequence[int]
) -> list[str]:
    """Returns one greedy answer a prompt, of at most `max_tokens` tokens; the prompts are tokenized as training tokenizes them."""
    room = batch.max_length - max_tokens
    if room < 1:
        raise UserError(
            f"samples.max_tokens={max_tokens} leaves no room for a prompt in the model's {batch.max_length} positions: give less"
        )
    ids = [prompt_ids(template, tokenizer, prompt)[-room:] for prompt in prompts]
    completions = batch.generate(ids, max_tokens, stop_ids=[*stop_ids, template.end_id])
    return [tokenizer.decode(completion.ids).strip() for completion in completions]
