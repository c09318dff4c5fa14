"""The settings of `objective=distill`."""

from dataclasses import field
from typing import Annotated, Literal

from alpaca_jax.config import configclass
from alpaca_jax.ranges import Above0, Positive, Range, Share


@configclass
class TeacherConfig:
    """One teacher: a model in any format, its weight in the mixture, and what it teaches."""

    source: str  # as model.source; or the address of a server, as http://host:8000/v1#MODEL
    weight: Above0 = 1.0  # its share of the mixture, relative to the others'
    data: tuple[str, ...] = ()  # the names in data.sources that it teaches; empty: all


@configclass
class DistillConfig:
    """Distillation: the divergence of the student's next-token distribution from that of its teachers, on the responses."""

    name: Literal["distill"] = "distill"
    teacher: str | None = None  # the source of a single one; or `teachers`
    teachers: dict[str, TeacherConfig] = field(default_factory=dict)
    signal: Literal["live", "exact", "draws", "top"] = "exact"
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    beta: Share = 0.5  # of jsd: the teacher's share in the mixture
    limits: bool = False  # jsd / (beta (1 - beta)), which tends to the two KLs at 0 and 1
    temperature: Above0 = 1.0
    cross_entropy: Share = 0.0  # the share of the records' own cross-entropy in the loss; 1: supervised fine-tuning
    draws: Annotated[int, Range(1, 255)] = 32  # tokens drawn for each place
    top: Positive = 64  # tokens kept for each place
    tail: bool = True  # of top: all other tokens are one more outcome; false: as if there were none, which is biased
    dtype: Literal["float32", "bfloat16"] | None = None  # of the teachers' weights; null: model.compute_dtype
    cache: str | None = None  # the folder of a cache; null: one for each teacher, records, template and truncation in data.cache

    def __post_init__(self) -> None:
        if (self.teacher is None) == (not self.teachers):
            raise ValueError("give either objective.teacher=MODEL, or several objective.teachers.NAME.source=MODEL")
        if any(map(is_address, sources := [each.source for each in self.all_teachers.values()])):
            if len(sources) > 1:
                raise ValueError("a teacher on a server is the only one: give one objective.teacher=ADDRESS")
            if self.signal != "top" or self.temperature != 1:
                raise ValueError(f"{sources[0]} is a server, which tells its most probable tokens at temperature 1: give signal=top")
        if self.signal == "draws" and self.divergence != "forward":
            raise ValueError(f"signal=draws gives the forward divergence only, not {self.divergence}: give signal=exact, top or live")
        if self.signal == "top" and not self.tail and self.divergence != "forward":
            raise ValueError(f"tail=false makes the {self.divergence} divergence infinite: give divergence=forward or tail=true")

    @property
    def all_teachers(self) -> dict[str, TeacherConfig]:
        """The teachers by their names."""
        return self.teachers if self.teacher is None else {"teacher": TeacherConfig(source=self.teacher)}

    @property
    def address(self) -> str | None:
        """Where the teacher is served; None where it is read."""
        return next((each.source for each in self.all_teachers.values() if is_address(each.source)), None)

    @property
    def measured(self) -> tuple[str, ...]:
        """The names of what each evaluation measures for this objective, beside the held-out loss."""
        return ("heldout_kl", "heldout_agreement")

    @property
    def heldout_loss(self) -> bool:
        """Whether the cross-entropy of held-out records is measured."""
        return True


def is_address(source: str) -> bool:
    """Whether a teacher's source is the address of a server."""
    return source.startswith(("http://", "https://"))
