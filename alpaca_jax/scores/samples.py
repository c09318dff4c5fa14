"""What a model answers to fixed prompts, greedily, so that two models can be read side by side."""

from collections.abc import Sequence

from alpaca_jax.data.example import Recipe, tokenize
from alpaca_jax.data.template import Template
from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.decode.engine import Engine
from alpaca_jax.records import Record


def answers(
    engine: Engine, tokenizer: Tokenizer, template: Template, prompts: Sequence[str], max_tokens: int, stop_ids: Sequence[int]
) -> list[str]:
    """Returns one greedy answer a prompt, of at most `max_tokens` tokens; the prompts are tokenized as training tokenizes them."""
    room = engine.max_length - max_tokens
    examples, _ = tokenize([Record(prompt) for prompt in prompts], Recipe(template, tokenizer, max_length=engine.max_length))
    ids = [example.ids[~example.learnt].tolist()[-room:] for example in examples.take(range(len(examples)))]
    completions = engine.generate(ids, max_tokens, stop_ids=stop_ids)
    return [tokenizer.decode(completion.ids).strip() for completion in completions]
