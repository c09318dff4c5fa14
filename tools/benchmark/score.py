"""How fast are given tokens scored? SmolLM2-135M in fp32, 8 contexts with 4 continuations each, against lm-evaluation-harness's own model.

Both score the same ids, warm up once, and are timed alternately; the figure is tokens per second of contexts and continuations. A context
counts with each of its continuations, as a harness asks for them. Finally prints one JSON line. Run from the root:
python -m tools.benchmark.score
"""

import argparse
import functools
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import numpy as np
import torch
import transformers
from lm_eval.models.huggingface import HFLM

from alpaca_jax.decode import weights
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.sharding import Layout
from tools.benchmark import turns
from tools.benchmark.decode import TEXT

CONTEXTS, CONTINUATIONS, BATCH = 8, 4, 8


def main() -> None:
    """Times both alternately and prints the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    opened = pretrained.open("smollm2-135m-instruct")
    rows = asked(opened.tokenizer.encode(TEXT))
    program = Program.on(opened.architecture, Layout.of_one_device(), "float32")
    own = weights.fused(opened.architecture, functools.partial(pretrained.read_weight, opened), program.dtype)
    model = peer_model(opened)

    def ours() -> list[float]:
        return [score.logprob for score in Scoring(program, own).score(rows)]  # a new one has read nothing

    def peer() -> list[float]:
        requests = [(("", ""), ids[:start], ids[start:]) for ids, start in rows]
        return [logprob for logprob, _ in model._loglikelihood_tokens(requests, disable_tqdm=True)]

    difference = np.abs(np.array(ours()) - np.array(peer())).max()  # and warms both up
    turns.console.print(f"the largest difference of a log-likelihood: {difference:.1e}")
    assert difference < 2e-3, difference
    rates = turns.rates(turns.in_turns({"ours": ours, "peer": peer}, arguments.turns, warmups=0), sum(len(ids) for ids, _ in rows))
    print(turns.result("score", rates["ours"], rates["peer"], "tokens/s", ("jax", "lm-eval", "transformers", "torch")))


def asked(ids: list[int]) -> list[tuple[list[int], int]]:
    """Contexts of 40 to 96 tokens, each with continuations of 4 to 16, cut out of a text."""
    draw = np.random.default_rng(0)
    cut = lambda least, most: ids[(first := draw.integers(0, len(ids) - most)) : first + draw.integers(least, most)]  # noqa: E731
    contexts = [cut(40, 96) for _ in range(CONTEXTS)]
    return [([*context, *cut(4, 16)], len(context)) for context in contexts for _ in range(CONTINUATIONS)]


def peer_model(opened: pretrained.Pretrained) -> HFLM:
    """The harness's model class on the same weights in `transformers`, fp32, on all cores."""
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(turns.num_cores())
    with tempfile.TemporaryDirectory() as folder:
        huggingface_export.export(Path(folder) / "hf", opened)
        model = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder) / "hf")
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, device="cpu")


if __name__ == "__main__":
    main()
