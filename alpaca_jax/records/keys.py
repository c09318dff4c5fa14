"""Which keys of a record change its meaning and can't be honoured: refused by name, where they hold anything.

Others say nothing about the text (ids, sources, scores). What nobody knows is counted, so that it can be shown once.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

TOOLS = "records with tools aren't trained here: leave them out, or write what is said as plain text"
MEDIA = "only text is trained here: leave such records out"
PREFERENCE = "a preference is read of a whole record, as chosen and rejected or as kto_tag: move it there, or take it out"
TOKENS = "texts are read, not tokens: give the text, and take the tokens out"
RENDERING = "it changes how the chat is rendered, which data.template decides: take it out"
SYSTEM = "a system message stands under system: rename the key, or take it out"

_REFUSED = {
    TOOLS: "tools functions tool_calls tool_call function_call function_calls tool_choice tool_call_id tool_responses",
    MEDIA: "image images image_url audio audios video videos input_audio",
    PREFERENCE: "chosen rejected kto_label kto_tag preferred dispreferred preferred_output non_preferred_output rejected_output "
    "rejected_response rejected_messages",
    TOKENS: "input_ids labels loss_mask attention_mask assistant_masks completion_mask",
    RENDERING: "chat_template chat_template_kwargs enable_thinking documents response_format",
    SYSTEM: "system_prompt system_message systemprompt",
    "an answer that lies beside its text isn't read: give it as content": "refusal",
    "a text beside the instruction isn't read: rename it to input": "context",
    "only whole answers can be left out of what is learnt: split the turn": "train_detail training_detail",
}
REFUSED = {name: reason for reason, names in _REFUSED.items() for name in names.split()}
FLAGS = ("weight", "train", "trainable", "training", "learn", "loss", "loss_weight", "loss_scale")  # of a message: learnt or only shown
REASONING = ("reasoning_content", "reasoning", "thinking")
HARMLESS = set(
    "id ids uid uuid guid index idx key hash md5 source sources dataset origin split subset score scores rating ratings rank "
    "reward quality difficulty category categories lang language languages topic topics tag tags keyword keywords domain task "
    "tasks type types kind subject level grade url urls link title author authors annotator annotators user username date time "
    "timestamp created updated year month license licence copyright model models generator engine temperature top_p seed meta "
    "metadata info extra notes comment comments version file filename path line turn length lengths tokens perplexity loss toxic "
    "toxicity moderation openai_moderation redacted country state city provenance status end_turn recipient markdown review "
    "reviewed verified deleted synthetic annotations parallel_tool_calls cache_control logprobs likes upvotes downloads "
    "finish_reason usage margin".split()
)
_ENDINGS = (
    "id ids score scores count counts url name date at time hash tokens len length type index idx model version lang language source "
    "probability rating tag tags"
)
_BEGINNINGS = "num n is has model meta created updated chosen rejected score scores"
HARMLESS_PATTERN = re.compile(rf"_+index_level_\d+__|({'|'.join(_BEGINNINGS.split())})_.+|.+_({'|'.join(_ENDINGS.split())})")


def check(item: Mapping[str, Any], where: str, read: frozenset[str], noted: Counter[str], within: str = "") -> None:
    """Raises a ValueError at a key that changes the meaning of the object `where`.

    Counts those that nobody knows in `noted`, as `key NAME`; `within` stands before the name where it is no key of the record itself.
    """
    for name, value in item.items():
        key = str(name).lower().replace("-", "_")
        if name in read or is_empty(value):
            continue
        if key in REFUSED and not (key == "labels" and not _are_numbers(value)):
            raise ValueError(f"{where}{name}: {REFUSED[key]}")
        if key == "label" and isinstance(value, bool):
            raise ValueError(f"{where}{name}: {PREFERENCE}")
        if key == "mask" and str(value).lower() not in ("user", "human"):
            raise ValueError(f"{where}{name}={value!r:.40}: only the assistant's answers are learnt, and all of them; take it out")
        if key not in HARMLESS and not HARMLESS_PATTERN.fullmatch(key) and key != "mask":
            noted[f"key {within}{str(name)[:60]}"] += 1


def is_empty(value: Any) -> bool:
    """Whether a value is that of an absent key, as tables and exports write it: null, nothing, or nothing as JSON."""
    if isinstance(value, str):
        return len(value) < 8 and value.strip() in ("", "[]", "{}", "null")
    return value is None or (isinstance(value, list | dict) and not value) or (isinstance(value, float) and math.isnan(value))


def flag(item: Mapping[str, Any], where: str, names: tuple[str, ...] = FLAGS) -> bool | None:
    """Returns whether what an object holds is learnt: None where it doesn't say; a ValueError where it is neither 0 nor 1."""
    if item.keys().isdisjoint(names):
        return None
    said = {}
    for name in names:
        if is_empty(value := item.get(name)):
            continue
        text = str(value).lower()
        if text not in ("0", "1", "0.0", "1.0", "true", "false"):
            raise ValueError(f"{where}{name}={text[:40]}: an answer is learnt (1) or only shown (0), with nothing between")
        said[name] = text in ("1", "1.0", "true")
    if len(set(said.values())) > 1:
        raise ValueError(f"{where}{' and '.join(said)} contradict each other")
    return next(iter(said.values()), None)


def reasoning(item: Mapping[str, Any], where: str) -> str:
    """Returns what an assistant thought before it answered, "" if nothing; a ValueError where that is no text, or said twice."""
    if item.keys().isdisjoint(REASONING):
        return ""
    said = {name: item[name] for name in REASONING if not is_empty(item.get(name))}
    for name, value in said.items():
        if not isinstance(value, str):
            raise ValueError(f"{where}{name} must be a string, got {type(value).__name__}")
    if len(set(said.values())) > 1:
        raise ValueError(f"{where}{' and '.join(said)} say different things: keep one of them")
    return next(iter(said.values()), "")


def _are_numbers(value: Any) -> bool:
    """Whether a list is one of token ids, rather than of names."""
    return not isinstance(value, list) or all(isinstance(each, int | float) for each in value)
