"""The three ways a run ends that a person or a launcher must tell apart; launchers rely on the exit codes."""

import errno
import os

FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """The user's mistake: the message says what, where (file, key, line) and the remedy. Exit code 2."""

    exit_code = 2


class Restart(RuntimeError):
    """The run has saved its state and asks to be started again. Exit code 200."""

    exit_code = 200


class Lost(RuntimeError):
    """A peer or the teacher was lost; started again, the run continues from its last saved state. Exit code 201."""

    exit_code = 201


def disk_is_full(error: BaseException) -> bool:
    """True if a write failed because the disk or quota is full; Orbax, ArrayRecord and TensorFlow wrap the system's error in their own."""
    return getattr(error, "errno", None) in FULL or any(os.strerror(number) in str(error) for number in FULL)
