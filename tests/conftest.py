import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared():
    """Folder with real text and tasks to try on; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("ALBERT_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no data folder at {path} (set ALBERT_SHARED)")
    return path
