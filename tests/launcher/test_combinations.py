"""What a sweep makes of its settings, in the syntax of the command line."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from alpaca_jax import config as configuration
from alpaca_jax.catalog import Catalog
from alpaca_jax.composition import words
from alpaca_jax.launcher import combinations


def test_a_sweep_over_lists_of_files_gives_each_job_its_list():
    given = words.overrides(Catalog("evaluate", [configuration.directory()]), ["suites=[mmlu,arc],[gsm8k]", "seed=1"], multirun=True)
    (jobs,) = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(given), None)
    typed = [[combinations._word(word) for word in job] for job in jobs]
    assert typed == [["suites=[mmlu,arc]", "seed=1"], ["suites=[gsm8k]", "seed=1"]]
