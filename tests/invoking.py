"""Commands run in this process."""

from __future__ import annotations

import signal
from pathlib import Path

from typer.testing import CliRunner, Result

from hwautoml.cli import app


def invoke(*words: str | Path) -> Result:
    """Its exit code and output; the handler of SIGTERM that commands install is taken back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(app, [str(word) for word in words])
    finally:
        signal.signal(signal.SIGTERM, before)
