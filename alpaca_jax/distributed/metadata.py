"""Google's metadata server: the place of a TPU worker in its pod, and notices that its machine is about to be taken away."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

_DEFAULT = "metadata.google.internal"
_EVERY_SECONDS = 10.0
_QUIET = {"maintenance-event": "NONE", "preempted": "FALSE"}  # the answers when there is no notice
_MOST_FAILURES = 6


def ask(path: str, seconds: float = 3.0) -> str | None:
    """Returns the server's answer for `instance/PATH`, None if there is none; GCE_METADATA_HOST gives another address."""
    host = os.environ.get("GCE_METADATA_HOST") or os.environ.get("GCE_METADATA_IP") or _DEFAULT
    request = urllib.request.Request(f"http://{host}/computeMetadata/v1/instance/{path}", headers={"Metadata-Flavor": "Google"})
    # Never through a proxy: the address belongs to this machine's own network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=seconds) as answer:
            return answer.read().decode().strip()
    except (OSError, ValueError):
        return None


class Notices:
    """A context with a thread that calls `notify` once, when the machine is about to be maintained or was preempted."""

    def __init__(self, notify: Callable[[str], None], every: float = _EVERY_SECONDS) -> None:
        self._notify, self._every = notify, every
        self._done = threading.Event()

    def __enter__(self) -> "Notices":
        threading.Thread(target=self._watch, name="notices", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        failures = 0
        while not self._done.is_set() and failures < _MOST_FAILURES:
            answers = {name: ask(name) for name in _QUIET}
            failures = failures + 1 if not any(answers.values()) else 0
            for name, answer in answers.items():
                if answer and answer != _QUIET[name]:
                    self._notify(f"the cloud's notice {name}={answer}")
                    return
            self._done.wait(self._every)
