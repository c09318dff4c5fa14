import errno
import os

import pytest

from alpaca_jax.errors import disk_is_full


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_known_by_its_number_and_by_its_words(number):
    assert disk_is_full(OSError(number, "in other words"))
    assert disk_is_full(RuntimeError(f"write() failed: {os.strerror(number)}; at"))
    assert not disk_is_full(OSError(errno.EIO, os.strerror(errno.EIO)))
