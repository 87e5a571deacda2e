"""Starting points: network families with weights, found by name (here and in other packages).

Nothing is fetched: weights come with packages that the user installed, or from files that he names.
"""

from __future__ import annotations

from typing import cast

from hwautoml.core.plugins import Plugins
from hwautoml.core.start_point import Start

STARTS = Plugins(
    "starting point",
    "hwautoml.starts",
    {
        "scratch": "hwautoml.starts.scratch:START",
        "efficientnet-lite0": "hwautoml.starts.efficientnet_lite:LITE0",
        "efficientnet-lite1": "hwautoml.starts.efficientnet_lite:LITE1",
        "efficientnet-lite2": "hwautoml.starts.efficientnet_lite:LITE2",
    },
)


def start_names() -> tuple[str, ...]:
    """None of them is imported."""
    return STARTS.names


def load_start(name: str) -> Start:
    """Raises UnknownNameError, listing the known ones, and MissingDependencyError for a package's that cannot load."""
    return cast(Start, STARTS.load(name))
