"""What a layer saves for its backward pass and what is recomputed, by checkpoint names."""

from collections.abc import Callable

import jax

POLICIES: dict[str, tuple[str, ...] | None] = {
    "none": None,  # save everything
    "full": (),  # save only the layer's input: 1.26 times the model's FLOP
    "attention": ("query", "key", "value", "mixed"),  # recompute the MLP and the norms: 1.18 times
    "minimal": ("query", "key", "value", "mixed", "gate", "up"),  # recompute only what needs no matrix product
}


def wrap(layer: Callable, policy: str) -> Callable:
    """`layer`, the body of a scan, under the named policy; an unknown name is a KeyError, since the config has checked it."""
    names = POLICIES[policy]
    if names is None:
        return layer
    saved = jax.checkpoint_policies.save_only_these_names(*names)
    return jax.checkpoint(layer, policy=saved, prevent_cse=False)
