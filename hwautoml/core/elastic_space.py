"""What ``run`` needs of a space: members that share weights, so that one training scores them all."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwautoml.core.layer import Layer
from hwautoml.core.space import Architecture, SearchSpace, Value

if TYPE_CHECKING:
    import torch


class ElasticSpace(SearchSpace):
    """A space of networks that are plain sequences of layers, whose weights are slices of shared ones.

    There are no elastic layers to write. A supernet holds, for each position of the sequence, the largest layer of
    each kind of weights (``shared_layers``). A member's layer at that position runs on slices of it: of every tensor
    the leading channels and the centre of the kernel (Once-for-All, Cai et al. 2020; BigNAS, Yu et al. 2020). So
    what an author writes is a module for a layer, ``layer_module``, and which layers an architecture consists of.

    What ``run`` does with a space, in this order:

    1. makes it for the images it was given, ``Space(image_size, channels, num_outputs)``; InvalidValueError ends it;
    2. measures the modules of ``all_layers()`` one by one, and a few whole members, to a latency table;
    3. trains the supernet: the largest, the smallest and random members in turn, each at its ``resolution``;
    4. searches encoded members, whose latencies are sums over ``layer_indices``, and scores some of them;
    5. cuts the best out of the supernet, trains, exports, compiles and measures them.

    Rules that ``hwautoml.testing.spaces`` checks:

    - ``layer_module(layer)`` is decided by the layer alone, and takes its input shape to its output shape.
    - Tensors of a layer have the same names as those of its shared layer, and no dimension that is larger.
    - The first position takes the images, (N, channels, resolution, resolution). The last layer alone is of kind
      ``HEAD``: it gives (N, num_outputs), its ``out_channels`` are the space's ``num_outputs``.
    - Two architectures are equal exactly if they build the same network: ``canonical`` sets what has no effect.

    A whole space, though one of four networks::

        >>> import itertools
        >>> from dataclasses import dataclass
        >>> from hwautoml.core.layer import HEAD
        >>> from hwautoml.core.space import Choice
        >>> from hwautoml.spaces.convolution import Convolution, cost_of
        >>>
        >>> @dataclass(frozen=True)
        ... class Plain(ElasticSpace):
        ...     identity = "plain/v1"
        ...     image_size: int
        ...     channels: int
        ...     num_outputs: int
        ...     choices = (Choice("width", (8, 16)), Choice("kernel", (3, 5)))
        ...
        ...     def placed_layers(self, architecture):
        ...         side, width, kernel = self.image_size, architecture["width"], architecture["kernel"]
        ...         body = Layer("conv", self.channels, side, side, width, kernel)
        ...         return (("body", body), ("head", Layer(HEAD, width, side, side, self.num_outputs)))
        ...
        ...     def all_layers(self):
        ...         members = map(self.decode, itertools.product(range(2), range(2)))
        ...         return tuple(dict.fromkeys(layer for member in members for layer in self.layers(member)))
        ...
        ...     def shared_layers(self):
        ...         return {position: {layer.kind: layer} for position, layer in self.placed_layers(self.largest())}
        ...
        ...     def cost(self, layer):
        ...         out_side = 1 if layer.is_head else layer.height
        ...         sizes = layer.in_channels, layer.out_channels, layer.kernel_size, layer.height, out_side
        ...         return cost_of([Convolution(*sizes)], layer.batch)
        ...
        ...     def layer_module(self, layer):
        ...         from torch import nn
        ...
        ...         if layer.is_head:
        ...             pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        ...             return nn.Sequential(pool, nn.Linear(layer.in_channels, layer.out_channels))
        ...         kernel = layer.kernel_size
        ...         conv = nn.Conv2d(layer.in_channels, layer.out_channels, kernel, padding=kernel // 2, bias=False)
        ...         return nn.Sequential(conv, nn.BatchNorm2d(layer.out_channels), nn.ReLU())
        >>>
        >>> from hwautoml.supernets.supernet import Supernet
        >>> space = Plain(image_size=8, channels=1, num_outputs=10)
        >>> supernet = Supernet(space)
        >>> network = supernet.cut_out(space.smallest())
        >>> sum(parameter.numel() for parameter in network.parameters())
        178

    ``docs/extending/space.md`` is a walk through a larger one.
    """

    @abstractmethod
    def placed_layers(self, architecture: Architecture) -> tuple[tuple[str, Layer], ...]:
        """(position, layer) first to last: the network is this sequence.

        A position is a name without dots, unique in the network: of the weights that all members share there.
        """

    @abstractmethod
    def shared_layers(self) -> Mapping[str, Mapping[str, Layer]]:
        """What a supernet holds: per position, in the order of the largest member, a layer for each kind of weights.

        Each is the largest that a member can have there; they make up the supernet, and need not be a member's.
        """

    def weights_kind(self, layer: Layer) -> str:
        """Under which name of ``shared_layers()[position]`` the layer finds its weights; by default its kind."""
        return layer.kind

    def residual_norms(self, layer: Layer) -> tuple[str, ...]:
        """Names, in ``layer_module(layer)``, of the BatchNorms that end a branch which is added to a shortcut.

        Their scales start small, so that a block begins nearly as the identity and depth is harmless at first.
        """
        return ()

    # What follows is the same for every elastic space.

    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        return tuple(layer for _, layer in self.placed_layers(architecture))

    def module(self, architecture: Architecture) -> torch.nn.Module:
        """Float images (N, C, H, W) to logits (N, num_outputs); one child per position."""
        from torch import nn

        placed = self.placed_layers(architecture)
        return nn.Sequential(OrderedDict((position, self.layer_module(layer)) for position, layer in placed))

    def kinds(self, architecture: Architecture) -> tuple[Value, ...]:
        """What it is made of, as opposed to how much: its values of the choices that are not ordered.

        Members that differ in it may be good for different reasons, so a selection should not be all of one.
        """
        values = architecture.as_dict
        return tuple(values[choice.name] for choice in self.choices if not choice.is_ordered)
