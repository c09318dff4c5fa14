"""The model card of a Hugging Face folder: README.md, with the facts about the model and its origin.

Names appear as the user gave them, but of a path on this machine only the end, and never the address of a teacher.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import yaml

from alpaca_jax import storage
from alpaca_jax.config import to_mapping
from alpaca_jax.convert import history as histories
from alpaca_jax.convert.history import Data, History
from alpaca_jax.errors import UserError
from alpaca_jax.formats.model import Pretrained
from alpaca_jax.tokenizer import Tokenizer

HASHED = 2 * 10**9  # most bytes of a source that are read for its sha256
FAMILIES = {"llama": "LLaMA", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3"}
HUB = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # the hub's names of the models known by name here
# Licences by the beginning of a repository's name on the hub, longer ones first. The licence of any other model is not known.
LICENSES = {
    "huggingfacetb/smollm": "apache-2.0",
    "meta-llama/llama-2-": "llama2",
    "meta-llama/meta-llama-3.1-": "llama3.1",
    "meta-llama/llama-3.1-": "llama3.1",
    "meta-llama/llama-3.2-": "llama3.2",
    "meta-llama/llama-3.3-": "llama3.3",
    "meta-llama/meta-llama-3-": "llama3",
    "mistralai/mistral-7b-": "apache-2.0",
}
DATA_LICENSES = {"tatsu-lab/alpaca": "cc-by-nc-4.0 (research only); OpenAI's text-davinci-003 wrote it, and OpenAI's terms apply as well"}
INSIDE = re.compile(r"\d+|train|checkpoints|records|hf")  # names of folders inside a run, which say nothing without the run's own name
Row = tuple[str, str]


def render(target: str, model: Pretrained, dtype: str, license: str | None, alone: bool = False) -> str:
    """Returns the card of `model` written to `target` in `dtype` under `license` (an identifier of the hub; None: not stated).

    `alone`: of its adapter without the base. The card of a model from a training run has its data, its recipe and its bill; a UserError
    where the run's files are damaged.
    """
    try:
        return _rendered(target, model, dtype, license, alone)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{model.source}: the files of its run (summary.json, metrics.jsonl, manifests) are not as a run writes them "
            f"({type(error).__name__}: {str(error)[:200]}), so its model card can't be written; put them right, or move them away"
        ) from error


def _rendered(target: str, model: Pretrained, dtype: str, license: str | None, alone: bool) -> str:
    history = histories.read(model)
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=folder, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _cell
    return environment.get_template("card.md.jinja").render(
        front=yaml.safe_dump(_front(model, history, license, alone), sort_keys=False, allow_unicode=True),
        target=bare(target),
        base=(_repository(model.origin) or bare(model.origin) if model.origin else "THE BASE") if alone else None,
        source=bare(model.source),
        origin=bare(model.origin) if model.origin else None,
        family=FAMILIES.get(model.architecture.family, model.architecture.family),
        millions=model.architecture.num_parameters / 1e6,
        sizes=[*_sizes(model), ("dtype", dtype), *_source(model)],
        history=history,
        recipe=list(_recipe(history)) if history else [],
        data=[(bare(data.name), list(_data(data))) for data in history.data] if history else [],
        bill=list(_bill(history)) if history else [],
        licenses=list(_licenses(model, history, license)),
        prompt=_prompt(model.tokenizer),
    )


def _prompt(tokenizer: Tokenizer) -> str | None:
    """A question in the model's chat template; None where it has none, or refuses a question alone."""
    if tokenizer.chat_template is None:
        return None
    try:
        return tokenizer.render_chat([{"role": "user", "content": "Give three tips for staying healthy."}])
    except UserError:
        return None


def bare(name: str) -> str:
    """Returns a name or a relative path as it is, and of an absolute path the end, from the last meaningful part on."""
    path = Path(name).expanduser()
    if not path.is_absolute():
        return name
    parts = path.parts[1:]
    first = next((at for at in reversed(range(len(parts))) if not INSIDE.fullmatch(parts[at].partition("#")[0])), 0)
    return "/".join(parts[first:])


def _cell(text: str) -> str:
    """The text, escaped for a cell of a table."""
    return " ".join(text.replace("|", "\\|").split())


def _front(model: Pretrained, history: History | None, license: str | None, alone: bool) -> dict[str, Any]:
    front: dict[str, Any] = {"library_name": "peft" if alone else "transformers", "pipeline_tag": "text-generation"}
    if license:
        front["license"] = license
    if repository := _repository(model.origin or model.source):
        front["base_model"] = repository
    if datasets := [data.published for data in history.data if data.published] if history else []:
        front["datasets"] = datasets
    return front | {"tags": [model.architecture.family, *(["lora"] if alone else []), "alpaca-jax"]}


def _repository(source: str) -> str | None:
    """The repository on the hub of a source, or None."""
    if source in HUB:
        return HUB[source]
    return source if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source) and not Path(source).exists() else None


def _sizes(model: Pretrained) -> Iterator[Row]:
    for field, value in to_mapping(model.architecture).items():
        if value not in (None, [], ()):
            yield field, str(value)


def _source(model: Pretrained) -> Iterator[Row]:
    yield "source", f"{bare(model.source)}, {model.format}"
    size = sum(storage.size(file) for file in model.files)
    if model.files and size <= HASHED:
        yield "source, sha256", f"`{model.fingerprint}`"


def _recipe(history: History) -> Iterator[Row]:
    config, summary = history.config, history.summary
    steps = summary.get("steps")
    yield "checkpoint", f"step {history.step:,}" + (f", the last; {summary['epochs']:.3g} epochs" if steps else "")
    if summary:
        yield "examples", f"{summary['examples']:,}"
    if batch := config.get("batch"):
        size = f"{batch['examples']:,} examples" if batch.get("examples") else f"{batch['tokens']:,} tokens"
        yield "batch", f"{size} a step, rows of {batch['sequence_length']:,}, {batch.get('packing', 'packed')}"
    if optimizer := config.get("optimizer"):
        clip = f", gradient clipped at {optimizer['clip']:g}" if optimizer.get("clip") else ""
        yield "optimizer", f"{optimizer['name']}, weight decay {optimizer['weight_decay']:g}{clip}"
        yield "learning rate", f"{optimizer['learning_rate']:g}, {optimizer['schedule']}, warm-up {optimizer['warmup']:.1%} of the steps"
        if optimizer.get("frozen"):
            yield "frozen", ", ".join(optimizer["frozen"])
    if adapter := config.get("adapter"):
        kind = "DoRA" if adapter["dora"] else "LoRA"
        over = " over a base in four bits (NF4)" if adapter["base"] else ""
        yield "adapter", f"{kind} of rank {adapter['rank']}, alpha {adapter['alpha']:g}{over}"
    if model := config.get("model"):
        yield "precision", f"weights {model['dtype']}, computed in {model['compute_dtype']}"
    if data := config.get("data"):
        yield "template", bare(data["template"])
        yield "longest example", f"{data['max_length']:,} tokens"
    yield "seed", str(config.get("seed", "unknown"))
    yield from _losses(history)
    if hardware := summary.get("hardware"):
        yield "hardware", f"{hardware['devices']} x {hardware['chip']}"


def _losses(history: History) -> Iterator[Row]:
    losses = [line["loss"] for line in history.metrics if line.get("loss") is not None]
    last = history.meta.get("loss")
    if last is not None:
        yield "loss (nats a target token)", (f"{losses[0]:.4f} at the first step, " if losses else "") + f"{last:.4f} at this one"
    measured = [line["heldout_loss"] for line in history.metrics if line.get("heldout_loss") is not None]
    heldout = history.scores.get("heldout") or {}
    before, after = (heldout.get(name) or {} for name in ("before", "after"))
    if after:
        start = f"{before['loss']:.4f} before, " if before else ""
        yield "held-out loss", f"{start}{after['loss']:.4f} after, over {after['examples']:,} examples"
    elif measured:
        yield "held-out loss", f"{measured[-1]:.4f}, the last measured while it was trained"
    if history.meta.get("tokens_real"):
        yield "tokens trained on", f"{history.meta['tokens_real']:,}"


def _data(data: Data) -> Iterator[Row]:
    manifest, counts = data.manifest, dict(data.manifest.get("counts") or {})
    if data.published:
        yield "published as", f"`{data.published}`"
    if not manifest:
        return
    dropped = {name: number for name, number in counts.items() if name != "kept" and number}
    yield "teacher", _teacher(manifest)
    yield "method", str(manifest["method"]).replace("_", "-")
    yield "records", f"{manifest['records']:,} kept of {sum(counts.values()) or manifest['records']:,}"
    yield "dropped", ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in dropped.items()) or "none"
    if sampling := manifest.get("sampling"):
        yield "sampling", ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sampling.items() if value is not None)
    against = data.settings.get("decontaminate")
    if data.settings:
        yield "decontaminated against", ", ".join(bare(file) for file in against) if against else "nothing"
    yield "tokens", f"{manifest['prompt_tokens']:,} of prompts, {manifest['completion_tokens']:,} of answers"
    yield "sha256", f"`{manifest['sha256']}`"
    yield "made", str(manifest.get("made") or "unknown")


def _teacher(manifest: dict[str, Any]) -> str:
    teacher = manifest["teacher"]
    return bare(str(teacher.get("model") or teacher.get("source") or "unknown"))


def _bill(history: History) -> Iterator[tuple[str, str, str]]:
    """Name, hours and dollars of each stage."""
    total = 0.0
    for manifest in (data.manifest for data in history.data if data.manifest):
        total += manifest["dollars"]
        doubtful = manifest.get("doubtful_dollars") or 0.0
        most = f" (at most {doubtful:,.2f} more for answers that never arrived)" if doubtful else ""
        price = (manifest.get("prices") or {}).get("source") or "price unknown"
        hours = _hours(history.seconds.get("generate", manifest.get("seconds")))
        yield f"records by {_teacher(manifest)}", hours, f"{manifest['dollars']:,.2f}{most}; {price}"
    seconds, rate = history.meta.get("seconds"), (history.config.get("hardware") or {}).get("dollars_per_hour")
    if rate is None or seconds is None:
        yield "training", _hours(seconds), "unknown: no price of the hardware was given"
    else:
        yield "training", _hours(seconds), f"{seconds / 3600 * rate:,.2f}, at {rate:g} an hour"
        yield "records and training", "", f"{total + seconds / 3600 * rate:,.2f}"


def _hours(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds / 3600:,.2f}"


def _licenses(model: Pretrained, history: History | None, license: str | None) -> Iterator[str]:
    """What is known of the terms of the weights, one sentence each."""
    if license:
        yield f"Whoever wrote this folder states the licence `{license}` for its weights."
    else:
        yield "No licence was stated when this folder was written: the licences of everything it derives from apply."
    if model.origin or history is None:
        source = model.origin or model.source
        yield f"The weights of `{bare(source)}`: {_license(source)}."
    else:
        yield "Training started from random weights, so no other model's licence applies to them."
    for data in history.data if history else ():
        if data.manifest:
            teacher = _teacher(data.manifest)
            terms = f"the terms of that model apply to what is trained on its answers (its licence: {_license(teacher)})"
            yield f"The records `{bare(data.name)}` were written by `{teacher}`: {terms}."
        else:
            yield f"The records `{bare(data.name)}`: {DATA_LICENSES.get(data.published or '', 'their licence is not known here')}."


def _license(source: str) -> str:
    name = (_repository(source) or source).lower()
    known = next((license for start, license in LICENSES.items() if name.startswith(start)), None)
    return f"`{known}`" if known else "not known here; see its source"
