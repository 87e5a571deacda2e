"""Journals of earlier versions, brought to the schema of this one: a function per step, all steps or none.

A step changes tables and rows through the connection it is given, inside the caller's transaction.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Mapping

import numpy as np

from hwautoml.core.task import outcome_to_bytes


def _outcomes_instead_of_confusion(db: sqlite3.Connection) -> None:
    """1 to 2: evaluations held a square matrix of little-endian int64; now whatever the run's task keeps."""
    db.execute("ALTER TABLE evaluations RENAME COLUMN confusion TO outcome")
    rows = db.execute("SELECT rowid, outcome FROM evaluations").fetchall()
    for rowid, blob in rows:
        counts = np.frombuffer(blob, dtype="<i8")
        side = math.isqrt(len(counts))
        matrix = counts.reshape(side, side)
        db.execute("UPDATE evaluations SET outcome = ? WHERE rowid = ?", (outcome_to_bytes(matrix), rowid))


#: By the schema they start from.
STEPS: Mapping[int, Callable[[sqlite3.Connection], None]] = {1: _outcomes_instead_of_confusion}
SCHEMA = 1 + max(STEPS)


def migrate(db: sqlite3.Connection, schema: int) -> None:
    """From ``schema`` to ``SCHEMA``, of which ``schema`` is no later one."""
    for step in range(schema, SCHEMA):
        STEPS[step](db)
