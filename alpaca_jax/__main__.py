"""The command line: `alpaca-jax VERB [key=value ...]` composes the verb's configuration, checks it and runs the verb."""

import dataclasses
import importlib
import io
import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import alpaca_jax
from alpaca_jax import compilation, familiar, fulldisk, tensorflow
from alpaca_jax import config as configuration
from alpaca_jax.catalog import Catalog
from alpaca_jax.errors import Lost, Restart, UserError, disk_is_full
from alpaca_jax.help import overview, verb_help
from alpaca_jax.masking import masked, visible

VERBS = ("recipe", "generate", "train", "evaluate", "convert", "serve", "inspect", "jobs")
UNSWEPT = {"serve": "doesn't end by itself", "jobs": "is about jobs that were launched"}  # verbs without --multirun, and why
IMPORTS = dict.fromkeys(("train", "evaluate", "convert", "serve", "inspect"), "JAX, which takes some seconds")  # said before it is done
NO_HOME = "no home folder: give whole paths and data.cache=FOLDER (model.cache=, for downloaded models), or set HOME"
# What a key of a provider looks like; one that was typed in a wrong place is not repeated.
KEY_LIKE = re.compile(r"\b(sk-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|gh[a-z]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AIza[\w-]{30,}|AKIA[A-Z0-9]{12,})")
CONFIG_DIR = "ALPACA_JAX_CONFIG_DIR"  # passes --config-dir on to child processes


@dataclasses.dataclass(frozen=True)
class Command:
    """What the command line asks for: a verb, its overrides, and the flags."""

    verb: str
    overrides: tuple[str, ...]
    help: bool = False
    show: bool = False
    multirun: bool = False
    folder: Path | None = None  # the user's own YAML

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.verb, [configuration.directory(), *([self.folder] if self.folder else [])])


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 unexpected, 2 the user's mistake, 130 Ctrl-C, 200 start again, 201 lost a peer or the teacher."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # signs that the terminal's encoding lacks; standard error escapes them
    try:
        with fulldisk.told_once():
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        return _end(130, "stopped; the same command continues from here")
    except (UserError, Restart, Lost) as error:
        return _end(error.exit_code, str(error))
    except Exception as error:
        if disk_is_full(error):
            reason = str(error).splitlines()[0][:300]
            return _end(2, f"the disk is full ({reason}); make room, or give another dir=; the same command continues from here")
        if isinstance(error, RuntimeError) and "determine home directory" in str(error):
            return _end(2, NO_HOME)
        print(masked(visible(traceback.format_exc())), file=sys.stderr)
        return 1


def _dispatch(argv: list[str]) -> int:
    if "--version" in argv:
        return _print(f"alpaca-jax {alpaca_jax.__version__}")
    if not argv or argv[0] in ("-h", "--help", "help"):
        _print(overview(VERBS))
        return 0 if argv else 2
    command = _parse(argv)
    if command.help:
        return _print(verb_help(command.catalog, command.overrides))
    _set_environment(command)
    if command.multirun:
        return _multirun(command)
    if not command.show and command.verb in IMPORTS and "jax" not in sys.modules:
        print(f"alpaca-jax {command.verb}: importing {IMPORTS[command.verb]}", file=sys.stderr, flush=True)
    config = _config(command, _compose(command))
    if command.show:
        return _print(_yaml(configuration.to_mapping(config)).rstrip())
    return _run(command, config)


def _config(command: Command, mapping: Any) -> Any:
    # The verb's config imports quickly; the verb itself imports JAX, so that comes after the configuration has been checked.
    config_class = _config_class(command.verb)
    if (base := command.catalog.base) != command.verb:
        # The verb reads a part of the other verb's configuration, but all of that must be valid.
        read, whole = ({field.name for field in dataclasses.fields(cls)} for cls in (config_class, _config_class(base)))
        own = read - whole
        configuration.parse(_config_class(base), {key: value for key, value in mapping.items() if key not in own}, command.verb)
        mapping = {key: value for key, value in mapping.items() if key in read}
    return configuration.parse(config_class, mapping, command.verb)


def _config_class(verb: str) -> Any:
    return importlib.import_module(f"alpaca_jax.{verb}.config").Config


def _run(command: Command, config: Any) -> int:
    result = importlib.import_module(f"alpaca_jax.{command.verb}.run").run(config)
    if sys.stderr.isatty() and shutil.which("alpaca-jax") is None:  # else the commands that verbs print would not be found
        print(f"once in this shell, to have the command: source {Path(sys.prefix) / 'bin' / 'activate'}", file=sys.stderr)
    return result if isinstance(result, int) else 0


def _parse(argv: list[str]) -> Command:
    verb, *rest = argv
    if verb not in VERBS:
        hint = familiar.verb(verb) or configuration.suggestion(verb, VERBS)
        raise UserError(f"{_shown(verb)} is not a verb{hint} (the verbs: {', '.join(VERBS)})")
    flags: dict[str, Any] = {}
    overrides = []
    arguments = iter(rest)
    for argument in arguments:
        if any("\ud800" <= sign <= "\udfff" for sign in argument):  # how Python hands over bytes that it can't decode
            raise UserError(f"{_shown(argument)} is not UTF-8, in which settings and names of files are given")
        name, equals, value = argument.partition("=")
        if argument in ("-h", "--help"):
            flags["help"] = True
        elif argument == "--cfg":
            flags["show"] = True
        elif argument in ("-m", "--multirun"):
            flags["multirun"] = True
        elif name == "--config-dir":
            flags["folder"] = _own_folder(value if equals else next(arguments, ""))
        elif argument.startswith("-") or not name or (not equals and not argument.startswith("~")):
            raise UserError(_not_a_setting(verb, argument))
        else:
            overrides.append(argument)
    if "folder" not in flags and os.environ.get(CONFIG_DIR):
        flags["folder"] = _own_folder(os.environ[CONFIG_DIR])
    return Command(verb=verb, overrides=tuple(overrides), **flags)


def _not_a_setting(verb: str, argument: str) -> str:
    """What is wrong with an argument that is neither an option nor key=value, and what may have been meant."""
    name = argument.partition("=")[0]
    wrong = f"{_shown(argument)} is not {'an option; settings are given as' if name.startswith('-') else 'of the form'} key=value"
    if argument.endswith((".yaml", ".yml")) or name in ("--config", "-c", "--config-file"):
        return f"{wrong}; keep your settings in DIR/experiment/NAME/{verb}.yaml, and give --config-dir DIR experiment=NAME"
    if argument.endswith((".json", ".jsonl", ".gz", ".zst", ".parquet", ".csv")):
        return f"{wrong}; records are given as data.records={argument}"
    keys = configuration.keys(_config_class(verb))
    return f"{wrong}{familiar.key(name, keys)}; see alpaca-jax {verb} --help"


def _shown(argument: str) -> str:
    argument = masked(argument)  # whole: a part of a secret would not be recognised
    return repr(argument if len(argument) <= 100 else argument[:97] + "...")


def _own_folder(value: str) -> Path:
    folder = Path(value).expanduser().resolve()
    if not value or not folder.is_dir():
        raise UserError(f"--config-dir {value or 'DIR'}: there is no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"--config-dir {value}: this user may not read the folder")
    return folder


def _overrides(command: Command) -> list[str]:
    """The command's settings in Hydra's syntax."""
    composing, words = (importlib.import_module(f"alpaca_jax.composition.{name}") for name in ("compose", "words"))
    folder = [composing.own_folder(command.folder)] if command.folder else []
    return [*words.overrides(command.catalog, command.overrides, command.multirun), *folder]


def _compose(command: Command) -> dict[str, Any]:
    mapping: dict[str, Any] = importlib.import_module("alpaca_jax.composition.compose").compose(command.verb, _overrides(command))
    return mapping


def _multirun(command: Command) -> int:
    """Runs every combination as a job of its own through the launcher; returns the largest exit code."""
    if command.verb in UNSWEPT:
        raise UserError(f"{command.verb} has no --multirun: it {UNSWEPT[command.verb]}")
    multirun = importlib.import_module("alpaca_jax.launcher.multirun")
    arguments = ("--config-dir", str(command.folder)) if command.folder else ()
    request = multirun.Request(command.verb, _overrides(command), arguments, lambda mapping: _config(command, mapping))
    return multirun.multirun(request)


def _set_environment(command: Command) -> None:
    """Sets what libraries read on import and what a recipe's stages read on start; values that the user has set stay."""
    if command.folder:
        os.environ[CONFIG_DIR] = str(command.folder)
    for name, value in tensorflow.SETTINGS.items():
        os.environ.setdefault(name, value)
    compilation.set_environment()


def _yaml(mapping: dict[str, Any]) -> str:
    import yaml

    whole = (getattr(sys.stdout, "encoding", None) or "").lower() in ("utf-8", "utf8")  # else YAML's escapes, which a recipe reads back
    return yaml.safe_dump(mapping, sort_keys=False, allow_unicode=whole)


def _print(text: str) -> int:
    """Prints; ignores a reader that has gone, as in `--help | head`."""
    try:
        print(masked(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _end(code: int, message: str) -> int:
    print(KEY_LIKE.sub("[a key, not shown]", masked(visible(f"alpaca-jax: {message}"))), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
