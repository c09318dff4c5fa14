"""The declared shapes are really checked here."""

import jax.numpy as jnp
import pytest

from alpaca_jax.model.attention import attend, visible
from alpaca_jax.model.norm import rms_norm


def test_another_shape_or_dtype_than_declared_is_refused():
    x_BTHK, x_BTNK = jnp.zeros((1, 4, 2, 8)), jnp.zeros((1, 4, 1, 8))
    segments_BT = jnp.ones((1, 4), jnp.int32)
    assert attend(x_BTHK, x_BTNK, x_BTNK, visible(segments_BT)).shape == x_BTHK.shape
    with pytest.raises(TypeError, match=r"(?s)attention\.attend.*key_BTNK.*1,4,1,4"):
        attend(x_BTHK, x_BTNK[..., :4], x_BTNK, visible(segments_BT))
    with pytest.raises(TypeError, match="(?s)attention.visible.*segments_BT"):
        visible(segments_BT.astype(jnp.float32))
    with pytest.raises(TypeError, match="(?s)norm.rms_norm.*scale"):
        rms_norm(x_BTHK, jnp.ones(4), 1e-5)
