"""What the backward pass keeps of a layer and what it computes again, by named points."""

from collections.abc import Callable

import jax

POLICIES: dict[str, tuple[str, ...] | None] = {
    "none": None,  # keep everything
    "full": (),  # keep only the layer's input: 1.26 times the model's FLOP
    "attention": ("query", "key", "value", "mixed"),  # recompute the MLP and the norms: 1.18 times
    "minimal": ("query", "key", "value", "mixed", "gate", "up"),  # recompute only what costs no matrix product
}


def wrap(layer: Callable, policy: str) -> Callable:
    """`layer` as the body of a scan under the policy's name; an unknown name is a KeyError, since the config has checked it."""
    names = POLICIES[policy]
    if names is None:
        return layer
    kept = jax.checkpoint_policies.save_only_these_names(*names)
    return jax.checkpoint(layer, policy=kept, prevent_cse=False)
