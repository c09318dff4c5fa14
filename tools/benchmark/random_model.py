"""A model with random weights as a sharded Hugging Face folder, to measure input and output.

Run from the root: python -m tools.benchmark.random_model FOLDER --shape 1b
"""

import argparse
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from alpaca_jax.formats.dtypes import numpy_dtype
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights, whole
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.model.tree import Path as Keys
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.tokenizer.backends import Json
from tools.benchmark.convert import SHAPES

SHARDS = 5
# Of 16 random bits, keep these and set these: a bfloat16 of either sign between 2**-15 and 2, which float16 also represents exactly.
STAYS, IS_SET = 0x87FF, 0x3800


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.folder, SHAPES[arguments.shape], arguments.seed)


def size(architecture: Architecture) -> int:
    """The bytes of the weights in bfloat16."""
    return 2 * architecture.num_parameters


def write(folder: Path, architecture: Architecture, seed: int = 0) -> None:
    """Writes bfloat16 weights and a tokenizer with a token for each row; most of the time is spent on the disk."""
    tokenizer = _tokenizer(architecture.vocab_size)
    model = Pretrained(
        architecture=architecture,
        tokenizer=tokenizer,
        read=_Random(architecture, seed),
        eos_ids=(tokenizer.eos_id,),
        source="random weights",
        files=(),
        format="random weights",
        dtype="bfloat16",
    )
    huggingface_export.export(folder, model, shard_bytes=size(architecture) // SHARDS)


def _tokenizer(vocab_size: int) -> Tokenizer:
    """`<s>`, `</s>`, the bytes, and pairs of bytes until there are enough."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = list(itertools.islice(itertools.product(alphabet, repeat=2), vocab_size - 2 - len(alphabet)))
    tokens = [*alphabet, *(first + second for first, second in pairs), "<s>", "</s>"]
    assert len(tokens) == vocab_size, vocab_size
    built = tokenizers.Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, pairs))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(tokens[-2:])
    start, end = vocab_size - 2, vocab_size - 1
    return Tokenizer(Json(built.to_str()), bos_id=start, eos_id=end, pad_id=end, adds_bos=True)


class _Random:
    """Returns pieces of weights; asking for the same piece twice gives different values."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self._known = weights(architecture)
        self._bits = np.random.SFC64(seed)

    def __call__(self, path: Keys, index: Index = ()) -> np.ndarray:
        weight = self._known[path]
        shape = tuple(part.stop - part.start for part in whole(index, weight.shape))
        if not weight.name.stacked:
            return self._draw(shape)
        # Created in the layout of the file and viewed in ours, so that writing transposes nothing.
        layers = [weight.name.to_ours(self._draw(weight.name.their_shape(shape[1:])), shape[1:]) for _ in range(shape[0])]
        return layers[0][None] if len(layers) == 1 else np.stack(layers)

    def _draw(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        bits = np.asarray(self._bits.random_raw(-(-count // 4))).view(np.uint16)[:count]
        bits &= np.uint16(STAYS)
        bits |= np.uint16(IS_SET)
        return bits.view(numpy_dtype("bfloat16")).reshape(shape)


if __name__ == "__main__":
    main()
