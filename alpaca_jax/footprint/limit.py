"""What is said where a device's memory doesn't suffice: before the weights are read, or when XLA has run out of it."""

import contextlib
from collections.abc import Iterator

from alpaca_jax.errors import UserError
from alpaca_jax.footprint.choice import Machine, Settings
from alpaca_jax.footprint.estimate import Footprint, size

EXHAUSTED = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


def check(settings: Settings, needed: Footprint, machine: Machine) -> None:
    """Raises a UserError where weights, optimizer and gradients alone, which every step needs, exceed a device's memory."""
    if machine.memory is not None and needed.kept > machine.memory:
        raise UserError(
            f"this run needs {needed}, of which {size(needed.kept)} are kept whatever the batch, and a device has "
            f"{size(machine.memory)}: {remedies(settings, machine, kept=True)}"
        )


@contextlib.contextmanager
def explained(advice: str) -> Iterator[None]:
    """A context in which XLA's error for a device without memory left becomes a UserError with `advice`."""
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as error:  # JAX's own error is a RuntimeError
        if isinstance(error, UserError) or not (isinstance(error, MemoryError) or any(sign in str(error) for sign in EXHAUSTED)):
            raise
        first = " ".join(str(error).split())[:200]
        raise UserError(f"the memory of a device is used up ({first}): {advice}") from error


def remedies(settings: Settings, machine: Machine, kept: bool = False) -> str:
    """What a training run may change to need less memory; `kept`: what is kept whatever the batch is too much already."""
    model, batch, mesh, optimizer = settings.model, settings.batch, settings.mesh, settings.optimizer
    found = []
    if not kept:
        if batch.rows is None or batch.rows > settings.microbatches:
            found.append(f"microbatches={2 * settings.microbatches} (the same steps, computed in more parts)")
        if model.remat != "full":
            found.append("model.remat=full (recomputes instead of saving)")
        found.append(
            f"fewer rows (batch.examples, batch.tokens or batch.rows) or shorter ones (batch.sequence_length={batch.sequence_length // 2})"
        )
        if model.compute_dtype == "float32" and machine.precision == "bfloat16":
            found.append("model.compute_dtype=bfloat16")
    if machine.devices > 1 and mesh.fsdp == 1:
        found.append("mesh=fsdp (weights and optimizer sharded over the devices)")
    elif kept or machine.devices == 1:
        found.append("more devices with mesh=fsdp")
    if optimizer.moments == "float32" and optimizer.name != "adafactor":
        found.append("optimizer.moments=bfloat16")
    if optimizer.name == "adamw":
        found.append("optimizer=adafactor or lion (each with its own learning rate)")
    return f"give {'; or '.join(found)}; or a smaller model"
