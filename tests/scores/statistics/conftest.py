from pathlib import Path

import pytest
from judged import Judged


@pytest.fixture(scope="session")
def judged(data_dir: Path) -> Judged:
    return Judged(data_dir / "judged")
