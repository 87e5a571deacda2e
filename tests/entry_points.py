"""Other packages that bring parts, as pip leaves them."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, name: str, group: str, entries: str, source: str = "PART = 7\n") -> None:
    """A package's module and the metadata that declares its entry points, in a folder on ``sys.path``."""
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entries}\n")
