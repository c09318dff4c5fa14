"""The rewards of a run's config, over many answers at once."""

import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from alpaca_jax.errors import UserError
from alpaca_jax.rewards import sandbox, text
from alpaca_jax.rewards.config import ExactConfig, FormatConfig, JudgeRewardConfig, LengthConfig, PythonConfig, RewardConfig, TestsConfig
from alpaca_jax.rewards.judge import Grader
from alpaca_jax.rewards.sandbox import Ran


@dataclass(frozen=True)
class Sample:
    """An answer to a prompt, and the record's own output, which says what is right."""

    prompt: str
    answer: str
    key: str = ""


@dataclass(frozen=True)
class Scored:
    """An answer's reward: the weighted sum of `parts`, or None where one of them has a problem, which is named."""

    reward: float | None
    parts: Mapping[str, float | None]
    problem: str = ""


class Rewards:
    """The rewards by name, ready to score; a UserError where a file can't be read or a pattern compiled. Judges log in `folder`/NAME."""

    def __init__(self, configs: Mapping[str, RewardConfig], folder: Path) -> None:
        self._configs = configs
        self._sources: dict[str, str] = {}
        self._graders: dict[str, Grader] = {}
        for name, config in configs.items():
            if isinstance(config, FormatConfig) and config.pattern is not None:
                text.compiled(config.pattern)
            if isinstance(config, PythonConfig):
                self._sources[name] = _source(name, config)
            if isinstance(config, JudgeRewardConfig):
                self._graders[name] = Grader(name, config, folder / name)

    def score(self, samples: Sequence[Sample]) -> list[Scored]:
        """The rewards of all samples, in their order; programs run side by side, one for each core."""
        found = {name: self._all(name, config, samples) for name, config in self._configs.items()}
        return [self._sum({name: ran[index] for name, ran in found.items()}) for index in range(len(samples))]

    def _all(self, name: str, config: RewardConfig, samples: Sequence[Sample]) -> list[Ran]:
        if isinstance(config, JudgeRewardConfig):
            return self._graders[name].grade([(sample.prompt, sample.answer) for sample in samples])
        with ThreadPoolExecutor(os.cpu_count() if isinstance(config, TestsConfig | PythonConfig) else 1) as pool:
            return list(pool.map(lambda sample: self._value(name, config, sample), samples))

    def _value(self, name: str, config: RewardConfig, sample: Sample) -> Ran:
        if isinstance(config, ExactConfig):
            return Ran(text.exact(config, sample.answer, sample.key))
        if isinstance(config, FormatConfig):
            return Ran(text.format(config, sample.answer))
        if isinstance(config, LengthConfig):
            return Ran(text.length(config, sample.answer))
        if isinstance(config, TestsConfig):
            # Code that fails, hangs or takes too much is a wrong answer, not a broken reward.
            return Ran(sandbox.passes(config, sample.answer, sample.key).value or 0.0)
        assert isinstance(config, PythonConfig)
        ran = sandbox.calls(config, self._sources[name], sample.prompt, sample.answer, sample.key)
        return ran if ran.value is None or math.isfinite(ran.value) else Ran(None, f"returned {ran.value}")

    def _sum(self, parts: Mapping[str, Ran]) -> Scored:
        problem = "; ".join(f"reward {name} {ran.problem}" for name, ran in parts.items() if ran.value is None)
        values = {name: ran.value for name, ran in parts.items()}
        total = None if problem else sum(self._configs[name].weight * value for name, value in values.items() if value is not None)
        return Scored(total, values, problem)


def problems(scored: Sequence[Scored]) -> Counter[str]:
    """How often each problem occurred."""
    return Counter(one.problem for one in scored if one.problem)


def _source(name: str, config: PythonConfig) -> str:
    try:
        source = Path(config.file).read_text()
        compile(source, config.file, "exec")
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"reward {name}: file={config.file} can't be read as Python: {error}") from error
    if "def reward(" not in source:
        raise UserError(f"reward {name}: file={config.file} defines no function reward(prompt, answer, key)")
    return source
