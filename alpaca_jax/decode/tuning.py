"""What suits the backend that decodes: the one place where the CPU gets its tricks and other backends plain code."""

from dataclasses import dataclass

from alpaca_jax.sharding import Layout


@dataclass(frozen=True)
class Tuning:
    """How one and the same model is computed; the tokens are the same either way, but for the rounding of sums."""

    # Whoever loads weights only to decode stores them as [outputs, inputs], and those that read the same input as one matrix. Rows are then
    # multiplied as columns, which is up to twice as fast with few rows on a CPU; barriers keep XLA from undoing it.
    columns: bool = False
    # Keys lie transposed in pages: their product with few queries is then twice as fast on a CPU.
    paged_keys: bool = False
    # The largest logit is looked for in blocks of the vocabulary: XLA's own argmax is ten times slower on a CPU.
    blocked_argmax: bool = False
    # This many layers, at most, make one program: all 30 of a small model would run 5% faster and compile 5 times as long, again for every
    # size of the cache.
    group: int = 8
    # Steps between two looks at the tokens. An accelerator idles while the host looks; on a CPU the step itself is what takes the time.
    stride: int = 4


CPU = Tuning(columns=True, paged_keys=True, blocked_argmax=True, group=3, stride=1)
PLAIN = Tuning()


def suited(layout: Layout) -> Tuning:
    """The tuning for the devices of `layout`; the CPU's tricks are for one device, weights and cache can't be sharded with them."""
    return CPU if layout.mesh.size == 1 and layout.mesh.devices.flat[0].platform == "cpu" else PLAIN
