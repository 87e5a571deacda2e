"""A weight-sharing network that holds every member of a space.

There are no elastic layers. A member is the space's own plain block run on *slices* of the
shared weights: leading channels, centred kernels (Once-for-All, Cai et al. 2020; BigNAS, Yu et
al. 2020). So the network that is trained, the one that is cut out and the one that is exported
are the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import lru_cache
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture

Slices = tuple[slice, ...]


class Supernet(nn.Module):
    """``forward(images, architecture)``: float (N, C, H, W) to logits (N, num_outputs).

    Parameters are named ``<position>.<kind>.<weight>``, e.g. ``stage1_block0.fused.expand.conv.weight``.
    """

    def __init__(self, space: ElasticSpace) -> None:
        super().__init__()
        self.space, shared = space, space.shared_layers()
        self.shared = nn.ModuleDict(
            {
                position: nn.ModuleDict({kind: space.layer_module(layer) for kind, layer in kinds.items()})
                for position, kinds in shared.items()
            }
        )
        self._skeleton = lru_cache(maxsize=None)(self._make_skeleton)
        self._tensors: dict[tuple[str, str], dict[str, Tensor]] = {}
        ends = (
            f"shared.{position}.{kind}.{norm}"
            for position, kinds in shared.items()
            for kind, layer in kinds.items()
            for norm in space.residual_norms(layer)
        )
        initialise(self, residual_norms=frozenset(ends))

    def forward(self, images: Tensor, architecture: Architecture) -> Tensor:
        x = images
        for position, layer in self.space.placed_layers(architecture):
            skeleton, slices = self._skeleton(position, layer)
            tensors = self._shared_tensors(position, layer)
            skeleton.train(self.training)
            x = functional_call(skeleton, {name: tensors[name][where] for name, where in slices.items()}, (x,))
        return x

    def cut_out(self, architecture: Architecture) -> nn.Sequential:
        """The member as a plain network of its own, with copies of its weights and BatchNorm statistics."""
        children = []
        for position, layer in self.space.placed_layers(architecture):
            block = self.space.layer_module(layer)
            tensors = self._shared_tensors(position, layer)
            _, slices = self._skeleton(position, layer)
            block.load_state_dict({name: tensors[name][where].detach().clone() for name, where in slices.items()})
            children.append((position, block))
        network = nn.Sequential()
        for position, block in children:
            network.add_module(position, block)
        return network.train(self.training)

    def _shared_tensors(self, position: str, layer: Layer) -> dict[str, Tensor]:
        kind = self.space.weights_kind(layer)
        found = self._tensors.get((position, kind))
        if found is None:
            block = cast(nn.ModuleDict, self.shared[position])[kind]
            found = dict(block.named_parameters()) | dict(block.named_buffers())
            self._tensors[position, kind] = found
        return found

    def _make_skeleton(self, position: str, layer: Layer) -> tuple[nn.Module, dict[str, Slices]]:
        """The block without storage, and where in the shared weights each of its tensors lies."""
        with torch.device("meta"):
            skeleton = self.space.layer_module(layer)
        shared = self._shared_tensors(position, layer)
        state = dict(skeleton.named_parameters()) | dict(skeleton.named_buffers())
        return skeleton, {name: _slices(tensor.shape, shared[name].shape) for name, tensor in state.items()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._tensors.clear()  # .to(device) may replace the tensors that are cached
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own gap


def initialise(network: nn.Module, residual_norms: Collection[str] = ()) -> None:
    """He initialisation; norms that end a residual branch, by name, start small, so that depth starts harmless."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and name in residual_norms:
            nn.init.constant_(module.weight, 0.25)


def _slices(small: torch.Size, large: torch.Size) -> Slices:
    """Leading channels, centred kernel."""
    where = [slice(0, size) for size in small[:2]]
    for size, full in zip(small[2:], large[2:], strict=True):
        start = (full - size) // 2
        where.append(slice(start, start + size))
    return tuple(where)
