"""A suite's requests, answered by a model in memory."""

from collections.abc import Collection, Sequence

from alpaca_jax.decode.batch import Batch
from alpaca_jax.decode.generation import Generation, Options
from alpaca_jax.decode.scoring import Scoring
from alpaca_jax.scores.suites.backend import Ask, Likelihood, Told
from alpaca_jax.tokenizer import Tokenizer

ROWS = 256  # scored in one call: between two calls progress is told
TAIL = 8  # tokens beside those of a stop string, in which it is looked for


class InProcess:
    """Scores and generates with programs of `decode`; the tokens in `stop_ids` end an answer."""

    def __init__(self, scoring: Scoring, batch: Batch, tokenizer: Tokenizer, stop_ids: Collection[int]) -> None:
        self.max_length = min(scoring.max_length, batch.max_length)
        self._scoring, self._batch, self._tokenizer = scoring, batch, tokenizer
        self._stop_ids = frozenset(stop_ids)

    def likelihoods(self, rows: Sequence[tuple[list[int], int]], told: Told) -> list[Likelihood]:
        """Of the tokens from `start` on, for each (ids, start)."""
        found: dict[int, Likelihood] = {}
        # Neighbours share a context, which is read once, so rows stay in the order in which a task asks for them.
        for first in range(0, len(rows), ROWS):
            for number, scored in enumerate(self._scoring.score(rows[first : first + ROWS]), start=first):
                found[number] = Likelihood(scored.logprob, scored.is_greedy)
            told(len(found))
        return [found[number] for number in range(len(rows))]

    def generate(self, asks: Sequence[Ask], told: Told) -> list[str]:
        """The text that follows each prompt, as many at a time as the batch has slots."""
        texts: dict[int, str] = {}
        live: dict[Generation, int] = {}
        waiting = list(enumerate(asks))[::-1]
        while waiting or live:
            while waiting and self._batch.free:
                number, ask = waiting.pop()
                live[self._batch.admit(ask.prompt, self._options(ask))] = number
            for generation in self._batch.step():
                ask = asks[live[generation]]
                if generation.finish_reason is None:
                    if not self._stopped(generation, ask.stops):
                        continue
                    self._batch.release(generation)
                texts[live.pop(generation)] = self._text(generation, ask.stops)
                told(len(texts))
        return [texts[number] for number in range(len(asks))]

    def _options(self, ask: Ask) -> Options:
        # A special token leaves no text, so a stop string that names one is looked for among the ids.
        named = {self._tokenizer.backend.specials[stop] for stop in ask.stops if stop in self._tokenizer.backend.specials}
        return Options(ask.max_tokens, ask.temperature, ask.top_p, ask.seed, self._stop_ids | named)

    def _stopped(self, generation: Generation, stops: Sequence[str]) -> bool:
        longest = max((len(stop.encode()) for stop in stops), default=0)  # a token has a byte at least
        tail = self._tokenizer.decode([token.id for token in generation.tokens[-longest - TAIL :]])
        return any(stop in tail for stop in stops)

    def _text(self, generation: Generation, stops: Sequence[str]) -> str:
        text = self._tokenizer.decode([token.id for token in generation.tokens])
        return text[: min((place for stop in stops if (place := text.find(stop)) >= 0), default=len(text))]
