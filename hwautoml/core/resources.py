"""Where target descriptions and shipped latency tables are looked for.

``targets/`` and ``profiles/`` are top-level folders of a checkout and package data of an
installed wheel. A user's own folders come first, so that a file of the same name wins. Other packages bring
targets, too: an entry point of the group ``hwautoml.targets`` names a package that is a folder of ``NAME.toml``::

    [project.entry-points."hwautoml.targets"]
    my-boards = "my_package.targets"
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import hwautoml
from hwautoml.core.plugins import Plugins
from hwautoml.errors import MissingDependencyError

_log = logging.getLogger(__name__)


def target_folders(targets_dir: Path | None = None) -> list[Path]:
    """Folders with ``NAME.toml``, the first that has a name wins.

    Order: ``targets_dir``, ``./targets``, the user's
    configuration folder, the package's own, those of other packages. Folders that do not exist are left out,
    except ``targets_dir``: a mistyped one must show up in the error that follows.
    """
    return [*_folders("targets", targets_dir), *_plugin_folders()]


def profile_folders(profiles_dir: Path | None = None) -> list[Path]:
    """Folders with ``TARGET/*.json`` latency tables, in the order of ``target_folders``."""
    return _folders("profiles", profiles_dir)


def user_config_folder() -> Path:
    """``$XDG_CONFIG_HOME/hwautoml``, by default ``~/.config/hwautoml``."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification says that relative paths are to be ignored.
    base = Path(configured) if Path(configured).is_absolute() else Path.home() / ".config"
    return base / "hwautoml"


def package_folder(kind: str) -> Path:
    """The package's own ``targets`` or ``profiles``, from a wheel or from a checkout."""
    package = Path(hwautoml.__file__).resolve().parent
    installed = package / "_data" / kind
    return installed if installed.is_dir() else package.parent / kind


def _plugin_folders() -> list[Path]:
    """A package that cannot be found is named in the log: its targets are missing, others work."""
    plugins = Plugins("package of targets", "hwautoml.targets")
    folders: list[Path] = []
    for name in plugins.names:
        try:
            folders += plugins.folders(name)
        except MissingDependencyError as error:
            _log.warning("%s", error)
    return folders


def _folders(kind: str, first: Path | None) -> list[Path]:
    others = [Path(kind), user_config_folder() / kind, package_folder(kind)]
    folders = [] if first is None else [first]
    seen = {folder.resolve() for folder in folders}
    for folder in others:
        if folder.is_dir() and folder.resolve() not in seen:
            seen.add(folder.resolve())
            folders.append(folder)
    return folders
