"""A network as rows of blocks, grouped by the size of their feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from hwautoml.core.layer import Layer
from hwautoml.reports import formatting as fmt
from hwautoml.reports.report_data import Block

_NAMES = {
    "stem": "stem convolution",
    "mbconv": "depthwise block",
    "mbconv_se": "depthwise block with attention",
    "fused": "dense block",
    "basic": "residual block",
    "head": "classifier",
}


def drawing(blocks: Sequence[Block]) -> str:
    """An HTML list; stages are blocks whose output maps are of one size."""
    widest = max(block.layer.out_channels for block in blocks if not block.layer.is_head or len(blocks) == 1)
    slowest = max((block.latency_ms or 0.0 for block in blocks), default=0.0)
    groups = groupby(blocks, key=lambda block: _stage(block.layer))
    html = "".join(
        f"<li><h3>{fmt.text(title)}</h3><ol>{''.join(_row(block, widest, slowest) for block in members)}</ol></li>"
        for title, members in groups
    )
    first = blocks[0].layer
    size = f"{first.height} × {first.width} × {first.in_channels}"
    return f"<ol class='network card'><li><h3>image {size}</h3></li>{html}</ol>"


def _stage(layer: Layer) -> str:
    if layer.is_head:
        return "output"
    return f"{_strided(layer.height, layer.stride)} × {_strided(layer.width, layer.stride)}"


def _strided(size: int, stride: int) -> int:
    return -(-size // stride)


def _row(block: Block, widest: int, slowest: float) -> str:
    layer = block.layer
    width = 100 * min(layer.out_channels / widest, 1.0)
    name = _NAMES.get(layer.kind, layer.kind)
    details = [f"{layer.in_channels} → {layer.out_channels} channels"]
    if not layer.is_head:
        details.append(f"kernel {layer.kernel_size}")
    if layer.expansion > 1:
        details.append(f"expansion {layer.expansion}")
    if layer.stride > 1:
        details.append(f"stride {layer.stride}")
    time = ""
    if block.latency_ms is not None:
        share = 100 * block.latency_ms / slowest if slowest else 0.0
        time = f"<span class='time'>{fmt.milliseconds(block.latency_ms)}<i style='width:{share:.1f}%'></i></span>"
    kind = layer.kind if layer.kind in _NAMES else "other"
    return (
        f"<li class='block kind-{kind}'><span class='bar'><i style='width:{width:.1f}%'></i></span>"
        f"<span class='name'><b>{fmt.text(name)}</b><small>{fmt.text(', '.join(details))}</small></span>{time}</li>"
    )
