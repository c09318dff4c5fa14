"""The HTTP side of the vote: one page, and four requests that each say where the voter stands. Model names come with the results only."""

import dataclasses
from collections.abc import Callable
from importlib import resources
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alpaca_jax.errors import UserError
from alpaca_jax.listening import LOOPBACK
from alpaca_jax.scores.people.booth import Booth, Place
from alpaca_jax.scores.people.votes import Level

MAX_BODY_BYTES = 4096
FILES = {"/": ("page.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}
# Nothing but the page's own files may load or be asked, and no other page may frame it: an answer is a stranger's text.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
HEADERS = {
    "Content-Security-Policy": POLICY + "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Named(BaseModel):
    """A voter by name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    voter: Annotated[str, Field(max_length=200)]


class Returning(Named):
    """The voter goes back from a ballot; null: from the last page."""

    ballot: Annotated[str, Field(max_length=40)] | None


class Voting(Named):
    """The voter's verdict on a ballot."""

    ballot: Annotated[str, Field(max_length=40)]
    level: Level


M = TypeVar("M", bound=Named)


class Page:
    """The routes over one Booth; `results` gives what is shown to a voter who has ended, as JSON."""

    def __init__(self, booth: Booth, results: Callable[[], Any]) -> None:
        self.booth = booth
        self._results = results
        folder = resources.files(__package__)
        self._files = {path: folder.joinpath(name).read_text(encoding="utf-8") for path, (name, _) in FILES.items()}

    def app(self, host: str) -> Starlette:
        """The application. On a loopback `host` it answers to loopback names only, so that no web page reaches it by rebinding a name."""
        trusted = [Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))] if host in LOOPBACK else []
        return Starlette(
            routes=[
                *(Route(path, self._file) for path in FILES),
                Route("/enter", self._enter, methods=["POST"]),
                Route("/vote", self._vote, methods=["POST"]),
                Route("/back", self._back, methods=["POST"]),
                Route("/close", self._close, methods=["POST"]),
            ],
            middleware=trusted,
            exception_handlers={UserError: _refused, HTTPException: _http_error, Exception: _unexpected},
        )

    async def _file(self, request: Request) -> Response:
        return Response(self._files[request.url.path], headers=HEADERS, media_type=FILES[request.url.path][1])

    # A vote is written and synced before it is answered: a few milliseconds, in which nobody else is served and no two votes meet.
    async def _enter(self, request: Request) -> Response:
        asked = await _body(request, Named)
        return self._where(self.booth.enter(asked.voter))

    async def _vote(self, request: Request) -> Response:
        asked = await _body(request, Voting)
        return self._where(self.booth.vote(asked.voter, asked.ballot, asked.level))

    async def _back(self, request: Request) -> Response:
        asked = await _body(request, Returning)
        return self._where(self.booth.back(asked.voter, asked.ballot))

    async def _close(self, request: Request) -> Response:
        asked = await _body(request, Named)
        return self._where(self.booth.close(asked.voter))

    def _where(self, place: Place) -> Response:
        return _json(dataclasses.asdict(place) | {"results": self._results() if place.closed else None})


async def _body(request: Request, shape: type[M]) -> M:
    # A web page elsewhere may post plain text to any address without asking first, JSON it may not.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send the header Content-Type: application/json")
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "only this server's own page may vote")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes")
    try:
        return shape.model_validate_json(bytes(body))
    except ValidationError as error:
        first = error.errors()[0]
        raise HTTPException(400, f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None


def _json(value: Any, status: int = 200) -> Response:
    return JSONResponse(value, status, headers=HEADERS)


async def _refused(request: Request, error: Exception) -> Response:
    return _json({"error": str(error)}, 409)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code)


async def _unexpected(request: Request, error: Exception) -> Response:
    return _json({"error": "the server failed on this request; its terminal says why"}, 500)
