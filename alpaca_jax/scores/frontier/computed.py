"""What a run would cost, computed before anything is: tokens, FLOP at a stated utilisation, and list prices. Nobody was charged it."""

import dataclasses

import numpy as np

from alpaca_jax import hardware
from alpaca_jax.errors import UserError
from alpaca_jax.model import flops
from alpaca_jax.model.architecture import Architecture
from alpaca_jax.teacher.bill import LIST_PRICES


@dataclasses.dataclass(frozen=True)
class Assumed:
    """What is assumed of records, teacher and machine."""

    prompt_tokens: float = 61.61  # of a record, its template included: the published Alpaca set's mean with LLaMA's tokenizer
    answer_tokens: float = 65.53  # with the token that ends it
    chip: str = "A100"
    devices: int = 8
    mfu: float = 0.4  # FLOP of real tokens over the dense bf16 peak of all devices


@dataclasses.dataclass(frozen=True)
class Computed:
    """The computed cost of one run, in dollars, and what it follows from."""

    teacher: str
    student: str
    records: int
    tokens: float  # that are trained on, over all epochs
    flop: float
    hours: float  # of all devices together, wall clock
    teacher_dollars: float
    training_dollars: float

    @property
    def dollars(self) -> float:
        """Teacher and training together."""
        return self.teacher_dollars + self.training_dollars


def compute(
    teacher: str, student: str, architecture: Architecture, records: int, epochs: float, assumed: Assumed | None = None
) -> Computed:
    """Returns the cost of teaching `architecture` on `records` answers of a teacher in the list of prices; a UserError without a price.

    The teacher is asked once for each record and gives one answer. Training takes 3 times the forward FLOP of its real tokens, attention
    inside each example counted, at the assumed MFU; start, compilation and checkpoints aren't counted.
    """
    assumed = assumed or Assumed()
    prices, price = LIST_PRICES.get(teacher), hardware.list_price(assumed.chip)
    peak = hardware.peak_flops(assumed.chip)
    if prices is None or price is None or peak is None:
        lacks = f"of the teacher {teacher!r}" if prices is None else f"or the peak of the chip {assumed.chip!r}"
        raise UserError(f"the list price {lacks} isn't known, so nothing can be computed")
    length = assumed.prompt_tokens + assumed.answer_tokens
    flop = records * epochs * flops.train_flops(architecture, np.array([length]))
    hours = flop / (assumed.mfu * peak * assumed.devices) / 3600
    return Computed(
        teacher=teacher,
        student=student,
        records=records,
        tokens=records * epochs * length,
        flop=flop,
        hours=hours,
        teacher_dollars=records * (assumed.prompt_tokens * prices[0] + assumed.answer_tokens * prices[1]) / 1e6,
        training_dollars=hours * assumed.devices * price.dollars_per_hour,
    )


def table(computed: list[Computed]) -> str:
    """Returns the costs as a Markdown table."""
    lines = [
        "| teacher | student | records | tokens trained on | FLOP | hours | teacher, $ | training, $ | together, $ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in computed:
        money = f"{one.teacher_dollars:,.2f} | {one.training_dollars:,.2f} | {one.dollars:,.2f}"
        figures = f"{one.records:,} | {one.tokens / 1e6:.1f} M | {one.flop:.2e} | {one.hours:.2f}"
        lines.append(f"| {one.teacher} | {one.student} | {figures} | {money} |")
    return "\n".join(lines)
