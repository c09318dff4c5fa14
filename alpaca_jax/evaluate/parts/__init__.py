"""The parts of an evaluation, in the order in which they are measured and shown; each is a module (see `part`)."""

from alpaca_jax.evaluate.parts import answers, compare, contamination, heldout, people, samples, suites
from alpaca_jax.evaluate.parts.part import Part

PARTS: tuple[Part, ...] = (heldout, samples, answers, suites, compare, people, contamination)
