"""A small OpenAI-compatible server on loopback, scripted by a test to answer, wait, refuse, or send nonsense."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORDS = (
    *("river", "stone", "window", "garden", "letter", "harvest", "market", "bridge", "winter", "candle"),
    *("forest", "engine", "paper", "island", "thunder", "velvet", "copper", "meadow"),
)


@dataclasses.dataclass
class Reply:
    """A reply of the server: JSON (or raw text or bytes), a status and headers, after a delay in seconds; `hang_up` disconnects instead.

    With `trickle` the body is spaces without end, one after so many seconds.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False
    trickle: float = 0.0


@dataclasses.dataclass
class Scripted:
    """A running server: its address, all bodies it received, and the keys and paths that came with them."""

    base_url: str = ""
    bodies: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list)
    paths: list[str] = dataclasses.field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0


# (number of the request from 0, its body) -> the reply; None: a valid answer.
Script = Callable[[int, dict[str, Any]], Reply | None]


def text_for(body: dict[str, Any]) -> str:
    """A valid text that depends only on the seed and the request."""
    seed = body["seed"]
    words = [WORDS[(seed // 7**i + i * seed) % len(WORDS)] for i in range(6)]
    if "messages" in body:
        return f"This is about {body['messages'][-1]['content']} It has {seed} parts."
    return f"Tell me about the {words[0]} {words[1]} near the {words[2]} {words[3]} of {words[4]} number {seed}."


def answer(text: Any, body: dict[str, Any], finish_reason: str = "stop", usage: Any = (20, 10)) -> dict[str, Any]:
    """The JSON of a valid answer with `text`; usage is (prompt tokens, completion tokens)."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    choice |= {"message": {"role": "assistant", "content": text}} if "messages" in body else {"text": text}
    made = {"id": "x", "object": "completion", "created": 1, "model": body.get("model", "m"), "choices": [choice]}
    return made | ({"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}} if usage else {})


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's format."""
    return Reply({"error": {"message": message, "type": "error", "code": code, "param": None}}, status, headers)


@contextlib.contextmanager
def scripted_teacher(script: Script = lambda number, body: None) -> Iterator[Scripted]:
    """The server, while the context lasts."""
    state, lock = Scripted(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(state.bodies)
                state.bodies.append(body)
                state.keys.append(self.headers["authorization"])
                state.paths.append(self.path)
                state.in_flight += 1
                state.most_in_flight = max(state.most_in_flight, state.in_flight)
            try:
                reply = script(number, body) or Reply(answer(text_for(body), body))
                time.sleep(reply.delay)
                if reply.hang_up:
                    self.close_connection = True
                    return
                content = reply.body if isinstance(reply.body, str | bytes) else json.dumps(reply.body)
                content = content.encode() if isinstance(content, str) else content
            finally:
                with lock:
                    state.in_flight -= 1
            with contextlib.suppress(ConnectionError):  # a client that was killed
                self.send_response(reply.status)
                length = 10**9 if reply.trickle else len(content)
                for name, value in {"content-type": "application/json", "content-length": str(length), **reply.headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                while reply.trickle:
                    self.wfile.write(b" ")
                    time.sleep(reply.trickle)
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
