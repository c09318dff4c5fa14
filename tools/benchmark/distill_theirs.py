"""The peers of `tools.benchmark.distill`: a step with the loss of TRL's GKD trainer, or of its Distillation trainer. Needs trl and torch.

Both losses are called as their trainers' `compute_loss` calls them, on transformers' LLaMA with gradient checkpointing.
"""

import argparse
import json
import os
import resource
import sys
import time
from importlib.metadata import version

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from trl.experimental.gkd import GKDTrainer
from trl.trainer.distillation_trainer import _chunked_divergence_loss


def model(layers: int) -> LlamaForCausalLM:
    """SmolLM2-135M's shape with so many layers, of random fp32 weights."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        use_cache=False,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config).float()


def main() -> None:
    """Takes the steps and prints their CPU seconds and this process's peak memory in bytes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("loss", choices=("gkd", "chunked"))
    for name in ("rows", "length", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--layers", type=int, nargs=2, required=True)
    given = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    student, teacher = model(given.layers[0]).train(), model(given.layers[1]).eval().requires_grad_(False)
    student.gradient_checkpointing_enable()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, weight_decay=0.0)
    ids = torch.randint(0, 49152, (given.rows, given.length + 1))
    ones = torch.ones_like(ids)

    def dense() -> torch.Tensor:
        scores = student(input_ids=ids, attention_mask=ones).logits
        with torch.no_grad():
            taught = teacher(input_ids=ids, attention_mask=ones).logits
        return GKDTrainer.generalized_jsd_loss(scores[:, :-1], taught[:, :-1], ids[:, 1:], beta=0.0)

    def chunked() -> torch.Tensor:
        hidden = student.base_model(input_ids=ids, attention_mask=ones).last_hidden_state[:, :-1]
        with torch.no_grad():
            taught = teacher.base_model(input_ids=ids, attention_mask=ones).last_hidden_state[:, :-1]
        heads = student.get_output_embeddings().weight, teacher.get_output_embeddings().weight
        return _chunked_divergence_loss(hidden, taught, *heads, ones[:, 1:], 0.0)[0]

    taken = []
    for _ in range(1 + given.steps):
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        (dense if given.loss == "gkd" else chunked)().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        taken.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    versions = {name: version(name) for name in ("trl", "transformers", "torch")}
    print(json.dumps({"seconds": taken[1:], "peak": peak, "versions": versions}))


if __name__ == "__main__":
    main()
