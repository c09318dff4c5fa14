"""What a user types as a value arrives as it was typed, whatever Hydra's grammar makes of it."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from alpaca_jax import config as configuration
from alpaca_jax.catalog import Catalog
from alpaca_jax.composition import words
from alpaca_jax.config import parse
from alpaca_jax.errors import UserError
from alpaca_jax.trainer.optimizer import OptimizerConfig


@pytest.fixture
def read():
    """What Hydra reads of `key=value` typed on the command line."""
    catalog = Catalog("train", [configuration.directory()])
    return lambda word: OverridesParser.create().parse_overrides(words.overrides(catalog, [word]))[0].value()


@pytest.mark.parametrize(
    ("typed", "texts"),
    [
        ("[你好]", ["你好"]),
        ("[What is 2+2 (roughly)?]", ["What is 2+2 (roughly)?"]),
        ("[What's up]", ["What's up"]),
        ("[What's up, it's me]", ["What's up", "it's me"]),
        ("[Note: don't, 你好: ja]", ["Note: don't", "你好: ja"]),
        ("[choice(a)]", ["choice(a)"]),
        ("['a, b', c é]", ["a, b", "c é"]),
        ("""["it's", é]""", ["it's", "é"]),
        ("[1;2\\,3]", ["1;2,3"]),
        ("[Hello, world]", ["Hello", "world"]),
        ("[ é ,]", ["é"]),
        ("[# 5 o'clock = 17:00]", ["# 5 o'clock = 17:00"]),
        ("[]", []),
    ],
)
def test_elements_outside_the_grammar_are_texts(read, typed, texts):
    assert read(f"samples.prompts={typed}") == texts


def test_a_sweep_over_values_outside_the_grammar():
    catalog = Catalog("train", [configuration.directory()])
    given = ["data.records=a (1).json,b.json", "samples.prompts=[é],[b]", "optimizer.learning_rate=1e-5"]
    assert words.overrides(catalog, given[::2], multirun=True) == ["++data.records='a (1).json',b.json", "++optimizer.learning_rate=1e-5"]
    with pytest.raises(UserError, match="put quotes around each text"):
        words.overrides(catalog, given, multirun=True)


def test_a_comma_inside_brackets_asks_for_quotes(read):
    with pytest.raises(UserError, match=r"""put quotes around each text, as in samples.prompts='\["one", "two"\]'"""):
        read("samples.prompts=[f(a, b)?, c]")


@pytest.mark.parametrize("typed", ["1e5", "1.10", "+5", "1_000", "007", "0x10", "é", "a (b", "x" * 50_000, "(" * 5000, "9" * 5000])
def test_a_text_arrives_as_it_was_typed(read, typed):
    assert read(f"data.records={typed}") == typed


@pytest.mark.parametrize("typed", ["[" * 5000 + "]" * 5000, "{a:" * 5000, "[" * 31 + "x" + "]" * 31])
def test_thousands_of_brackets_are_text(read, typed):
    assert read(f"data.records={typed}") == typed


def test_thousands_of_references_are_refused(read):
    with pytest.raises(UserError, match=r"data.records: \$\{.* is not understood"):
        read("data.records=" + "${" * 5000)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("a" + ".a" * 5000 + "=1", "a key consists of names"),
        ("é\x1b=1", "a key consists of names"),
        ("hydra.searchpath=[pkg://os]", "--config-dir"),
        ("hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_: from the command line"),
        ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks.x._target_: from the command line"),
        ("hydra={callbacks: 1}", "hydra: from the command line"),
        ("hydra.launcher._target_=os.system", "from the command line"),
        ("hydra.launcher.options._target_=os.system", "from the command line"),
        ("hydra.sweeper._target_=os.system", "from the command line"),
        ("hydra.sweeper.custom_search_space=os.system", "there is no such key"),
        ("hydra.job_logging.root.level=x", "from the command line"),
        ("hydra.run.dir=x", "the sweep's folder is dir="),
        ("hydra/sweeper=ax", "there is no such hydra/sweeper (there are: basic, optuna)"),
        ("hydra/job_logging=colorlog", "from the command line"),
        ("+optimizer=-inf", "optimizer=-inf: there is no such optimizer"),
        ("~optimizer=[null]", "optimizer=[null]: there is no such optimizer"),
        ("~experiment=true", "experiment=true: there is no such experiment"),
        ("+teacher=local", "train has no group teacher"),
        ("optimizer@hydra.callbacks=adamw", "a group is chosen by its own name"),
    ],
)
def test_what_hydra_may_not_be_told(read, word, said):
    with pytest.raises(UserError) as raised:
        read(word)
    assert said in str(raised.value)


def test_a_number_as_text_is_still_a_number_where_one_is_due():
    assert parse(OptimizerConfig, {"learning_rate": "1e-5", "clip": "+5"}).learning_rate == 1e-5


@pytest.mark.parametrize(
    ("typed", "hydra"),
    [
        ("suites=[mmlu,gsm8k]", "suite@suites=[mmlu,gsm8k]"),
        ('suites=["mmlu", "arc"]', "suite@suites=[mmlu,arc]"),
        ("suites=mmlu", "suite@suites=[mmlu]"),
        ("suites=[]", "suite@suites=[]"),
        ("suites=null", "suite@suites=[]"),
        ("suites={own:{tasks:[arc_easy]}}", "++suites={own:{tasks:[arc_easy]}}"),  # as a mapping, it is a value like any other
        ("suites.mmlu.limit=50", "++suites.mmlu.limit=50"),
    ],
)
def test_a_list_of_files_is_chosen_by_the_key_that_takes_it(typed, hydra):
    assert words.overrides(Catalog("evaluate", [configuration.directory()]), [typed]) == [hydra]


def test_a_sweep_over_lists_of_files():
    catalog = Catalog("evaluate", [configuration.directory()])
    assert words.overrides(catalog, ["suites=[mmlu,arc],[gsm8k],bbq"], multirun=True) == ["suite@suites=[mmlu,arc],[gsm8k],[bbq]"]


@pytest.mark.parametrize(
    ("typed", "problem"),
    [
        ("suites=[mmul]", r"there is no suite 'mmul'; did you mean mmlu\? \(there are: arc, .*suites.NAME.KEY=VALUE"),
        ("suite=mmlu", r"suite=mmlu: give a list, suites=\[mmlu\]"),
        ("suite@suites=[mmlu]", "without @"),
    ],
)
def test_an_unknown_file_of_a_list_names_the_closest(typed, problem):
    with pytest.raises(UserError, match=problem):
        words.overrides(Catalog("evaluate", [configuration.directory()]), [typed])
