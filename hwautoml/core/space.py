"""What can be built: choices, the space they span, and one architecture of it."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import Layer, LayerCost
from hwautoml.errors import InvalidValueError, UnknownNameError

if TYPE_CHECKING:
    import torch

Value = int | float | str


@dataclass(frozen=True)
class Choice:
    """One decision: a name and its options, from cheapest to most expensive.

    ``is_ordered`` is false where options are different things (kinds of blocks, say) and none is more of another.
    Dots in names group choices where people read them: reports show ``stage0.width``, and leave details such as
    ``stage0.block1.kernel``, of two dots or more, to the CSV.
    """

    name: str
    options: tuple[Value, ...]
    is_ordered: bool = True

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise InvalidValueError(f"choice {self.name!r} needs distinct options, got {self.options}")


@dataclass(frozen=True)
class Architecture:
    """One member of a space: a canonical value for every choice, in the space's order.

    Two architectures that build the same network are equal, because values that do not
    matter (the kernel of a block that is switched off) are set to a fixed option.
    """

    space: str
    values: tuple[tuple[str, Value], ...]

    @cached_property
    def id(self) -> str:
        """Stable 12-digit hexadecimal name: the same in every process and on every machine."""
        text = json.dumps([self.space, self.values], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __getitem__(self, name: str) -> Value:
        return self.as_dict[name]

    @cached_property
    def as_dict(self) -> dict[str, Value]:
        return dict(self.values)


class SearchSpace(ABC):
    """A space declared as data (``choices``) plus what an architecture of it means.

    This much serves a space whose members are looked up in latency tables. One that ``run`` can train shares weights
    among them, too: ``core.elastic_space.ElasticSpace``.

    A space is made for images and outputs: ``Space(image_size, channels, num_outputs)``, usually a frozen dataclass of
    these three fields, raises InvalidValueError for sizes that it cannot do. ``image_size`` is the side of the largest
    square input in pixels, ``channels`` 1 or 3, ``num_outputs`` the number of classes (or of other outputs).

    ``identity`` is the name that it is found by and the version of what its choices mean, such as ``mobile/v1``.
    ``published`` lists the sizes (image_size, channels, num_outputs) that a space, or its weights, were published for;
    the first are its default.
    """

    identity: ClassVar[str]
    published: ClassVar[tuple[tuple[int, int, int], ...]] = ()
    image_size: int
    channels: int
    num_outputs: int

    @property
    @abstractmethod
    def choices(self) -> tuple[Choice, ...]:
        """What is decided; always the same objects in the same order (a ``cached_property``)."""

    @abstractmethod
    def layers(self, architecture: Architecture) -> tuple[Layer, ...]:
        """The fused groups a runtime executes for this architecture, first to last."""

    @abstractmethod
    def cost(self, layer: Layer) -> LayerCost:
        """Analytic cost of one of this space's layers."""

    @abstractmethod
    def module(self, architecture: Architecture) -> torch.nn.Module:
        """A plain, freshly initialised network: float NCHW in, logits (N, num_outputs) out."""

    @abstractmethod
    def layer_module(self, layer: Layer) -> torch.nn.Module:
        """One layer as a module of its own, for micro-benchmarks."""

    @abstractmethod
    def all_layers(self) -> tuple[Layer, ...]:
        """Every distinct layer that any member can contain, in a stable order."""

    def resolution(self, architecture: Architecture) -> int:
        """Side of the square input in pixels; ``image_size`` unless it is a choice."""
        return self.image_size

    @property
    def family(self) -> str:
        """What a latency table is made for, such as ``mobile/v1/32x32x3``: everything but the number of outputs."""
        return f"{self.identity}/{self.image_size}x{self.image_size}x{self.channels}"

    @cached_property
    def name(self) -> str:
        """The space with all its settings; part of every architecture's id and of every run folder."""
        return f"{self.family}/classes{self.num_outputs}"

    def variants(self) -> tuple[SearchSpace, ...]:
        """This space with every value of settings other than sizes, each of which has a family of its own."""
        return (self,)

    def canonical(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """``values`` with choices that have no effect set to a fixed option."""
        return dict(values)

    # What follows is the same for every space.

    def architecture(self, values: Mapping[str, Value]) -> Architecture:
        """Validate and canonicalise.

        Raises:
            UnknownNameError: a name is no choice of this space.
            InvalidValueError: a choice is missing or its value is no option.
        """
        known = [choice.name for choice in self.choices]
        for name in values:
            if name not in known:
                raise UnknownNameError("choice", name, known)
        for choice in self.choices:
            if choice.name not in values:
                raise InvalidValueError(f"architecture of {self.name} lacks {choice.name!r}")
            value = values[choice.name]
            if isinstance(value, bool) or value not in choice.options:
                raise InvalidValueError(f"{choice.name} = {value!r} must be one of {choice.options} in {self.name}")
        exact = {c.name: c.options[c.options.index(values[c.name])] for c in self.choices}  # 3.0 is the option 3
        canonical = self.canonical(exact)
        return Architecture(self.name, tuple((c.name, canonical[c.name]) for c in self.choices))

    def decode(self, indices: NDArray[np.integer]) -> Architecture:
        """Option indices (num_choices,) to an architecture."""
        return self.architecture({c.name: c.options[int(i)] for c, i in zip(self.choices, indices, strict=True)})

    def encode(self, architecture: Architecture) -> NDArray[np.int64]:
        """An architecture to its option indices (num_choices,)."""
        return np.array([c.options.index(architecture[c.name]) for c in self.choices], dtype=np.int64)

    @property
    def num_options(self) -> NDArray[np.int64]:
        """(num_choices,)"""
        return np.array([len(choice.options) for choice in self.choices], dtype=np.int64)

    @property
    def size(self) -> int:
        """Number of value combinations; an upper bound of the number of distinct networks."""
        return math.prod(len(choice.options) for choice in self.choices)

    def sample(self, rng: np.random.Generator) -> Architecture:
        return self.decode(rng.integers(0, self.num_options))

    def smallest(self) -> Architecture:
        return self.decode(np.zeros(len(self.choices), dtype=np.int64))

    def largest(self) -> Architecture:
        return self.decode(self.num_options - 1)

    def total_cost(self, architecture: Architecture) -> LayerCost:
        """Sums over the layers; peak activation memory is the largest layer's."""
        costs = [self.cost(layer) for layer in self.layers(architecture)]
        return LayerCost(
            macs=sum(c.macs for c in costs),
            parameters=sum(c.parameters for c in costs),
            bytes_moved=sum(c.bytes_moved for c in costs),
            peak_activation_bytes=max(c.peak_activation_bytes for c in costs),
            num_kernels=sum(c.num_kernels for c in costs),
            depthwise_macs=sum(c.depthwise_macs for c in costs),
        )

    # Many architectures at once, as option indices (n, num_choices).

    def layer_indices(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        """Which of ``all_layers()`` each architecture contains: (n, slots) positions in it.

        A layer that occurs twice takes two slots; a free slot holds ``len(all_layers())``. So
        ``np.append(layer_ms, 0.0)[indices].sum(axis=1)`` is the sum over every network's layers.
        This default asks ``layers`` once per architecture; a space overrides it where it can look
        layers up in tables instead.

        Raises:
            InvalidValueError: see ``checked_encodings``.
        """
        index = {layer: position for position, layer in enumerate(self.all_layers())}
        rows = [[index[x] for x in self.layers(self.decode(row))] for row in self.checked_encodings(encodings)]
        indices = np.full((len(rows), max(map(len, rows), default=0)), len(index), dtype=np.int64)
        for position, row in enumerate(rows):
            indices[position, : len(row)] = row
        return indices

    def layer_counts(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        """How often each architecture contains each of ``all_layers()``: (n, len(all_layers())).

        Dense: for a few thousand architectures; ``layer_indices`` holds the same in a hundredth of the memory.

        Raises:
            InvalidValueError: see ``checked_encodings``.
        """
        return counts_of(self.layer_indices(encodings), len(self.all_layers()))

    def checked_encodings(self, encodings: NDArray[np.integer]) -> NDArray[np.int64]:
        """``encodings`` (n, num_choices) as int64.

        Raises:
            InvalidValueError: another shape, no integers, or an index that is no option of its choice.
        """
        array = np.asarray(encodings)
        if array.ndim != 2 or array.shape[1] != len(self.choices) or array.dtype.kind not in "iu":
            raise InvalidValueError(
                f"encodings of {self.name} must be integers (n, {len(self.choices)}), got {array.dtype} {array.shape}"
            )
        if len(array):
            wrong = (array.min(axis=0) < 0) | (array.max(axis=0) >= self.num_options)
            for position in np.flatnonzero(wrong):
                choice, column = self.choices[position], array[:, position]
                value = column[(column < 0) | (column >= len(choice.options))][0]
                raise InvalidValueError(f"option {value} of {choice.name} must be in 0..{len(choice.options) - 1}")
        return array.astype(np.int64, copy=False)


def counts_of(indices: NDArray[np.int64], num_layers: int) -> NDArray[np.int64]:
    """(n, num_layers): how often each position occurs in a row of ``indices`` (n, slots); num_layers is a free slot."""
    width = num_layers + 1
    flat = indices + width * np.arange(len(indices))[:, None]
    return np.bincount(flat.ravel(), minlength=len(indices) * width).reshape(len(indices), width)[:, :-1]
