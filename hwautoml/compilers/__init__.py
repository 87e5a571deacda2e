"""Runtimes: backends that compile a model for a target and open what they compiled.

One file per runtime, found by name (``torch-inductor`` is ``torch_inductor.py``) and imported on first use; files
whose name begins with an underscore, and ``base.py`` (the contract), are none. Other packages offer theirs as entry
points of the group ``hwautoml.runtimes`` (docs/extending/runtime.md).
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import cast

from hwautoml.compilers.base import Backend, Traits, Tuning
from hwautoml.core.plugins import Plugins
from hwautoml.core.target import Target
from hwautoml.errors import MissingDependencyError

_log = logging.getLogger(__name__)


def _own_files() -> dict[str, str]:
    files = sorted(Path(__file__).parent.glob("*.py"), key=lambda file: file.stem.replace("_", "-"))
    return {
        file.stem.replace("_", "-"): f"{__name__}.{file.stem}"
        for file in files
        if file.stem != "base" and not file.stem.startswith("_")
    }


RUNTIMES = Plugins("runtime", "hwautoml.runtimes", _own_files())


def backend_names() -> tuple[str, ...]:
    """Names of this package's runtimes, sorted, then those of others; none of them is imported."""
    return RUNTIMES.names


def load_backend(name: str) -> Backend:
    """The runtime called ``name``.

    Raises:
        UnknownNameError: there is none; the known ones are listed, nearest first.
        MissingDependencyError: another package's, which cannot be imported or has no traits of that name.
    """
    found = RUNTIMES.load(name)
    traits = getattr(found, "TRAITS", None)
    if not isinstance(traits, Traits) or traits.name != name:
        raise MissingDependencyError(
            f"runtime {name!r} of package {RUNTIMES.origin(name)!r} needs TRAITS of that name, got {traits!r}",
            fix="docs/extending/runtime.md says what a runtime provides",
        )
    return cast(Backend, found)


def traits_of(name: str) -> Traits:
    """Raises as `load_backend`."""
    return load_backend(name).TRAITS


def all_traits() -> dict[str, Traits]:
    """Of every runtime, by name and in the order of `backend_names`; those that cannot be imported are left out."""
    found = {}
    for name in backend_names():
        try:
            found[name] = traits_of(name)
        except MissingDependencyError as error:
            _warn_once(str(error))
    return found


@cache
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


def shipping_runtimes() -> tuple[str, ...]:
    """What bundles have files for; tables can be made of other runtimes, too."""
    return tuple(name for name, traits in all_traits().items() if traits.ships_as is not None)


def board_runtimes() -> tuple[str, ...]:
    """What boards over the network run; first what needs no agent of ours there."""
    found = {name: traits.on_boards for name, traits in all_traits().items() if traits.on_boards is not None}
    return tuple(sorted(found, key=lambda name: found[name] != "server"))


def owner_of(suffix: str) -> str | None:
    """The runtime of files of that suffix unless the user names another; None for others' files."""
    return next((name for name, traits in all_traits().items() if suffix in traits.own_suffixes), None)


def tuning_for(runtime: str, target: Target, records: Path, *, budget_sec: float = 0.0, seed: int = 0) -> Tuning | None:
    """None where the runtime has nothing to tune for the target."""
    return Tuning(records, budget_sec, seed) if traits_of(runtime).is_tunable(target) else None


def reference_runtime(source_suffix: str = ".onnx") -> str:
    """The runtime whose results count for sources of that suffix: what others compile must compute the same.

    Raises:
        MissingDependencyError: no runtime takes such files as they are.
    """
    name = owner_of(source_suffix)
    if name is None:
        raise MissingDependencyError(f"no runtime here opens {source_suffix} files as they are")
    return name
