"""The HTTP side: routes, one request's answers as one JSON object or as a stream of events, errors in OpenAI's shape."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from alpaca_jax.decode.generation import Token
from alpaca_jax.listening import LOOPBACK
from alpaca_jax.serve import protocol
from alpaca_jax.serve.echo import Echo, one_greedy_token, scored
from alpaca_jax.serve.models import Model, Models
from alpaca_jax.serve.protocol import ApiError, ChatRequest, CompletionRequest, Wanted
from alpaca_jax.serve.scheduler import Job, Scheduler
from alpaca_jax.serve.shape import ChatShape, CompletionShape, Shape, usage
from alpaca_jax.serve.text import Answer, Piece
from alpaca_jax.serve.tokenization import DetokenizeRequest, TokenizeRequest, tokenizer_info

PAGE = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")


class Service:
    """What the routes share: the models by their names, and the scheduler that runs them."""

    def __init__(self, models: Sequence[Model], vocab_size: int, scheduler: Scheduler) -> None:
        self.models = Models(models)
        self.scheduler = scheduler
        self._vocab_size = vocab_size
        self._created = int(time.time())

    @property
    def name(self) -> str:
        """That of the model without an adapter."""
        return self.models.first.name

    def app(self, host: str) -> Starlette:
        """The application. On a loopback `host` it answers to loopback names only, so that no web page reaches it by rebinding a name."""
        trusted = [Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))] if host in LOOPBACK else []
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                *self._of_tokens(),
                Route("/v1/completions", self._completions, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            middleware=trusted,
            exception_handlers={ApiError: _api_error, HTTPException: _http_error, Exception: _unexpected},
        )

    def _of_tokens(self) -> list[Route]:
        """Where vLLM has them, and where a client looks for them that knows `base_url` only."""
        routes = {"tokenize": (self._tokenize, "POST"), "detokenize": (self._detokenize, "POST"), "tokenizer_info": (self._info, "GET")}
        return [
            Route(f"{place}/{name}", function, methods=[method]) for place in ("", "/v1") for name, (function, method) in routes.items()
        ]

    async def _page(self, request: Request) -> Response:
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": "default-src 'self' 'unsafe-inline'"})

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._description(name) for name in self.models.names]})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self._description(self._named(request.path_params["name"]).name))

    def _description(self, name: str) -> dict[str, Any]:
        adapter = {} if name == self.name else {"parent": self.name}  # as vLLM says it
        return {"id": name, "object": "model", "created": self._created, "owned_by": "alpaca_jax"} | adapter

    def _named(self, name: str | None) -> Model:
        if (model := self.models.get(name)) is None:
            raise protocol.no_such_model(str(name), self.models.names)
        return model

    async def _asked(self, cls: type[protocol.R], request: Request) -> tuple[protocol.R, Model]:
        """The request, checked, and the model that it is for."""
        asked = protocol.parse(cls, await _body(request))
        model = self._named(asked.model)
        asked.check()
        return asked, model

    async def _tokenize(self, request: Request) -> Response:
        asked, model = await self._asked(TokenizeRequest, request)
        return JSONResponse(asked.answer(model.tokenizer, self.scheduler.max_length))

    async def _detokenize(self, request: Request) -> Response:
        asked, model = await self._asked(DetokenizeRequest, request)
        return JSONResponse(asked.answer(model.tokenizer, self._vocab_size))

    async def _info(self, request: Request) -> Response:
        return JSONResponse(tokenizer_info(self.models.first.tokenizer, self.scheduler.max_length))

    async def _completions(self, request: Request) -> Response:
        asked, model = await self._asked(CompletionRequest, request)
        shape = CompletionShape(model.tokenizer, model.name, asked)
        return await self._answer(request, asked, model, asked.prompts(model.tokenizer), shape)

    async def _chat(self, request: Request) -> Response:
        asked, model = await self._asked(ChatRequest, request)
        return await self._answer(request, asked, model, [asked.prompt(model.tokenizer)], ChatShape(model.tokenizer, model.name, asked))

    async def _answer(
        self, request: Request, asked: CompletionRequest | ChatRequest, model: Model, prompts: list[list[int]], shape: Shape
    ) -> Response:
        stops, tokenizer = asked.stops, model.tokenizer
        # A stop string that is a special token (`<|im_end|>`) never shows in the text: it ends the answer as an id.
        special = [ids[0] for stop in stops if len(ids := tokenizer.encode(stop, special=True)) == 1 and not tokenizer.decode(ids)]
        stop_ids = model.stop_ids | frozenset(special)
        wanted = protocol.wanted(asked, prompts, stop_ids, self._vocab_size, self.scheduler.max_length, model.number)
        if isinstance(asked, CompletionRequest) and asked.echo:
            echoes = [
                echo
                for given, ids in zip(asked.given, prompts, strict=True)
                for echo in [Echo.of(tokenizer, given if isinstance(given, str) else None, ids)] * (asked.n or 1)
            ]
            answers = [Answer(index, tokenizer, stops, echo.text) for index, echo in enumerate(echoes)]
            pieces = self._echoed(asked, model, echoes, wanted, answers)
        else:
            answers = [Answer(index, tokenizer, stops) for index in range(len(wanted))]
            pieces = self._pieces(wanted, answers)
        count = lambda: usage(sum(map(len, prompts)), sum(answer.count for answer in answers))  # noqa: E731
        if asked.stream:
            return StreamingResponse(_events(pieces, shape, count if asked.with_usage else None), media_type="text/event-stream")
        collected = await _unless_disconnected(request, _collect(pieces, len(wanted)))
        if collected is None:
            return Response(status_code=499)  # nobody is there to read it
        choices = [shape.choice(index, collected[index]) for index in range(len(wanted))]
        return JSONResponse(shape.envelope(shape.kind, choices) | {"usage": count()})

    async def _echoed(
        self, asked: CompletionRequest, model: Model, echoes: Sequence[Echo], wanted: Sequence[Wanted], answers: Sequence[Answer]
    ) -> AsyncIterator[Piece]:
        """Each answer's prompt, and what `_pieces` gives after it; a single greedy token comes with the prompt's scores."""
        each = asked.n or 1
        found = [echo for echo in await scored(self.scheduler, echoes[::each], asked, model.number) for _ in range(each)]
        for index, echo in enumerate(found):
            yield echo.piece(index, "length" if asked.max_tokens == 0 else None)
        if asked.max_tokens == 0:
            return
        if not one_greedy_token(asked):
            async with contextlib.aclosing(self._pieces(wanted, answers)) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    yield piece
            return
        for echo, answer, one in zip(found, answers, wanted, strict=True):
            assert echo.following is not None
            yield answer.add_only(echo.following, one.options.stop_ids)

    async def _pieces(self, wanted: Sequence[Wanted], answers: Sequence[Answer]) -> AsyncIterator[Piece]:
        """What each step adds to each answer, until all are finished; left early, it takes its sequences out of the batch."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[int, list[Any], str | None]] = asyncio.Queue()

        def job(index: int, one: Wanted) -> Job:
            def deliver(tokens: list[Token], reason: str | None) -> None:
                loop.call_soon_threadsafe(arrived.put_nowait, (index, tokens, reason))

            return Job(one.prompt, one.options, deliver)

        jobs = [job(index, one) for index, one in enumerate(wanted)]
        try:
            for each in jobs:
                self.scheduler.submit(each)
            while any(answer.finish_reason is None for answer in answers):
                index, tokens, reason = await arrived.get()
                if answers[index].finish_reason is not None:
                    continue  # a step that was under way when a stop string ended the answer
                if reason == "abort":
                    raise protocol.shutting_down()
                yield (piece := answers[index].add(tokens, reason))
                if piece.finish_reason is not None and reason is None:
                    self.scheduler.cancel(jobs[index])
        finally:
            for each, answer in zip(jobs, answers, strict=True):
                if answer.finish_reason is None:
                    self.scheduler.cancel(each)


async def _collect(pieces: AsyncIterator[Piece], count: int) -> list[list[Piece]]:
    """The pieces of each of `count` answers, complete."""
    collected: list[list[Piece]] = [[] for _ in range(count)]
    async with contextlib.aclosing(pieces):  # type: ignore[type-var]
        async for piece in pieces:
            collected[piece.choice].append(piece)
    return collected


async def _unless_disconnected(request: Request, answer: Any) -> Any:
    """What the coroutine `answer` returns; None, and the coroutine is cancelled, where the client leaves first."""
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(request.receive())  # the body has been read: the next message says that the client is gone
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _events(pieces: AsyncIterator[Piece], shape: Shape, count: Callable[[], dict[str, int]] | None) -> AsyncIterator[str]:
    """Server-sent events: a chunk for each piece that says something, the usage if it is asked for, `[DONE]`."""
    chunk = lambda choices: shape.envelope(shape.chunk_kind, choices)  # noqa: E731
    opened: set[int] = set()
    try:
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            async for piece in pieces:
                if piece.choice not in opened:
                    opened.add(piece.choice)
                    if (opening := shape.opening(piece.choice)) is not None:
                        yield _event(chunk([opening]))
                if piece.text or piece.tokens or piece.finish_reason is not None:
                    yield _event(chunk([shape.delta(piece)]))
        if count is not None:
            yield _event(chunk([]) | {"usage": count()})
        yield "data: [DONE]\n\n"
    except ApiError as error:  # the status line is long sent
        yield _event(error.body)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


async def _body(request: Request) -> bytes:
    # A web page elsewhere may post plain text to any address without asking first, JSON it may not.
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send the header Content-Type: application/json")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > protocol.MAX_BODY_BYTES:
            raise ApiError(413, f"the body is larger than {protocol.MAX_BODY_BYTES:,} bytes")
    return bytes(body)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body, error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(ApiError(error.status_code, message).body, error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, "the server failed on this request; its log says why").body, 500)
