"""A model of random weights as a sharded Hugging Face folder, for what asks about the disk and not about the answers.

Run from the root: python -m tools.benchmark.random_model FOLDER --shape 1b
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import numpy as np

from alpaca_jax.data.tokenizer import Tokenizer
from alpaca_jax.formats import huggingface_export
from alpaca_jax.formats.dtypes import numpy_dtype
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.formats.names import Index, weights, whole
from alpaca_jax.formats.names import Path as Keys
from alpaca_jax.model.architecture import Architecture
from tools.benchmark.convert import SHAPES
from tools.prove import tiny

SHARDS = 5
# Of 16 random bits these stay, and these are set: a bfloat16 of either sign between 2**-15 and 2, which float16 holds exactly too.
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
    """Writes bfloat16 weights and a tokenizer of bytes; most of the time goes into the disk."""
    with tempfile.TemporaryDirectory() as tokens:
        tiny.write_tokenizer(Path(tokens))
        tokenizer = Tokenizer.load(tokens)
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


class _Random:
    """Gives pieces of weights; the same one twice is not the same twice."""

    def __init__(self, architecture: Architecture, seed: int) -> None:
        self._known = weights(architecture)
        self._bits = np.random.SFC64(seed)

    def __call__(self, path: Keys, index: Index = ()) -> np.ndarray:
        weight = self._known[path]
        shape = tuple(part.stop - part.start for part in whole(index, weight.shape))
        if not weight.name.stacked:
            return self._made(shape)
        # Made in the layout of the file, and seen in ours: so nothing is transposed on the way out.
        layers = [weight.name.to_ours(self._made(weight.name.their_shape(shape[1:])), shape[1:]) for _ in range(shape[0])]
        return layers[0][None] if len(layers) == 1 else np.stack(layers)

    def _made(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        bits = np.asarray(self._bits.random_raw(-(-count // 4))).view(np.uint16)[:count]
        bits &= np.uint16(STAYS)
        bits |= np.uint16(IS_SET)
        return bits.view(numpy_dtype("bfloat16")).reshape(shape)


if __name__ == "__main__":
    main()
