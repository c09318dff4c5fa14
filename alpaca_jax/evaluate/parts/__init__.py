"""The parts of an evaluation, in the order in which they are measured and shown; each is a module (see `part`)."""

<<<<<<< HEAD
from alpaca_jax.evaluate.parts import answers, compare, heldout, samples
from alpaca_jax.evaluate.parts.part import Part

PARTS: tuple[Part, ...] = (heldout, samples, answers, compare)
=======
from alpaca_jax.evaluate.parts import answers, contamination, heldout, samples, suites
from alpaca_jax.evaluate.parts.part import Part

PARTS: tuple[Part, ...] = (heldout, samples, answers, suites, contamination)
>>>>>>> main
