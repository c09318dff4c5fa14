"""What should make a reader distrust a comparison, whatever its numbers say."""

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping, Sequence

NEARLY = 0.5  # of the answers: a model that says one thing to half of all prompts isn't answering them


@dataclasses.dataclass(frozen=True)
class Flag:
    """One such thing: its kind, a sentence that can stand alone, and the number behind it (a share from 0 to 1)."""

    kind: str
    sentence: str
    value: float


def answer_flags(name: str, answers: Sequence[str], labels: Sequence[str] = ("A", "B")) -> tuple[Flag, ...]:
    """The flags of one model's answers to different prompts: (nearly) one answer throughout, empty ones, ones that name the judge's labels.

    A constant answer reached a length-controlled win rate of 86.5 on AlpacaEval 2 (Zheng et al. 2024, arXiv 2410.07137).
    """
    if not answers:
        return ()
    found, total = [], len(answers)
    trimmed = [answer.strip() for answer in answers]
    empty = sum(not answer for answer in trimmed)
    if empty:
        found.append(Flag("empty answers", f"{empty} of {total} answers of {name} are empty.", empty / total))
    text, count = Counter(trimmed).most_common(1)[0]
    if text and total > 1 and count > NEARLY * total:
        kind = "constant answer" if count == total else "nearly constant answer"
        sentence = f"{name} gives one and the same answer to {count} of {total} prompts ({len(set(trimmed))} distinct answers)."
        found.append(Flag(kind, sentence, count / total))
    named = sum(names_a_label(answer, labels) for answer in trimmed)
    if named:
        sentence = f"{named} of {total} answers of {name} speak of the labels under which the judge sees them, and may address the judge."
        found.append(Flag("names the labels", sentence, named / total))
    return tuple(found)


def names_a_label(answer: str, labels: Sequence[str]) -> bool:
    """Whether an answer speaks of itself or the other by a label, as in "Answer A is better"; a bare letter doesn't count."""
    alternatives = "|".join(re.escape(label) for label in labels)
    noun = r"(?:answer|assistant|response|output|model|option|candidate)"
    spoken_of = rf"\b{noun}\s*[\"'(\[*]*(?:{alternatives})[\"')\]*]*\s+(?:is|was|wins|should|better|over)\b"
    return re.search(spoken_of, answer, re.IGNORECASE) is not None


def judge_flags(judge: str, others: Mapping[str, str]) -> tuple[Flag, ...]:
    """The flags of a judge that is one of `others` (a model's name by its role) or of its family: judges prefer their own kind."""
    found = []
    for role, other in others.items():
        if _plain(judge) == _plain(other):
            found.append(Flag(f"the judge is the {role}", f"The judge {judge} is the {role} itself, and may prefer its own style.", 1.0))
        elif family(judge) and family(judge) == family(other):
            sentence = f"The judge {judge} is of the same family ({family(judge)}) as the {role} {other}, and may prefer its own style."
            found.append(Flag(f"the judge is of the {role}'s family", sentence, 1.0))
    return tuple(found)


# Words of a model's name, by the family that they mean; the first match counts, so a Llama that was distilled from a GPT is a Llama.
_FAMILIES = {
    "Llama": ("llama", "vicuna", "alpaca", "tulu", "guanaco"),
    "SmolLM": ("smollm",),
    "Qwen": ("qwen", "qwq"),
    "Mistral": ("mistral", "mixtral", "ministral", "zephyr"),
    "Gemma": ("gemma",),
    "Gemini": ("gemini",),
    "Claude": ("claude",),
    "DeepSeek": ("deepseek",),
    "Phi": ("phi",),
    "Command": ("command",),
    "OLMo": ("olmo",),
    "Falcon": ("falcon",),
    "GPT": ("gpt", "chatgpt", "davinci", "o1", "o3", "o4"),
}


def family(name: str) -> str:
    """The family of a model by its name: "GPT" for gpt-4o and text-davinci-003, "" for one that isn't known."""
    words = [re.sub(r"\d+$", "", word) if not re.fullmatch(r"o\d", word) else word for word in re.split(r"[^a-z0-9]+", _plain(name))]
    words += [re.match(r"[a-z]*", word)[0] for word in words if not re.fullmatch(r"o\d", word)]  # type: ignore[index]
    return next((each for each, marks in _FAMILIES.items() if any(mark in words for mark in marks)), "")


def _plain(name: str) -> str:
    """A model's name without its owner, case and date, so that `openai/gpt-4o-2024-08-06` is `gpt-4o`; a longer path stays whole."""
    bare = (name.rsplit("/", 1)[-1] if name.count("/") == 1 else name).lower().strip()
    return re.sub(r"[-_@:](?:20\d{2}-?\d{2}-?\d{2}|latest)$", "", bare)
