"""Which way a figure of a run gets better, as far as its name says it."""

from typing import Literal

Mode = Literal["min", "max"]
# By the last part of a name such as suites/basics/score or heldout.loss.
LESS = (
    *("loss", "heldout_loss", "heldout_loss_ema", "heldout_loss_before", "heldout_loss_after", "final_loss"),
    *("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"),
    *("seconds", "compile_seconds", "dollars", "skipped_steps", "stderr", "win_rate_stderr"),
)
MORE = ("goodput", "mfu", "tokens_per_second", "slots_per_second", "utilisation", "tokens_real", "heldout_loss_fall")
MORE_OF = ("suites/", "suites.", "compare/")  # all figures below these but the ones above


def better(name: str) -> Mode | None:
    """Returns "min" where less of the figure is better, "max" where more is, None where nobody knows."""
    last = name.replace("/", ".").rpartition(".")[2]
    if last in LESS:
        return "min"
    return "max" if last in MORE or name.startswith(MORE_OF) else None
