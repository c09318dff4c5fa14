"""A teacher on a server: its most probable tokens at each place, by their ids.

Texts of tokens aren't asked for: several tokens may have the same text, and none of it says which. Prompts are sent as ids, too.
"""

import contextlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urldefrag

import numpy as np

from alpaca_jax.data.pack import Batch
from alpaca_jax.errors import UserError
from alpaca_jax.formats.model import PROBE
from alpaca_jax.teacher import bounded
from alpaca_jax.teacher.config import is_here
from alpaca_jax.tokenizer import Tokenizer
from alpaca_jax.train.distill.asking import ids_dtype
from alpaca_jax.train.distill.cache import Kept

SECONDS = 600.0  # for one answer
TOGETHER = 8  # requests under way
ID = re.compile(r"token_id:(\d+)")


class Served:
    """The teacher at `address`, as http://host:8000/v1 or http://host:8000/v1#MODEL; without MODEL, the first one that it serves."""

    def __init__(self, address: str, tokenizer: Tokenizer, count: int) -> None:
        import openai

        self._url, model = urldefrag(address)
        client = bounded.client(SECONDS, direct=is_here(self._url))
        self._openai = openai.OpenAI(api_key="none", base_url=self._url, timeout=SECONDS, max_retries=5, http_client=client)
        self._tokenizer, self._count = tokenizer, count
        self.model = model or self._first()

    @property
    def kept(self) -> dict[str, Kept]:
        """The arrays of its cache."""
        slots = (self._count,)
        return {"best": Kept(ids_dtype(self._tokenizer.vocab_size), slots), "log_probs": Kept("float16", slots)}

    def check(self) -> None:
        """A UserError where the server doesn't answer by ids, or its tokens aren't the student's."""
        ids = self._tokenizer.encode(PROBE, start=False)
        self._read(ids)
        with self._explained():
            answer = self._openai.completions.create(model=self.model, prompt=ids, max_tokens=1, temperature=0, echo=True)
        text, own = answer.choices[0].text, self._tokenizer.decode(ids, skip_special=False)
        if not text.lstrip().startswith(own.strip()):
            raise UserError(
                f"the teacher at {self._url} has another tokenizer than the student: it reads {own!r} as {text[: len(own)]!r}. "
                "Give a teacher of the student's own family, or have it write the texts (alpaca-jax generate) and train on them"
            )

    def ask(self, batch: Batch, number: int) -> dict[str, np.ndarray]:
        """The most probable tokens after each token of a batch, best first, and their log-probabilities at temperature 1."""
        rows, length = batch["tokens"].shape
        found = {name: np.zeros((rows, length, *kept.shape), kept.dtype) for name, kept in self.kept.items()}
        found["log_probs"][:] = -np.inf
        places = [(row, np.flatnonzero(batch["segments"][row] == segment)) for row in range(rows) for segment in _segments(batch, row)]
        with ThreadPoolExecutor(TOGETHER) as pool:
            answers = pool.map(lambda place: self._read(batch["tokens"][place[0]][place[1]].tolist()), places)
            for (row, where), told in zip(places, answers, strict=True):
                for place, likely in zip(where, told, strict=False):  # there is one less: nothing is asked after the last token
                    found["best"][row, place, : len(likely)] = [id for id, _ in likely]
                    found["log_probs"][row, place, : len(likely)] = [log_prob for _, log_prob in likely]
        return found

    def _read(self, ids: Sequence[int]) -> list[list[tuple[int, float]]]:
        """After each token of a prompt but the last, the most probable ones and their log-probabilities, best first."""
        if len(ids) < 2:
            return []
        with self._explained():
            answer = self._openai.completions.create(
                model=self.model, prompt=list(ids), max_tokens=1, temperature=0, logprobs=self._count, echo=True,
                extra_body={"return_tokens_as_token_ids": True},
            )  # fmt: skip
        logprobs = answer.choices[0].logprobs if answer.choices else None
        top: Any = (logprobs and logprobs.top_logprobs) or []
        if not len(ids) <= len(top) <= len(ids) + 1:
            raise UserError(
                f"the server at {self._url} gives {len(top)} places with log-probabilities for a prompt of {len(ids)} tokens: ask one that "
                f"answers echo=true with logprobs={self._count}, such as vLLM or alpaca-jax serve"
            )
        return [self._ranked(likely or {}) for likely in top[1 : len(ids)]]

    def _ranked(self, likely: Mapping[str, float]) -> list[tuple[int, float]]:
        found = []
        for name, log_prob in likely.items():
            match = ID.fullmatch(name)
            if match is None or not math.isfinite(log_prob) or int(match[1]) >= self._tokenizer.vocab_size:
                raise UserError(
                    f"the server at {self._url} says {name!r}: {log_prob} where a token's id is needed, as in 'token_id:17': ask one that "
                    "knows return_tokens_as_token_ids, such as vLLM or alpaca-jax serve"
                )
            found.append((int(match[1]), log_prob))
        return sorted(found, key=lambda each: -each[1])[: self._count]

    def _first(self) -> str:
        with self._explained():
            models = list(self._openai.models.list())
        if not models:
            raise UserError(f"the server at {self._url} names no model")
        return str(models[0].id)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """A server's refusal in one line."""
        import openai

        try:
            yield
        except openai.APIConnectionError as error:
            raise UserError(f"the teacher at {self._url} can't be reached ({error.__cause__ or error}): is it running?") from error
        except openai.APIError as error:
            raise UserError(f"the teacher at {self._url} refuses: {' '.join(str(error).split())[:300]}") from error


def _segments(batch: Batch, row: int) -> range:
    return range(1, int(batch["segments"][row].max(initial=0)) + 1)
