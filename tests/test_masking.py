"""Control characters and secrets never reach a person's terminal or a file."""

import io

import pytest
from rich.table import Table

from alpaca_jax import masking, rundir
from alpaca_jax.terminal import Console

SECRET = "hf_abcdefghijkl"


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)


def printed(*what, width=30, **options):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(*what, **options)
    return console.file.getvalue()


def test_control_characters_become_visible():
    assert masking.visible("a\x1b[2Jb\x07\r\n\tc\x9b\u202e\ud800é😀") == "a\\x1b[2Jb\\x07\\x0d\n\tc\\x9b\\u202e\\ud800é😀"


def test_the_value_of_a_secret_is_masked():
    assert masking.masked(f"key={SECRET}, {SECRET}") == "key=[HF_TOKEN], [HF_TOKEN]"


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD", "GITHUB_TOKEN", "api_key"])
def test_names_that_hold_secrets(monkeypatch, name):
    monkeypatch.setenv(name, "a-secret-value")
    assert masking.masked("x a-secret-value y") == f"x [{name}] y"


@pytest.mark.parametrize(
    ("name", "value"), [("TOKENIZERS_PARALLELISM", "falsefalse"), ("API_KEY", "none"), ("SSH_AUTH_SOCK", "/etc/passwd")]
)
def test_what_is_no_secret_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert masking.masked(f"x {value} y") == f"x {value} y"


def test_a_variable_can_be_named_as_a_secret(monkeypatch):
    monkeypatch.setattr(masking, "_named", set())
    monkeypatch.setenv("MY_TEACHER", "another-secret")
    masking.add_secret("MY_TEACHER")
    assert masking.masked("another-secret") == "[MY_TEACHER]"


def test_of_two_secrets_the_longer_is_masked_whole(monkeypatch):
    monkeypatch.setenv("OTHER_TOKEN", SECRET + "mnop")
    assert masking.masked(SECRET + "mnop") == "[OTHER_TOKEN]"


def test_the_console_shows_controls_and_masks_secrets():
    text = printed(f"[bold]a\x1b]0;title\x07[/bold] {SECRET}", "and more words than fit into one line of it")
    assert "\x1b]" not in text and "\x07" not in text and "\\x1b" in text
    assert SECRET not in text and SECRET[:8] not in text and "HF_TOKEN" in text


def test_a_table_masks_what_it_would_wrap():
    table = Table("name", "value")
    table.add_row("a\rb", f"{SECRET} {SECRET} {SECRET}")
    text = printed(table)
    assert "\r" not in text and SECRET[:8] not in text


def test_files_hold_no_secret(tmp_path):
    rundir.write_yaml(tmp_path / "config.yaml", {"a": SECRET})
    rundir.append_line(tmp_path / "log.jsonl", f'{{"a": "{SECRET}"}}')
    assert SECRET not in (tmp_path / "config.yaml").read_text() + (tmp_path / "log.jsonl").read_text()
