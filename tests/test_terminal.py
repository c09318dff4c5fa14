"""What people's texts look like on a terminal: as they are."""

import io
import re
from pathlib import Path

import pytest
from rich.table import Table

import alpaca_jax
from alpaca_jax.terminal import Console

ODD = ["[embed.*]", "x [draft]", "[/y]", "[red]a[/red]", "[bold", "\\[a]", ":smile:", "[link=https://a]b[/link]"]


@pytest.mark.parametrize("text", ODD)
def test_a_text_is_printed_as_it_is(text):
    console = Console(file=io.StringIO(), width=80)
    console.print(text)
    console.print(text, style="yellow")
    table = Table(text, title=text)
    table.add_row(text)
    console.print(table)
    with console.status(text):
        pass
    assert console.file.getvalue().count(text) == 5


def test_a_status_on_a_terminal_is_as_it_is():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with console.status("reading x [draft] [/y]"):
        pass
    assert "reading x [draft] [/y]" in console.file.getvalue()


def test_nobody_writes_markup():
    for file in Path(alpaca_jax.__file__).parent.rglob("*.py"):
        text = file.read_text()
        assert "rich.markup" not in text and not re.search(r"\[/(bold|dim|red|yellow|green|cyan)\]", text), file
        assert file.name == "terminal.py" or not re.search(r"from rich.console import .*\bConsole\b", text), file
