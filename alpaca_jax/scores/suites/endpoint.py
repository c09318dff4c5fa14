"""A suite's requests over HTTP, to our own server or any other that echoes prompts with their log-probabilities (vLLM, llama.cpp).

Prompts are lists of token ids, so that nothing is tokenized twice. What a server leaves out is an error: a suite that took a missing
log-probability for a number would report the score of guessing.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from alpaca_jax.errors import UserError
from alpaca_jax.scores.suites.backend import Ask, Likelihood, Told
from alpaca_jax.teacher import bounded
from alpaca_jax.teacher.config import is_here

SECONDS = 600.0  # for one answer
RETRIES = 5  # of a request that a server is too busy for

T = TypeVar("T")


class HttpBackend:
    """Asks a server at `base_url` (with its /v1), with up to `slots` requests under way; rows have up to `max_length` tokens."""

    def __init__(self, base_url: str, max_length: int, slots: int, model: str | None = None, retries: int = RETRIES) -> None:
        import openai

        self._url, self._slots = base_url, slots
        self.max_length = max_length - 1  # a server has to generate one token, whether anybody wants it or not
        client = bounded.client(SECONDS, direct=is_here(base_url))
        self._openai = openai.OpenAI(api_key="none", base_url=base_url, timeout=SECONDS, max_retries=retries, http_client=client)
        self._model = model or self._served()

    def _served(self) -> str:
        with self._explained():
            models = list(self._openai.models.list())
            if not models:
                raise UserError(f"the server at {self._url} names no model")
            return str(models[0].id)

    def likelihoods(self, rows: Sequence[tuple[list[int], int]], told: Told) -> list[Likelihood]:
        """Of the tokens from `start` on, for each (ids, start); a UserError where the server doesn't say how likely they are."""
        found = self._all(self._likelihood, rows, told)
        if len(found) > 1 and all(likelihood.logprob == 0.0 for likelihood in found):
            raise UserError(f"the server at {self._url} says that every answer is certain: these are no log-probabilities")
        return found

    def generate(self, asks: Sequence[Ask], told: Told) -> list[str]:
        """The text that follows each prompt."""
        return self._all(self._text, asks, told)

    def _all(self, ask: Callable[[Any], T], items: Sequence[Any], told: Told) -> list[T]:
        answers = []
        with ThreadPoolExecutor(self._slots) as pool:
            waiting = [pool.submit(ask, item) for item in items]
            try:
                for future in waiting:
                    answers.append(future.result())
                    told(len(answers))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return answers

    def _likelihood(self, row: tuple[list[int], int]) -> Likelihood:
        ids, start = row
        with self._explained():
            answer = self._openai.completions.create(
                model=self._model, prompt=ids, max_tokens=1, temperature=0, logprobs=1, echo=True, extra_body={"seed": 0}
            )
        logprobs = answer.choices[0].logprobs if answer.choices else None
        given = (logprobs and logprobs.token_logprobs) or []
        top: Any = (logprobs and logprobs.top_logprobs) or []
        if not len(ids) <= len(given) <= len(ids) + 1 or len(top) != len(given):
            raise UserError(
                f"the server at {self._url} gives {len(given)} log-probabilities for a prompt of {len(ids)} tokens, so it can't say how "
                f"likely a given answer is, and the score would be that of guessing. Ask a server that answers echo=true with logprobs=1"
            )
        asked = slice(start, len(ids))
        scored = [math.nan if value is None else value for value in given[asked]]
        likeliest = [max((likely or {}).values(), default=math.nan) for likely in top[asked]]
        if not all(value <= 0.0 for value in (*scored, *likeliest)):
            raise UserError(f"the server at {self._url} gives log-probabilities that are none: {given[asked][:3]}, {top[asked][:3]}")
        return Likelihood(math.fsum(scored), all(value >= best for value, best in zip(scored, likeliest, strict=True)))

    def _text(self, ask: Ask) -> str:
        with self._explained():
            answer = self._openai.completions.create(
                model=self._model,
                prompt=ask.prompt,
                max_tokens=ask.max_tokens,
                temperature=ask.temperature,
                top_p=ask.top_p,
                seed=ask.seed,
                stop=list(ask.stops) or None,
            )
        if not answer.choices or answer.choices[0].text is None:
            raise UserError(f"the server at {self._url} answers without a text")
        text = answer.choices[0].text
        return text[: min((place for stop in ask.stops if (place := text.find(stop)) >= 0), default=len(text))]

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A server's refusal in one line."""
        import openai

        try:
            yield
        except openai.APIConnectionError as error:
            raise UserError(f"the server at {self._url} can't be reached ({error.__cause__ or error}): is it running?") from error
        except openai.APIError as error:
            raise UserError(f"the server at {self._url} refuses: {' '.join(str(error).split())[:300]}") from error
