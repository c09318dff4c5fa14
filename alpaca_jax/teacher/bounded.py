"""The HTTP client behind the official one, which reads no body without end."""

import contextlib
import functools
import time
import zlib
from typing import Any

MOST_BYTES = 8 << 20  # of an answer's body; a hundred thousand tokens have about one megabyte
KEPT_BYTES = 1 << 16  # of a body that was longer


def client(seconds: float, direct: bool) -> Any:
    """Returns an HTTP client for openai's, `direct` without the environment's proxies, whose answers take `seconds` at most."""
    return _class()(seconds, direct)


@functools.cache
def _class() -> Any:
    import openai  # takes a second to import, which a run that asks nobody shouldn't wait for

    class BoundedClient(openai.DefaultHttpxClient):
        """Reads a body up to `MOST_BYTES` and for `seconds` at most, whatever the server sends; of a longer one the beginning is kept."""

        def __init__(self, seconds: float, direct: bool) -> None:
            # Without the environment's proxies where the server is on this machine.
            super().__init__(headers={"accept-encoding": "identity"}, trust_env=not direct)
            self._seconds = seconds

        def __del__(self) -> None:
            with contextlib.suppress(Exception):  # as the official client's own does: it may not have been made whole
                self.close()

        def send(self, request: Any, **settings: Any) -> Any:
            """The response with its body; openai's APITimeoutError if that doesn't end."""
            start = time.monotonic()
            response = super().send(request, **{**settings, "stream": True})
            body, decoder = bytearray(), _decoder(response.headers.get("content-encoding", ""))
            try:
                for chunk in response.iter_raw():
                    body += decoder.decompress(chunk, MOST_BYTES) if decoder else chunk
                    if len(body) > MOST_BYTES:
                        del body[KEPT_BYTES:]
                        break
                    if time.monotonic() - start > self._seconds:
                        raise openai.APITimeoutError(request=request)
            except zlib.error:
                pass  # what was read so far is not an answer, but was paid for
            finally:
                response.close()
            headers = {name: value for name, value in response.headers.items() if name not in ("content-encoding", "content-length")}
            return type(response)(response.status_code, headers=headers, content=bytes(body), request=response.request)

    return BoundedClient


def _decoder(encoding: str) -> Any:
    """What unpacks the body of a server that packs it unasked."""
    return zlib.decompressobj(wbits=47) if encoding.strip().lower() in ("gzip", "x-gzip", "deflate") else None
