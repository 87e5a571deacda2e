"""From the layers of a network to its modules, by their kind."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from hwautoml.core.layer import Layer
from hwautoml.errors import InvalidValueError


@dataclass(frozen=True)
class LayerModules:
    """The modules that a space is made of; each is built from its layer alone."""

    kinds: Mapping[str, Callable[[Layer], nn.Module]]

    def layer(self, layer: Layer) -> nn.Module:
        """Raises InvalidValueError for a kind that is not of this space."""
        if layer.kind not in self.kinds:
            raise InvalidValueError(f"layer kind {layer.kind!r} is not one of {tuple(self.kinds)}")
        return self.kinds[layer.kind](layer)

    def network(self, placed_layers: Sequence[tuple[str, Layer]]) -> nn.Sequential:
        """Float images (N, C, H, W) to logits (N, num_outputs); one child per position."""
        return nn.Sequential(OrderedDict((position, self.layer(layer)) for position, layer in placed_layers))
