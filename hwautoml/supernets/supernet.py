"""A weight-sharing network that holds every member of a space.

There are no elastic layers. A member is the space's own plain block run on *slices* of the
shared weights: leading channels, centred kernels (Once-for-All, Cai et al. 2020; BigNAS, Yu et
al. 2020). So the network that is trained, the one that is cut out and the one that is exported
are the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Protocol, Self, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture, SearchSpace
from hwautoml.errors import InvalidValueError

Slices = tuple[slice, ...]


class ElasticSpace(Protocol):
    """What a space offers so that its members can share weights; see ``MobileSpace``."""

    def placed_layers(self, architecture: Architecture) -> tuple[tuple[str, Layer], ...]: ...
    def shared_layers(self) -> dict[str, dict[str, Layer]]: ...
    def weights_kind(self, layer: Layer) -> str: ...
    def layer_module(self, layer: Layer) -> nn.Module: ...


class Supernet(nn.Module):
    """``forward(images, architecture)``: float (N, C, H, W) to logits (N, num_classes).

    Parameters are named ``<position>.<kind>.<weight>``, e.g. ``stage1_block0.fused.expand.conv.weight``.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        if not hasattr(space, "shared_layers"):
            raise InvalidValueError(f"space {space.name} does not say how its members share weights (shared_layers)")
        self.space = cast(ElasticSpace, space)
        self.shared = nn.ModuleDict(
            {
                position: nn.ModuleDict({kind: self.space.layer_module(layer) for kind, layer in kinds.items()})
                for position, kinds in self.space.shared_layers().items()
            }
        )
        self._skeleton = lru_cache(maxsize=None)(self._make_skeleton)
        self._tensors: dict[tuple[str, str], dict[str, Tensor]] = {}
        initialise(self)

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


def initialise(network: nn.Module) -> None:
    """He initialisation; the last norm of a residual branch starts small, so that depth starts harmless."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d) and name.endswith(("project.norm", "second.norm")):
            nn.init.constant_(module.weight, 0.25)


def _slices(small: torch.Size, large: torch.Size) -> Slices:
    """Leading channels, centred kernel."""
    where = [slice(0, size) for size in small[:2]]
    for size, full in zip(small[2:], large[2:], strict=True):
        start = (full - size) // 2
        where.append(slice(start, start + size))
    return tuple(where)
