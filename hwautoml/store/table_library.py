"""Where latency tables and tuning records lie, and what their files are called."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hwautoml.core.resources import package_folder, profile_folders, user_config_folder
from hwautoml.core.table_identity import TableIdentity

RECORDS_FILE = "tvm_records.json"


@dataclass(frozen=True)
class TableLibrary:
    """Folders that have one folder per target; there a table's file name is its identity.

    New files go into ``profiles_dir``, by default the user's configuration folder. They are looked for there, then in
    ``./profiles`` and among those that ship with the package.
    """

    profiles_dir: Path | None = None

    @property
    def folder(self) -> Path:
        """Where new files are written; it need not exist."""
        return self.profiles_dir if self.profiles_dir is not None else user_config_folder() / "profiles"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where files are looked for, in this order."""
        return tuple(dict.fromkeys([self.folder, *profile_folders(self.profiles_dir)]))

    def table_path(self, identity: TableIdentity, *, is_elsewhere: bool = False) -> Path:
        """Where the table of this identity is written; its name says all that a table is valid for.

        ``is_elsewhere``: a target of this machine that is measured over the network (a copy of it, the agent on
        loopback) is another device.
        """
        return self.folder / identity.target / _file_name(identity, is_elsewhere)

    def candidates(self, identity: TableIdentity, *, is_elsewhere: bool = False) -> Iterator[Path]:
        """Existing files, the user's first; in each folder the table of all layers before the few-shot one."""
        for folder in self.folders:
            path = folder / identity.target / _file_name(identity, is_elsewhere)
            yield from (candidate for candidate in (path, few_shot_path(path)) if candidate.is_file())

    def tables_of(self, target: str) -> Iterator[Path]:
        """Files of any identity, whole or damaged, the user's first."""
        for folder in self.folders:
            yield from (path for path in sorted((folder / target).glob("*.json")) if path.name != RECORDS_FILE)

    @property
    def targets(self) -> tuple[str, ...]:
        """Sorted names of those that have a folder."""
        return tuple(
            sorted({path.name for folder in self.folders if folder.is_dir() for path in folder.iterdir()}),
        )

    def records_path(self, target: str) -> Path:
        """TVM's tuning records, which belong to a device: every later compilation finds them."""
        return self.folder / target / RECORDS_FILE

    def shipped_records(self, target: str) -> tuple[Path, ...]:
        """Existing files of records beside the tables of ``./profiles`` and the package, apart from our own."""
        own = self.records_path(target)
        folders = dict.fromkeys([Path("profiles").absolute(), package_folder("profiles")])
        files = (folder / target / RECORDS_FILE for folder in folders)
        return tuple(file for file in files if file.is_file() and not (own.exists() and file.samefile(own)))


def few_shot_path(path: Path) -> Path:
    """Beside the table of all layers at ``path``, which it never replaces."""
    return path.with_name(f"{path.stem}.few-shot.json")


def estimated_path(path: Path) -> Path:
    """Beside the table at ``path``, and not where tables are looked for: estimates are made anew when needed."""
    return path.with_name(f"{path.stem}.estimated.json")


def _file_name(identity: TableIdentity, is_elsewhere: bool) -> str:
    family = re.sub(r"[^A-Za-z0-9.]+", "-", identity.space).strip("-")
    where = "-rpc" if is_elsewhere else ""
    return f"{identity.runtime}-{family}-t{identity.num_threads}-b{identity.batch}-{identity.precision}{where}.json"
