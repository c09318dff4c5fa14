"""How fast do we decode? SmolLM2-135M in fp32, batch 8, 32 prompt tokens, 64 new ones, greedy, against `transformers.generate`.

Both read the same weights and prompts, warm up once, and are timed alternately; the figure is new tokens per second, including the
time to read the prompts. Finally prints one JSON line. Run from the root: python -m tools.benchmark.decode
"""

import argparse
import dataclasses
import functools
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[2]))  # when it is run by its path

import jax.numpy as jnp
import torch
import transformers

from alpaca_jax.decode import weights
from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.program import Program
from alpaca_jax.decode.tuning import suited
from alpaca_jax.formats import pretrained
from alpaca_jax.formats.huggingface import export as huggingface_export
from alpaca_jax.sharding import Layout
from tools.benchmark import turns

BATCH, PROMPT, NEW = 8, 32, 64
TEXT = """A river begins where the ground can hold no more water. Rain that falls on a hill runs down in threads, the threads meet in
brooks, and the brooks meet in a valley whose shape an older river cut. What it carries depends on the season: clay in spring, leaves in
autumn, and now and then a whole tree. Where the land is flat it slows, drops what it carried and builds its own banks, until one day
it breaks through them and finds a shorter way to the sea. People who live beside it learn to read it. They know by its colour what the
weather was a day ago in the mountains, and by its sound at night whether to move the cattle. They build bridges where it is narrow and
mills where it falls, and argue for centuries about who owns the fish. Maps draw it as a line, as if it stayed where it was put; but
each year it takes a field from one side and gives it to the other, and the villages that are named after a ford often stand far from
any water, on a street that bends for no reason that anybody remembers. The old maps are not wrong; they
are only older than the water, which has never read one and goes where it must."""


def main() -> None:
    """Times both alternately and prints the JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    opened = pretrained.open("smollm2-135m-instruct")
    ids = opened.tokenizer.encode(TEXT)
    prompts = [ids[start : start + PROMPT] for start in range(0, BATCH * PROMPT, PROMPT)]
    assert len(prompts[-1]) == PROMPT, len(ids)

    program = decoding_program(opened)
    read = functools.partial(pretrained.read_weight, opened)
    batch = Batch(program, weights.fused(opened.architecture, read, program.dtype), slots=BATCH)
    model = peer_model(opened)
    ids_BT = torch.tensor(prompts)

    def ours() -> list[list[int]]:
        return [completion.ids for completion in batch.generate(prompts, NEW)]

    @torch.inference_mode()
    def peer() -> list[list[int]]:
        settings = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        return model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), **settings)[:, PROMPT:].tolist()

    same = sum(mine == theirs for mine, theirs in zip(ours(), peer(), strict=True))  # and warms both up
    turns.console.print(f"{same} of {BATCH} answers are the same, token for token")
    rates = turns.rates(turns.in_turns({"ours": ours, "peer": peer}, arguments.turns, warmups=0), BATCH * NEW)
    print(turns.result("decode", rates["ours"], rates["peer"], "tokens/s", ("jax", "transformers", "torch")))


def decoding_program(opened: pretrained.Pretrained) -> Program:
    """Ours on one device, with all layers in one program."""
    layout = Layout.of_one_device()
    tuning = dataclasses.replace(suited(layout), group=opened.architecture.num_layers)
    return Program(opened.architecture, layout, tuning, jnp.dtype("float32"))


def peer_model(opened: pretrained.Pretrained) -> transformers.PreTrainedModel:
    """The same weights in `transformers`, fp32, on all cores."""
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(turns.num_cores())
    with tempfile.TemporaryDirectory() as folder:
        huggingface_export.export(Path(folder) / "hf", opened)
        return transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "hf", dtype=torch.float32).eval()


if __name__ == "__main__":
    main()
