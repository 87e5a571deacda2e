"""pytest, or an error that says how to get it: the suites need it, hwautoml itself does not."""

from __future__ import annotations

from hwautoml.errors import MissingDependencyError

try:
    import pytest as pytest
except ImportError as error:
    raise MissingDependencyError(
        "the suites of hwautoml.testing are pytest classes", fix="pip install pytest"
    ) from error
