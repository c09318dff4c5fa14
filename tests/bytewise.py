"""A tokenizer with a token for each byte and each special token, so that nothing merges."""

import dataclasses
from collections.abc import Sequence

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import Json

SPECIALS = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def tokenizer(
    specials: Sequence[str] = SPECIALS, adds_bos: bool = False, chat_template: str | None = None, eos: str = "</s>", bos: str = "<s>"
) -> Tokenizer:
    """Returns it with BOS and EOS among the `specials`."""
    vocab = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Library(models.BPE({token: id for id, token in enumerate(vocab)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(specials))
    ids = {token: id for id, token in enumerate(specials)}
    plain = Tokenizer(Json(made.to_str()), bos_id=ids.get(bos), eos_id=ids[eos], pad_id=ids[eos], adds_bos=adds_bos)
    return dataclasses.replace(plain, chat_template=chat_template)
