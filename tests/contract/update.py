"""Rewrite the golden answers: ``python -m tests.contract.update``.

One may, after a change that is meant to change what the product does: an answer's content, a page's links or
forms, the database, an export's files, or the demo's weights. One reviews the diff of ``golden/`` line by line
and commits it together with that change. One may not to make a refactoring pass: a difference there is a fault
of the refactoring. Reworded messages need no rewriting, because the golden answers hold none.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.contract.golden import FOLDER


def main() -> int:
    """Rewrite every golden file, and remove those that no test reads any more."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    return int(pytest.main([str(Path(__file__).parent), "-q", "--update-golden"]))


if __name__ == "__main__":
    sys.exit(main())
