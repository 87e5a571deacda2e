"""Which device over the network measures, if any."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Board:
    """``device`` is a board's ``host:port``, ``tracker`` a tracker's, and ``key`` the agent's secret or the name that
    boards registered under at the tracker. Neither address: this machine.

    Boards are never stored, because addresses change; the key is not shown.
    """

    device: str | None = None
    tracker: str | None = None
    key: str | None = field(default=None, repr=False)

    @property
    def is_remote(self) -> bool:
        return self.device is not None or self.tracker is not None

    @property
    def address(self) -> str:
        """``host:port`` of the board or the tracker; empty on this machine."""
        return self.device or self.tracker or ""


HERE = Board()
