"""Where a board or a tracker listens."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from hwautoml.errors import InvalidValueError


@dataclass(frozen=True)
class Address:
    """``str()`` gives back what ``parse`` reads; an IPv6 host stands in brackets."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises InvalidValueError unless ``text`` is ``host:port``."""
        host, colon, port = text.strip().rpartition(":")
        is_bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if is_bracketed else host
        is_host = bool(host) and not set(host) & set("[]/@ \t") and (is_bracketed or ":" not in host)
        if not (colon and is_host and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise InvalidValueError(f"an address is host:port (for IPv6 [host]:port), got {text!r}")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Reachable from its own machine only; a name other than localhost could be anything."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"
