"""Writes `tests/goldens/preference.json`: the losses and gradients of TRL's own trainers for random pairs.

Run `python tools/preference_goldens.py` in an environment that has trl (1.16.0 was used) and torch. The trainers' loss methods are called
on instances that were never initialised, with a model that returns the log-probabilities it is given; so each number is TRL's arithmetic
alone. Gradients are those with respect to the log-probability of each whole answer.
"""

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
import trl
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

FILE = Path(__file__).parents[1] / "tests" / "goldens" / "preference.json"
PAIRS, LONGEST = 6, 9
DPO = {
    "sigmoid": {"beta": 0.1},
    "hinge": {"beta": 0.2},
    "ipo": {"beta": 0.1},
    "robust": {"beta": 0.3, "smoothing": 0.15},
    "sigmoid_norm": {"beta": 5.0},
}


class Model(torch.nn.Module):
    """Returns the log-probabilities [sides, tokens] it was made with, 0 where the mask is."""

    is_gradient_checkpointing = False

    def __init__(self, logps: torch.Tensor) -> None:
        super().__init__()
        self.logps = logps

    def forward(self, **_: Any) -> SimpleNamespace:
        zeros = torch.zeros_like(self.logps)
        return SimpleNamespace(log_probs=self.logps, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), logits=self.logps)


def bare(cls: type, **attributes: Any) -> Any:
    """An instance that was never initialised, with these attributes and what the loss methods only report to."""
    made = object.__new__(cls)
    same = SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x, unwrap_model=lambda x: x)
    defaults = {
        "accelerator": same,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "aux_loss_enabled": False,
    }
    made.__dict__.update(defaults | attributes)
    return made


def drawn() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(log-probabilities, those of the reference [2 x pairs, tokens], the mask of answers [2 x pairs, 1 + tokens])."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, LONGEST + 1, (2 * PAIRS,), generator=generator)
    mask = (torch.arange(LONGEST) < lengths[:, None]).double()
    logps = -torch.rand(2 * PAIRS, LONGEST, generator=generator, dtype=torch.float64) * 4 * mask
    reference = logps + torch.randn(2 * PAIRS, LONGEST, generator=generator, dtype=torch.float64) * mask
    reference = torch.minimum(reference, torch.zeros_like(reference)) * mask
    return logps, reference, torch.cat([torch.zeros(2 * PAIRS, 1), mask], dim=1)


def of_answers(loss: torch.Tensor, logps: torch.Tensor, mask: torch.Tensor) -> dict[str, Any]:
    """The loss and its gradient on each answer's log-probability: that of its first token, as all tokens have the same."""
    (gradient,) = torch.autograd.grad(loss, logps)
    spread = (gradient - gradient[:, :1]) * mask[:, 1:]
    assert spread.abs().max() < 1e-12
    return {"loss": loss.item(), "gradient": gradient[:, 0].tolist()}


def dpo(name: str, beta: float, smoothing: float = 0.0) -> dict[str, Any]:
    logps, reference, mask = drawn()
    logps.requires_grad_()
    trainer = bare(
        trl.DPOTrainer, model=Model(logps), ref_model=Model(reference), ld_alpha=None, precompute_ref_logps=False, beta=beta,
        f_divergence_type="reverse_kl", loss_types=[name], loss_weights=[1.0], label_smoothing=smoothing, use_weighting=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, gradient_checkpointing=False),
    )  # fmt: skip
    inputs = {"input_ids": torch.zeros_like(mask).long(), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    return of_answers(trainer._compute_loss(trainer.model, inputs, False), logps, mask)


def kto() -> dict[str, Any]:
    """The first half of the answers is desired; the mismatched answers are the same ones in another order."""
    logps, reference, mask = drawn()
    logps.requires_grad_()
    labels = torch.arange(2 * PAIRS) < PAIRS
    trainer = bare(
        trl.KTOTrainer, model=Model(logps), ref_model=Model(reference), calculate_KL=True, precompute_ref_logps=False, beta=0.1,
        loss_type="kto", desirable_weight=1.0, undesirable_weight=1.25,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, gradient_checkpointing=False),
    )  # fmt: skip
    ids = torch.zeros_like(mask).long()
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(mask), "completion_mask": mask, "label": labels}
    inputs |= {"KL_input_ids": ids, "KL_attention_mask": torch.ones_like(mask), "KL_completion_mask": mask}
    trainer._compute_kl_logps = lambda model, batch: model.logps.sum(-1).detach() + (1.5 if model is trainer.model else 0.0)
    return of_answers(trainer._compute_loss(trainer.model, inputs, False), logps, mask)


def simpo() -> dict[str, Any]:
    logps, _, mask = drawn()
    logps.requires_grad_()
    chosen, rejected = (logps.sum(1) / mask.sum(1)).chunk(2)
    trainer = bare(CPOTrainer, loss_type="simpo", simpo_gamma=1.0, beta=2.0, label_smoothing=0.0, alpha=0.0)
    return of_answers(trainer.cpo_loss(chosen, rejected)[0].mean(), logps, mask)


def orpo() -> dict[str, Any]:
    logps, _, mask = drawn()
    logps.requires_grad_()
    chosen, rejected = (logps.sum(1) / mask.sum(1)).chunk(2)
    trainer = bare(ORPOTrainer, beta=0.1)
    return of_answers(-trainer.odds_ratio_loss(chosen.double(), rejected.double())[0].mean(), logps, mask)


def reward() -> dict[str, Any]:
    scores = drawn()[0][:, :1].clone().requires_grad_()
    trainer = bare(trl.RewardTrainer, model=Model(scores), args=SimpleNamespace(center_rewards_coefficient=0.01))
    loss = trainer.compute_loss(trainer.model, {"attention_mask": MagicMock()})
    return {"loss": loss.item(), "gradient": torch.autograd.grad(loss, scores)[0][:, 0].tolist()}


def main() -> None:
    """Writes FILE."""
    logps, reference, mask = drawn()
    answers = {"logps": logps.sum(1).tolist(), "reference": reference.sum(1).tolist(), "lengths": mask.sum(1).tolist()}
    losses = {name: {"settings": given, **dpo(name, **given)} for name, given in DPO.items()}
    losses |= {"kto": kto(), "simpo": simpo(), "orpo": orpo(), "reward": reward()}
    content = {"trl": trl.__version__, "answers": answers | {"scores": logps[:, 0].tolist()}, "losses": losses}
    FILE.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
