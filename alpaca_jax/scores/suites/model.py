"""The model that lm-evaluation-harness asks: its texts become rows of ids, BOS once, and a Backend answers.

The methods are those of the harness's `lm_eval.api.model.LM`. This class has no base, so that whoever doesn't run a suite of the harness
needs no harness; `running` registers it there.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from alpaca_jax.data.template import Template
from alpaca_jax.errors import UserError
from alpaca_jax.scores.suites.backend import Ask, Backend, Likelihood, Told
from alpaca_jax.tokenizer import Tokenizer

MAX_TOKENS = 256  # of an answer where the task doesn't say: the harness's own default
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the names that tasks have for it, first come first

Progress = Callable[[str, int], AbstractContextManager[Told]]


class HarnessModel:
    """A tokenizer and a backend as the harness sees a model; `chat` is the template of its chats, None where texts stay as they are."""

    rank, world_size, device = 0, 1, None  # the harness deals nothing out: all processes of a job ask the same

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer,
        progress: Progress,
        chat: Template | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        self._backend, self._tokenizer, self._progress = backend, tokenizer, progress
        self._chat = None if chat is None else tokenizer.with_chat_template(chat.chat_template())
        self._max_tokens, self._seed = max_tokens, seed
        self.max_length = backend.max_length
        self.truncated = 0  # requests whose context lost its beginning

    @property
    def bos(self) -> str:
        """What stands before every text, in words."""
        if self._tokenizer.adds_bos and self._tokenizer.bos_id is not None:
            return f"{self._tokenizer.backend.token(self._tokenizer.bos_id)}, once, before every text"
        return "none, but where the chat template writes one"

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its caches by."""
        return self._tokenizer.fingerprint

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The Jinja of the chat template, None where there is none."""
        return self._chat.chat_template if self._chat else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text, up to the answer, or (without the prompt for one) up to the end of the last message, which is gone on with."""
        assert self._chat is not None
        text = self._chat.render_chat(chat_history, add_generation_prompt)
        if add_generation_prompt:
            return text
        begun = chat_history[-1]["content"].strip()
        return text[: text.rindex(begun) + len(begun)]

    def encode(self, text: str) -> list[int]:
        """The ids of a text, special tokens as such, with BOS once where the tokenizer adds it or the text (a chat) begins with it."""
        ids, bos = self._tokenizer.encode(text, special=True), self._tokenizer.bos_id
        if bos is None:
            return ids
        leading = next((place for place, id in enumerate(ids) if id != bos), len(ids))
        return [bos] * (leading > 0 or self._tokenizer.adds_bos) + ids[leading:]

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Likelihood]:
        """The log-probability of each (context, continuation), and whether it is the greedy one."""
        rows = [self._fitted(*self.pair(*request.args)) for request in requests]
        with self._progress("log-likelihoods", len(rows)) as told:
            return self._backend.likelihoods(rows, told)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each whole text, in windows of the model's length whose contexts don't overlap."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        rows: list[tuple[list[int], int]] = []
        counts = []
        for request in requests:
            ids = self._tokenizer.encode(request.args[0], special=True)
            # A row holds its context and what is scored, so the windows are a token shorter than it may be.
            windows = get_rolling_token_windows(ids, self._prefix, self._backend.max_length - 1, context_len=1)
            pairs = [make_disjoint_window(window) for window in windows]
            rows += [(context + scored, len(context)) for context, scored in pairs]
            counts.append(len(pairs))
        with self._progress("log-likelihoods of texts", len(rows)) as told:
            found = iter(self._backend.likelihoods(rows, told))
        return [sum(next(found).logprob for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the task's stop strings."""
        asks = [self._ask(*request.args) for request in requests]
        with self._progress("answers", len(asks)) as told:
            return self._backend.generate(asks, told)

    @property
    def _prefix(self) -> int:
        """What goes before a text that has no context."""
        return self._tokenizer.eos_id if self._tokenizer.bos_id is None else self._tokenizer.bos_id

    def pair(self, context: str, continuation: str) -> tuple[list[int], int]:
        """The ids of both, and where the continuation begins; as in the harness, spaces at the end of the context belong to it."""
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        if context:
            ids, start = self.encode(context + continuation), len(self.encode(context))
            start = min(start, len(ids) - 1)  # where the first characters of the continuation join the context's last token
        else:
            ids, start = self._tokenizer.encode(continuation, special=True), 0
            start = int(len(ids) > 1 and ids[0] == self._prefix)
        return (ids, start) if start > 0 else ([self._prefix, *ids], 1)

    def _fitted(self, ids: list[int], start: int) -> tuple[list[int], int]:
        """The row without the beginning of a context for which there is no room."""
        excess = len(ids) - self._backend.max_length
        if excess <= 0:
            return ids, start
        if start - excess < 1:
            raise UserError(f"an answer of {len(ids) - start} tokens can't be scored in the model's {self._backend.max_length} positions")
        self.truncated += 1
        return ids[excess:], start - excess

    def _ask(self, context: str, settings: Mapping[str, Any]) -> Ask:
        given = next((settings[name] for name in LIMITS if settings.get(name) is not None), MAX_TOKENS)
        max_tokens = min(int(given), self._max_tokens or int(given))
        room = self._backend.max_length - max_tokens
        if room < 1:
            raise UserError(
                f"answers of up to {max_tokens} tokens leave no room for a question in the model's {self._backend.max_length} positions: "
                f"give max_tokens=N, fewer"
            )
        ids = self.encode(context)
        self.truncated += len(ids) > room
        until = settings.get("until") or []
        drawn = settings.get("do_sample", settings.get("temperature", 0.0) > 0)
        return Ask(
            prompt=ids[-room:],
            max_tokens=max_tokens,
            stops=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
            temperature=float(settings.get("temperature", 1.0)) if drawn else 0.0,
            top_p=float(settings.get("top_p", 1.0)),
            seed=self._seed,
        )
