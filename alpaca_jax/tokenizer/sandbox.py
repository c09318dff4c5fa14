"""Renders chat templates as `transformers` does, with the tags, filters and functions for which published templates are written.

A template comes with a download. It runs in Jinja's sandbox, which keeps it from Python and from the machine, and within a Budget.
"""

import contextvars
import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_eval_context
from jinja2.visitor import NodeTransformer

from alpaca_jax.tokenizer.budget import Budget, Overspent

LONGEST, TAGS = 1 << 16, 5_000  # characters and tags of a template; the longest published ones have about 30,000 and 500
NODE = 16  # what a message or a key counts, in characters
_COUNTED = "counted items"  # no template can spell the name of this filter
_budget: contextvars.ContextVar[Budget] = contextvars.ContextVar("budget")
_rendering: contextvars.ContextVar["_Rendering"] = contextvars.ContextVar("rendering")


class Rendered(NamedTuple):
    """A chat as text, and the (start, end) of what stands in its `{% generation %}` blocks."""

    text: str
    spans: tuple[tuple[int, int], ...]


class _Rendering:
    """The text of a chat so far."""

    def __init__(self, now: datetime.datetime | None) -> None:
        self.now = now
        self.length = 0
        self.spans: list[tuple[int, int]] = []


def render(template: str, values: Mapping[str, Any], now: datetime.datetime | None = None) -> Rendered:
    """Returns the chat that `template` makes of `values`; a ValueError says why it refuses them.

    `now`: what `strftime_now` takes for the time.
    """
    budget, rendering = Budget(_characters(values)), _Rendering(now)
    set_budget, set_rendering = _budget.set(budget), _rendering.set(rendering)
    parts = []
    try:
        compiled = _compiled(template)
        for part in compiled.root_render_func(compiled.new_context(dict(values))):
            budget.step()
            rendering.length += len(part)
            budget.allow(rendering.length)
            parts.append(part)
    except Overspent as error:
        raise ValueError(f"it asks for more than any chat needs ({error}); don't trust it") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except MemoryError:
        raise ValueError("it is nested too deep, or takes too much memory") from None
    except Exception as error:  # a template is a program, and may end with any exception
        raise ValueError(str(error) or type(error).__name__) from error
    finally:
        _budget.reset(set_budget)
        _rendering.reset(set_rendering)
    return Rendered("".join(parts), tuple(rendering.spans))


@functools.lru_cache(maxsize=8)
def tracks(template: str) -> bool:
    """Whether the template marks what an assistant generates."""
    return re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template) is not None


def _characters(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(NODE + _characters(key) + _characters(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return sum(NODE + _characters(each) for each in value)
    return len(value) if isinstance(value, str) else 0


class Generation(Extension):
    """The tag `{% generation %}`, in which stands what an assistant generates."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_generated"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _generated(self, context: nodes.EvalContext, caller: Macro) -> str:
        text, rendering = caller(), _rendering.get()
        rendering.spans.append((rendering.length, rendering.length + len(text)))
        return text


class Generator(CodeGenerator):
    """Compiles a template so that what it puts together is weighed."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for each in node.nodes:
            self.visit(each, frame)
            self.write(", ")
        self.write("))")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._made(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._made(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._made(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _made(self, visit: Callable[[Any, Frame], None], node: nodes.Node, frame: Frame) -> None:
        self.write("environment.made(")
        visit(node, frame)
        self.write(")")


class _Loops(NodeTransformer):
    """Lets every loop count its rounds."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, _COUNTED, [], [], None, None, lineno=node.lineno)
        return node


class Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, within a Budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "**", "%"))
    code_generator_class = Generator

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _Loops().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _budget.get().check_operator(operator, left, right)
        return self.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **options: Any) -> Any:
        budget = _budget.get()
        budget.step()
        bound = getattr(__obj, "__wrapped__", __obj)  # of str.format, which Jinja wraps
        subject, name = getattr(bound, "__self__", None), getattr(bound, "__name__", "")
        if isinstance(subject, str | bytes | int):
            if name == "join" and args:
                args = (list(budget.counted(args[0])), *args[1:])
                budget.check_join(subject, args[0])
            else:
                budget.check_call(name, subject, args, options)
        elif isinstance(__obj, LoopContext) and args:
            args = (budget.counted(args[0]), *args[1:])
        return __self.made(super().call(__context, __obj, *args, **options))

    def getitem(self, obj: Any, argument: Any) -> Any:
        value = super().getitem(obj, argument)
        if isinstance(argument, slice):
            _budget.get().step(1 + len(value) // 1000)
        return value

    def made(self, value: Any) -> Any:
        return _budget.get().made(value)

    def joined(self, parts: tuple[Any, ...]) -> Any:
        """What `~` makes of its operands."""
        _budget.get().weigh(parts)
        return self.made("".join(map(str, parts)))

    def concat(self, parts: Iterable[str]) -> str:
        parts = list(parts)
        _budget.get().check_join("", parts)
        return self.made("".join(parts))


def _guarded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that asks the Budget first."""
    first = int(hasattr(function, "jinja_pass_arg"))  # the context or the environment comes before the subject

    @functools.wraps(function)
    def guarded(*args: Any, **options: Any) -> Any:
        budget, given = _budget.get(), list(args)
        subject, others = given[first], given[first + 1 :]
        if name == "join":
            given[first] = list(budget.counted(subject))
            budget.check_join([*others, *options.values(), ""][0], given[first])
        elif name == "sum":
            given[first] = list(budget.counted(subject))
            budget.allow(len(given[first]) * budget.weigh(given[first]))
        elif name == "format":
            budget.check_format(subject, "%", (others, options))
        else:
            budget.check_call(name, str(subject) if name in ("center", "indent", "replace", "wordwrap") else subject, others, options)
        return budget.made(function(*given, **options))

    return guarded


class _Dictionary:
    """What templates know as `dict`, without the attributes of the type."""

    def __call__(self, *args: Any, **items: Any) -> dict[Any, Any]:
        return dict(*args, **items)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """What templates know as `namespace`; its text is its name alone, since one may hold itself."""

    def __init__(*args: Any, **items: Any) -> None:  # a template may set `self`
        attributes = dict(*args[1:], **items)
        for name in attributes:
            _Namespace._check(name)
        Namespace.__init__(args[0], attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        super().__setitem__(name, value)

    @staticmethod
    def _check(name: str) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace has no attribute {name!r}: it begins with an underscore")

    def __repr__(self) -> str:
        return "<Namespace>"


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    _budget.get().allow(1000 * len(format))
    return (_rendering.get().now or datetime.datetime.now()).strftime(format)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:  # Jinja's own escapes HTML
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.cache
def _environment() -> Environment:
    # The settings of transformers.
    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.filters = {name: _guarded(name, function) for name, function in environment.filters.items()}
    environment.filters[_COUNTED] = lambda items: _budget.get().counted(items)
    del environment.globals["lipsum"]  # makes paragraphs by the million
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    environment.globals |= {"dict": _Dictionary(), "namespace": _Namespace}
    return environment


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    if len(template) > LONGEST or len(re.findall(r"\{[{%]", template)) > TAGS:
        raise Overspent(f"a template of more than {LONGEST:,} characters or {TAGS:,} tags")
    return _environment().from_string(template)
