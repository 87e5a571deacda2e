"""Run folders that were left half-made, are damaged, or have names that no file can hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hwautoml.errors import RunFolderError
from hwautoml.pipeline.verbs.running import _open_journal
from hwautoml.store.run_store import RunStore

GIVEN = {"source": "digits", "target": "cpu", "latency_ms": 1.0, "budget_sec": 60.0}


def test_a_path_that_is_no_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    """Readers of tensors and models take none, and would say so after the training."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xff"))
    with pytest.raises(RunFolderError, match=r"needs a path that is UTF-8, got .*out\\xff"):
        RunStore(folder, create=True)
    assert not folder.exists()


def test_a_run_that_was_killed_as_it_began_is_begun_anew(tmp_path: Path) -> None:
    """It leaves a folder with nothing but its lock."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("4711")
    with _open_journal(tmp_path / "run", GIVEN, resume=False, overwrite=False) as journal:
        assert journal.settings is not None
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files and no run"):
        _open_journal(tmp_path / "other", GIVEN, resume=False, overwrite=False)
