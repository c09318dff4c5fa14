"""Writes `tests/goldens/divergence.json`: the generalized Jensen-Shannon divergences of TRL's GKD trainer on random scores, and gradients.

Run `python tools/divergence_goldens.py` in an environment that has trl (1.16.0 was used) and torch. The values are sums over the tokens
that count; the gradients are those with respect to the student's scores, in fp64.
"""

import json
from pathlib import Path

import torch
import trl
from trl.experimental.gkd import GKDTrainer

FILE = Path(__file__).parents[1] / "tests" / "goldens" / "divergence.json"
BETAS, TEMPERATURES = (0.0, 0.1, 0.5, 0.9, 1.0), (1.0, 2.0)
SHAPE = (2, 3, 7)


def main() -> None:
    """Draws the scores, asks TRL, writes the file."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(2))
    counted = torch.tensor([[1, 0, 1], [1, 1, 0]])
    labels = torch.where(counted == 1, 0, -100)
    cases = []
    for beta in BETAS:
        for temperature in TEMPERATURES:
            scores = student.clone().requires_grad_()
            value = GKDTrainer.generalized_jsd_loss(scores, teacher, labels, beta, temperature, num_items_in_batch=1)
            value.backward()
            cases.append({"beta": beta, "temperature": temperature, "value": value.item(), "gradient": scores.grad.tolist()})
    found = {
        "trl": trl.__version__,
        "student": student.tolist(),
        "teacher": teacher.tolist(),
        "counted": counted.tolist(),
        "cases": cases,
    }
    FILE.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
