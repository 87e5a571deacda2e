"""A bundle's manifest, changed by someone who means it: its own hash is written anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hwautoml.bundles.runner.run import seal_text


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    write_manifest(bundle, json.dumps(manifest))


def write_manifest(bundle: Path, text: str) -> None:
    (bundle / "manifest.json").write_text(text, encoding="utf-8")
    (bundle / "manifest.sha256").write_text(seal_text(text.encode()), encoding="utf-8")
