"""The verb on a few records: the figures, the marks, the page; and the configuration, which is train's."""

import io
import json
import subprocess
import sys

import pytest

from alpaca_jax import __main__ as cli
from alpaca_jax.config import parse
from alpaca_jax.data import builder
from alpaca_jax.data.pipeline import make_batches
from alpaca_jax.inspect.config import Config
from alpaca_jax.inspect.run import run
from alpaca_jax.terminal import Console
from alpaca_jax.tokenizer import Tokenizer


def config(files, folder, **changes):
    mapping = {
        "dir": str(folder),
        "epochs": 2.0,
        "model": {"tokenizer": str(files / "tokenizer")},
        "data": {"records": str(files / "records.jsonl"), "cache": str(files / "cache"), "template": "plain", "max_length": 64},
        "batch": {"examples": 5, "sequence_length": 128},
        "batches": 1,
        "rows": 9,
    }
    return parse(Config, mapping | changes)


@pytest.fixture
def shown(files, tmp_path):
    """(figures, text, page) of a run whose output is no terminal."""
    out = Console(file=io.StringIO(), width=80)
    figures = run(config(files, tmp_path), out)
    return figures, out.file.getvalue(), (tmp_path / "inspect.html").read_text()


def test_the_figures(files, shown):
    figures, text, _ = shown
    assert figures["records"]["records"] == 12 and figures["records"]["same_prompt"] == 1
    counts = figures["examples"]["train"]
    assert counts["kept"] == 12 and counts["truncated"] == 3  # from "Count to 6." on
    lengths = figures["lengths"]
    assert lengths["full"]["total"] == counts["tokens"] == lengths["read"]["total"] + lengths["learnt"]["total"]
    assert lengths["learnt"]["total"] == counts["target_tokens"] and lengths["full"]["max"] == 64
    assert (figures["plan"]["steps"], figures["plan"]["steps_per_epoch"], figures["plan"]["statistics"]["left_out"]) == (4, 2, 2)
    for line in ("with an empty answer", "cut at data.max_length", "slots that hold a real token"):
        assert line in text
    assert f"{counts['tokens']:,}" in text


def test_what_is_learnt_stands_between_marks_in_plain_text(files, shown):
    _, text, _ = shown
    settings = config(files, "unused")
    data = builder.load_examples(settings.data, settings.data.records, Tokenizer.load(files / "tokenizer"))
    batch = make_batches(data.examples["train"], settings.batch, 0, 2).batch(0)
    assert text.count("\u27e6") == text.count("\u27e7") >= 1 + 5  # the legend, and each example
    assert f"batch 0, row 0 of {len(batch['tokens'])}" in text
    assert text.count("  example ") == 5
    learnt = [piece.split("\u27e7")[0] for piece in text.split("\u27e6")[2:]]
    targets = sum(len(piece.replace("</s>", "\x00").encode()) for piece in learnt)
    assert targets == batch["weights"].sum()  # a token a byte, and one for each </s>
    assert "\x1b" not in text


def test_on_a_terminal_styles_take_the_place_of_marks(files, tmp_path):
    out = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80)
    run(config(files, tmp_path), out)
    text = out.file.getvalue()
    assert "\u27e6" not in text
    assert "\x1b[2m" in text and "\x1b[1m" in text  # dim, bold


def test_the_page_dims_what_is_only_read_and_escapes_texts(shown):
    figures, text, page = shown
    assert text.rstrip().endswith(figures["page"])
    assert '<span class="dim">' in page and '<span class="special">&lt;/s&gt;</span>' in page
    assert page.count('<div class="marked">') == 5
    assert "<it>" not in page
    assert "All tokens of an example" in page


def test_control_characters_of_a_record_are_shown_and_never_sent(files, tmp_path):
    hostile = "\x1b]0;title\x07 \x1b[2J \x9b31m \u202etxt.exe \r over"
    (tmp_path / "r.jsonl").write_text(
        json.dumps({"instruction": f"Say {hostile}", "output": f"</script><b>{hostile}", hostile: 1}) + "\n", encoding="utf-8"
    )
    data = {"records": str(tmp_path / "r.jsonl"), "cache": str(tmp_path / "cache"), "template": "plain"}
    out = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    run(config(files, tmp_path, data=data, batch={"examples": 1, "sequence_length": 512}), out)
    for text in (out.file.getvalue(), (tmp_path / "inspect.html").read_text()):
        assert not set(text) & set("\x1b\x07\x9b\u202e\r")
        assert text.count("\\x1b]0;title\\x07 \\x1b[2J \\x9b31m \\u202etxt.exe \\x0d over") >= 3  # the prompt, the answer, the unknown key
    assert "</script><b>" not in (tmp_path / "inspect.html").read_text()


def test_the_template_and_what_was_lost_are_said(files, tmp_path):
    out = Console(file=io.StringIO(), width=80)
    data = {"records": str(files / "records.jsonl"), "cache": str(files / "cache"), "max_length": 200}
    figures = run(config(files, tmp_path, data=data, batch={"examples": 5, "sequence_length": 256}), out)
    assert figures["templates"] == {"records": "alpaca"} and figures["copies"] == 0
    assert "rendered in" in out.file.getvalue() and "template alpaca" in out.file.getvalue()
    assert any("are cut at data.max_length" in line for line in figures["remarks"])
    assert "are cut at data.max_length, and lose their end" in out.file.getvalue() and "Remarks" in (tmp_path / "inspect.html").read_text()


def test_held_out_records_have_a_table_of_their_own(files, tmp_path):
    out = Console(file=io.StringIO(), width=80)
    settings = config(
        files,
        tmp_path,
        data={"records": str(files / "records.jsonl"), "cache": str(files / "cache"), "heldout": 4, "template": "plain", "max_length": 64},
    )
    figures = run(settings, out)
    assert {split: counts["records"] for split, counts in figures["examples"].items()} == {"train": 8, "heldout": 4}
    assert "examples: heldout" in out.file.getvalue()


def test_several_sources_with_their_shares(files, tmp_path):
    (tmp_path / "more.txt").write_text("A document to read, and nothing to ask.")
    sources = {
        "talk": {"records": str(files / "records.jsonl"), "epochs": 1},
        "text": {"records": str(tmp_path / "more.txt"), "epochs": 3, "template": "text"},
    }
    out = Console(file=io.StringIO(), width=80)
    figures = run(
        config(
            files,
            tmp_path,
            data={"sources": sources, "cache": str(files / "cache"), "template": "plain"},
            batch={"examples": 5, "sequence_length": 512},
        ),
        out,
    )
    assert figures["records"]["records"] == 13 and figures["records"]["documents"] == 1
    assert "3 times in an epoch" in out.file.getvalue()


def test_padded_batches_show_their_own_lengths(files, tmp_path):
    out = Console(file=io.StringIO(), width=80)
    run(config(files, tmp_path, batch={"examples": 2, "sequence_length": 256, "packing": "none"}, batches=2), out)
    assert "of at most 256 slots" in out.file.getvalue()
    assert "of 64 slots empty" in out.file.getvalue()


def test_more_batches_than_the_run_has_are_not_shown(files, tmp_path):
    out = Console(file=io.StringIO(), width=80)
    run(config(files, tmp_path, steps=1, batches=50), out)
    assert "batch 1, row" not in out.file.getvalue()


# --- the configuration: a part of train's, right as a whole -----------------------------------------------------------------------


def words(files, folder):
    yield from (f"model.tokenizer={files}/tokenizer", f"data.records={files}/records.jsonl", f"data.cache={files}/cache", f"dir={folder}")


def test_an_experiment_of_train_from_the_command_line_without_its_weights(files, tmp_path, capsys, monkeypatch):
    command = ["inspect", "experiment=laptop", "model.source=not/there", "data.heldout=0", "batches=1", "rows=1"]
    assert cli.main([*command, *words(files, tmp_path)]) == 0
    assert "batch 0, row 0" in capsys.readouterr().out
    assert (tmp_path / "inspect.html").is_file()
    found = cli._config(each := cli._parse(command), cli._compose(each))
    assert (found.batch.examples, found.data.max_length, found.epochs) == (8, 256, 2.0)  # experiment/laptop/train.yaml


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("optimizer.learnign_rate=1", "optimizer.learnign_rate: there is no such key; did you mean learning_rate?"),
        ("optimizr.x=1", "optimizr: there is no such key; did you mean optimizer?"),
        ("data.max_lenght=1", "data.max_lenght: there is no such key; did you mean max_length?"),
        ("microbatches=0", "microbatches=0: give 1 or more"),
        ("rows=0", "rows=0: give 1 or more"),
        ("experiment=lapto", "there is no such experiment; did you mean laptop?"),
        ("teacher=local", "inspect has no group teacher"),
    ],
)
def test_a_wrong_key_of_the_whole_train_configuration_is_an_error(argument, expected, capsys):
    assert cli.main(["inspect", argument]) == 2
    assert expected in capsys.readouterr().err


def test_a_reader_that_goes_early_is_no_error(files, tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "alpaca_jax", "inspect", *words(files, tmp_path)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.close()
    assert (child.wait(60), "Traceback" in child.stderr.read()) == (0, False)
    child.stderr.close()
    assert (tmp_path / "inspect.html").is_file()


def test_figures_are_plain_enough_for_json(shown):
    assert json.loads(json.dumps(shown[0]))["plan"]["rows"] >= 1
