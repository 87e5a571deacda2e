"""One fused group of operations as a runtime sees it, and its analytic cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from hwautoml.errors import InvalidValueError

SCHEMA = "v1"
#: Of a network's last layer: its ``out_channels`` are the network's outputs, whose number a latency table leaves open.
HEAD = "head"

_KEY = re.compile(
    r"(?P<schema>v\d+)/(?P<kind>[a-z][a-z0-9_]*)/in(?P<c>\d+)x(?P<h>\d+)x(?P<w>\d+)/out(?P<o>\d+)"
    r"/k(?P<k>\d+)/e(?P<e>\d+)/s(?P<s>\d+)/(?P<act>[a-z0-9]+)/(?P<precision>[a-z0-9]+)/b(?P<b>\d+)"
)


@dataclass(frozen=True)
class Layer:
    """Shape (channels, height, width) in, ``out_channels`` out; everything that decides its cost.

    ``kind`` belongs to the space that made it (``stem``, ``mbconv``, ``fused``, ...), but for ``HEAD``.
    """

    kind: str
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel_size: int = 1
    expansion: int = 1
    stride: int = 1
    activation: str = "relu"
    precision: str = "fp32"
    batch: int = 1

    @property
    def is_head(self) -> bool:
        return self.kind == HEAD

    @cached_property
    def key(self) -> str:
        """Canonical, versioned, readable; what a latency table is indexed by."""
        return (
            f"{SCHEMA}/{self.kind}/in{self.in_channels}x{self.height}x{self.width}/out{self.out_channels}"
            f"/k{self.kernel_size}/e{self.expansion}/s{self.stride}/{self.activation}/{self.precision}/b{self.batch}"
        )

    @classmethod
    def from_key(cls, key: str) -> Layer:
        """Inverse of ``key``.

        Raises:
            InvalidValueError: the text is no layer key, or one of another schema version.
        """
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidValueError(
                f"{key!r} is no layer key; expected e.g. 'v1/mbconv/in16x32x32/out24/k5/e4/s2/relu/fp32/b1'"
            )
        if match["schema"] != SCHEMA:
            raise InvalidValueError(f"layer key {key!r} has schema {match['schema']}, this version reads {SCHEMA}")
        number = {name: int(match[name]) for name in "chwokesb"}
        return cls(
            kind=match["kind"],
            in_channels=number["c"],
            height=number["h"],
            width=number["w"],
            out_channels=number["o"],
            kernel_size=number["k"],
            expansion=number["e"],
            stride=number["s"],
            activation=match["act"],
            precision=match["precision"],
            batch=number["b"],
        )


@dataclass(frozen=True)
class LayerCost:
    """Analytic, device-independent cost (``estimated`` wherever it is shown).

    ``parameters`` are those that ship: norms folded into convolutions where a runtime does so. ``bytes_moved`` counts
    inputs, outputs and weights of every kernel once, in fp32. ``depthwise_macs`` is the part of ``macs`` that depthwise
    convolutions do, at a fraction of the speed on many devices.
    """

    macs: int
    parameters: int
    bytes_moved: int
    peak_activation_bytes: int
    num_kernels: int
    depthwise_macs: int = 0
