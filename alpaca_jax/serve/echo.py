"""The prompt as a part of the answer (`echo`), with the log-probability of each of its tokens: what evaluation harnesses ask for."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from alpaca_jax.decode.generation import Token
from alpaca_jax.decode.reading import Reading
from alpaca_jax.errors import UserError
from alpaca_jax.serve.protocol import ApiError, CompletionRequest, shutting_down
from alpaca_jax.serve.scheduler import Scheduler, ScoringJob
from alpaca_jax.serve.text import First, Piece
from alpaca_jax.tokenizer import TextStream, Tokenizer

TOGETHER = 32  # prompts of one request that are scored at once: a request of a thousand doesn't keep others waiting for all of them


class Echo(NamedTuple):
    """A prompt's text, and where in it each of its tokens begins. `following`: the likeliest token after it, if it was asked for."""

    text: str
    ids: list[int]
    offsets: list[int]
    tokens: list[Token | First] = []
    following: Token | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, given: str | None, ids: list[int]) -> "Echo":
        """Of a prompt that was `given` as text, or else as ids; special tokens are in it by their names."""
        stream, text, offsets = TextStream(tokenizer, skip_special=False), "", []
        for index, id in enumerate(ids):
            offsets.append(len(text))
            if given is None or index or id != tokenizer.bos_id or not tokenizer.adds_bos:  # BOS put before a text isn't in it
                text += stream.push(id)
        text = text + stream.rest() if given is None else given
        return cls(text, ids, [min(offset, len(text)) for offset in offsets])

    def piece(self, choice: int, finish_reason: str | None) -> Piece:
        """What a choice begins with."""
        return Piece(choice, self.text, self.tokens, self.offsets[: len(self.tokens)], finish_reason)


def one_greedy_token(asked: CompletionRequest) -> bool:
    """Whether all that is to be generated is the likeliest token after the prompt, which reading the prompt gives, too."""
    return asked.logprobs is not None and asked.max_tokens == 1 and asked.temperature == 0


async def scored(scheduler: Scheduler, echoes: Sequence[Echo], asked: CompletionRequest, adapter: int) -> list[Echo]:
    """`echoes` with the log-probabilities of their tokens, if the request wants them; an ApiError where there are none."""
    if asked.logprobs is None:
        return list(echoes)
    beyond = one_greedy_token(asked)
    loop = asyncio.get_running_loop()

    def job(reading: Reading) -> tuple[ScoringJob, asyncio.Future[bool]]:
        future: asyncio.Future[bool] = loop.create_future()

        def finish(done: bool) -> None:
            if not future.done():
                future.set_result(done)

        def deliver(done: bool) -> None:
            loop.call_soon_threadsafe(finish, done)

        return ScoringJob(reading, deliver), future

    top = asked.logprobs
    readings = [scheduler.reading(echo.ids, 1, top, beyond, adapter) if beyond or len(echo.ids) > 1 else None for echo in echoes]
    jobs = [job(reading) for reading in readings if reading is not None]
    try:
        for first in range(0, len(jobs), TOGETHER):
            some = jobs[first : first + TOGETHER]
            for one, _ in some:
                scheduler.submit(one)
            if not all([await future for _, future in some]):
                raise shutting_down()
    finally:
        for one, future in jobs:
            if not future.done() or future.cancelled():
                scheduler.cancel(one)
    return [_with_tokens(echo, reading) for echo, reading in zip(echoes, readings, strict=True)]


def _with_tokens(echo: Echo, reading: Reading | None) -> Echo:
    first = First(echo.ids[0])
    if reading is None:
        return echo._replace(tokens=[first])
    try:
        found = reading.scored
    except UserError as error:
        raise ApiError(500, str(error)) from error
    return echo._replace(tokens=[first, *found.tokens], following=found.following)
