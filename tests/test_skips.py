"""`.ci/run` fails on a skip that is in no committed list, with and without parallel workers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SKIPPING = """
import pytest

def test_passes():
    pass

def test_skips():
    pytest.skip("no moon tonight")
"""


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n", "1"]], ids=["one process", "xdist"])
@pytest.mark.parametrize(
    ("test", "pattern", "passes"),
    [
        (SKIPPING, "*: no moon*", True),
        (SKIPPING, "*: no sun*", False),
        (SKIPPING, "# *", False),
        ("import pytest\npytest.skip('no moon tonight', allow_module_level=True)\n", "*: no sun*", False),
    ],
    ids=["allowed", "refused", "only a comment", "a whole module"],
)
def test_only_listed_skips_pass(tmp_path, workers, test, pattern, passes):
    shutil.copy(Path(__file__).with_name("skip_guard.py"), tmp_path / "conftest.py")
    (tmp_path / "test_it.py").write_text(test + "\n")
    (tmp_path / "test_other.py").write_text("def test_passes():\n    pass\n")
    (tmp_path / "allowed.txt").write_text(pattern + "\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", *workers, "--allowed-skips=allowed.txt"]
    # Other plugins (Hydra's, Hypothesis's) take seconds to import.
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert (result.returncode == 0) == passes, result.stdout
    assert ("skips that are not in the list" in result.stdout) != passes
