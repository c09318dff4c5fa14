"""Chat templates of strangers: refused at once where they ask for more than a chat needs, and kept from Python."""

import datetime
import resource
import time

import pytest

from alpaca_jax.tokenizer import budget
from alpaca_jax.tokenizer.sandbox import render, tracks

MESSAGES = [{"role": "user", "content": "Hi"}]
DOUBLING = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}{{ ns.x USE }}"


def doubling(start: str, step: str, use: str = "") -> str:
    return DOUBLING.replace("START", start).replace("STEP", step).replace("USE", use)


LOOPS = "{% for a in range(100000) %}{% for b in range(100000) %}BODY{% endfor %}{% endfor %}"
HUGE = [
    *(
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ [1] * 10**9 }}",
        "{{ (1,) * 10**9 }}",
        "{{ 10 ** (10**9) }}",
        "{{ 'x'.encode() * 10**9 }}",
    ),
    *("{{ ('x' | safe) * 10**9 }}", "{{ 'x' * 999999 ~ 'x' * 999999 ~ 'x' * 999999 }}"),
    *(doubling("'ab'", "ns.x ~ ns.x"), doubling("'ab'", "ns.x + ns.x"), doubling("[1]", "ns.x + ns.x"), doubling("3", "ns.x * ns.x")),
    *(
        doubling("3", "ns.x ** 2"),
        doubling("[1]", "[ns.x, ns.x]", "| tojson"),
        doubling("[1]", "(ns.x, ns.x)"),
        doubling("1", "dict(a=ns.x, b=ns.x)"),
    ),
    *(doubling("1", "{'a': ns.x, 'b': ns.x}", "== 1"), doubling("'ab'", "ns.x | replace('a', 'aa') | replace('b', 'bb')")),
    *("{{ 'x' | center(10**9) }}", "{{ 'x' | indent(10**9, true) }}", "{{ ('x ' * 900000) | wordwrap(1, wrapstring='y' * 99999) }}"),
    *("{{ ('\\n' * 999999) | indent(9999, true, true) }}", "{{ ('\\n' * 999999) | indent('y' * 9999, true, true) }}"),
    *(
        "{{ 'x'.center(10**9) }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x'.rjust(10**9) }}",
        "{{ 'x'.zfill(10**9) }}",
        "{{ ('\\t' * 999999).expandtabs(9999) }}",
    ),
    *("{{ '%1000000000d' | format(1) }}", "{{ '%*d' | format(10**9, 1) }}", "{{ '%1000000000s' % 'a' }}", "{{ '%.1000000000f' % 1.0 }}"),
    *("{{ '%*d' % (10**9, 1) }}", "{{ ('%9999d' * 99999) % range(99999) | list }}", "{{ ('%(a)s' * 99999) % {'a': 'x' * 99999} }}"),
    *("{{ '{:1000000000}'.format(1) }}", "{{ '{:{}}'.format(1, 10**9) }}", "{{ '{x:1000000000}'.format_map({'x': 1}) }}"),
    *(
        "{{ ('{0}' * 99999).format('x' * 99999) }}",
        "{{ ('x' * 999999).replace('', 'y' * 999999) }}",
        "{{ ('x' * 999999) | replace('x', 'y' * 99999) }}",
    ),
    *(
        "{{ ('x' * 999999).translate({120: 'y' * 999999}) }}",
        "{{ ('y' * 99999).join(range(99999) | map('string')) }}",
        "{{ range(99999) | join('x' * 99999) }}",
    ),
    *(
        "{{ range(99999) | map(attribute='x', default='y' * 999999) | join }}",
        "{{ range(99999) | map('string') | map('center', 9999) | list }}",
    ),
    *(
        "{{ [1] | batch(10**9, 0) | list }}",
        "{{ [1] | slice(10**9) | list }}",
        "{{ 1.5 | round(10**9, 'ceil') }}",
        "{{ (5).to_bytes(10**9) }}",
    ),
    *(
        "{{ [[1] * 999] * 999 | sum(start=[]) }}",
        "{{ [1, 2] | tojson(indent=10**9) }}",
        "{{ strftime_now('%d' * 999999) }}",
        "{{ lipsum(n=10**9) }}",
    ),
    *(LOOPS.replace("BODY", ""), LOOPS.replace("BODY", "x"), "{% set x %}" + LOOPS.replace("BODY", "x" * 99) + "{% endset %}"),
    *("{% for a in range(10**9) %}{% endfor %}", "{% filter upper %}" + LOOPS.replace("BODY", "y") + "{% endfilter %}"),
    "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% for x in [1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "{% for x in [1] recursive %}{% if loop.depth < 60 %}{{ loop([1, 1]) }}{% endif %}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% set s = 'a' * 999999 %}{% for i in range(99999) %}{% if s.rfind('b' + 'a' * 499999) %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 999999 %}{% set t = 'a' * 999999 %}{% for i in range(99999) %}{% if s == t %}{% endif %}{% endfor %}",
    "{% set s = 'a' * 999999 %}{% for i in range(99999) %}{% set t = s | upper %}{% endfor %}",
    *("{{ ('<!-- -->' * 99999) | striptags }}", "{{ ('http://a.b/' * 9999) | urlize }}"),
    *(
        "{{ " + "(" * 9999 + ")" * 9999 + " }}",
        "{{ " + "+".join("1" * 9999) + " }}",
        "{{ " + "[" * 9999,
        "{% if 1 %}" * 999 + "{% endif %}" * 999,
    ),
    *("{{ " + "9" * 9999 + " }}", "x" * 99999, "{{ a }}" * 9999, "{% for a in [1] %}" * 30 + "{% endfor %}" * 30),
]


def test_what_asks_for_too_much_is_refused_at_once_and_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SECONDS", 0.1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for jinja in HUGE:
        started = time.thread_time()
        with pytest.raises(ValueError, match=r".") as refused:
            render(jinja, {"messages": MESSAGES})
        assert time.thread_time() - started < 5, jinja
        assert len(str(refused.value)) < 500
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


ATTRIBUTES = [
    *("{{ ''.__class__.__mro__ }}", "{{ ''['__class__']['__mro__'] }}", "{{ (''|attr('__class__'))|attr('__mro__')|first }}{{ 1 / 0 }}"),
    *("{{ '{0.__class__.__mro__}'.format('') }}", "{{ '{0[__class__][__mro__]}'.format('') }}", "{{ cycler.__init__.__globals__.os }}"),
    *("{{ namespace.__init__.__globals__.os }}", "{{ raise_exception.__globals__.os }}", "{{ dict.__class__.__mro__ }}"),
    *(
        "{{ self.__init__.__globals__ }}{{ messages.append(1) }}",
        "{{ messages.__class__.__base__ }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update(a=1) }}",
    ),
    *("{{ namespace(__class__=1) }}", "{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "{{ messages.__getitem__(0) }}"),
    *(
        "{% include 'x' %}",
        "{% import '/etc/passwd' as x %}",
        "{% extends 'x' %}",
        "{{ 1 / 0 }}",
        "{{ 'x'.foo() }}",
        "{{ '\\ud800'.foo() }}",
    ),
]


@pytest.mark.parametrize("jinja", ATTRIBUTES)
def test_the_sandbox_keeps_a_template_from_python(jinja: str) -> None:
    messages = [dict(message) for message in MESSAGES]
    with pytest.raises(ValueError, match=r"."):
        render(jinja, {"messages": messages})
    assert messages == MESSAGES


def test_a_long_chat_has_a_longer_budget() -> None:
    messages = [{"role": "user", "content": "word " * 400}] * 2000
    body = "{% set ns.n = ns.n + 1 %}{{ '<' ~ m.role + '>' + m['content'] | trim }}"
    jinja = "{% set ns = namespace(n=0) %}{% for m in messages %}" + body + "{% endfor %}"
    assert len(render(jinja, {"messages": messages}).text) == 2000 * (6 + 1999)


def test_the_time_that_a_template_writes_can_be_given() -> None:
    now = datetime.datetime(2020, 2, 3)
    assert render("{{ strftime_now('%d %b %Y') }}", {"messages": []}, now).text == "03 Feb 2020"
    assert render("{{ strftime_now('%Y') }}", {"messages": []}).text == str(datetime.datetime.now().year)


def test_what_is_marked_as_generated_is_found() -> None:
    rendered = render(
        "a{% generation %}b{{ 'c' * 3 }}{% endgeneration %}d{% for x in 'ef' %}{%- generation -%} {{ x }} {%- endgeneration %}{% endfor %}",
        {},
    )
    assert rendered.text == "abcccdef"
    assert [rendered.text[start:end] for start, end in rendered.spans] == ["bccc", "e", "f"]
    assert tracks("{%- generation -%}{% endgeneration %}") and not tracks("{{ generation }}")


def test_a_template_that_holds_itself_is_written_once() -> None:
    assert render("{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", {}).text == "<Namespace>"
    with pytest.raises(ValueError, match="not JSON serializable"):
        render("{% set ns = namespace() %}{% set ns.x = ns %}{{ [ns] | tojson }}", {})
