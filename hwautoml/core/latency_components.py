"""Ways in which the layers of one device can differ from those of others together: the components of a prior.

A device's latency is a sum of terms (layers and a fixed overhead). How its terms deviate from what is expected is a
sum of independent components, each with a standard deviation of its own::

    deviation = sum_j a_j W_j z_j        z_j ~ N(0, I),  W_j (num_terms, r_j)

Components are stated for a device on which the average network takes 1, so that amplitudes ``a_j`` can be learnt on
some devices and used on another. A term's *count share* is what it would take if all executions of all layers took the
same time, its *work share* the mean of that and of what it would take if time went by multiply-accumulates, or by
bytes moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.layer import Layer, LayerCost

Array = NDArray[np.float64]

DEAD = "dead_"  # prefix of the kind of a layer whose result nobody uses, which eager runtimes compute all the same
# How far two layers may be apart in each logarithmic feature and still cost alike, relative to the work they do.
_FEATURE_SCALES = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.7])
_FAR = 3.0
_MAX_RANK = 160
_MIN_SHARE = 1e-6  # of a kernel's largest variance; what lies below is left out of its factors


@dataclass(frozen=True)
class Work:
    """What executing each term once takes by analysis: (num_layers,) each; a term that computes nothing has zeros."""

    macs: Array
    depthwise_macs: Array
    bytes_moved: Array
    parameters: Array


def work_of(costs: Sequence[LayerCost]) -> Work:
    names = ("macs", "depthwise_macs", "bytes_moved", "parameters")
    return Work(*(np.array([getattr(cost, name) for cost in costs], dtype=np.float64) for name in names))


def components(layers: Sequence[Layer], work: Work, typical_counts: Array) -> dict[str, Array]:
    """W_j (len(layers) + 1, r_j) by name; the fixed overhead is the last term.

    ``typical_counts`` (len(layers),) is how often the average network contains each layer.

    overhead: the fixed one · work: time by multiply-accumulates (dense, depthwise), bytes,
    parameters · operator, operator_bytes: one
    operation (kind, kernel, expansion) per execution, per byte · kind: as operator, dead and live layers apart ·
    shape, shape_work, size, size_work: layers of equal channels, map and stride, or of equal map, per execution, per
    work · smooth, wide: layers alike in every feature, narrowly or widely, per work; wide_count per execution ·
    entry, entry_count: each layer on its own.
    """
    count = _share(np.ones(len(layers)), typical_counts)
    macs, moved = _share(work.macs, typical_counts), _share(work.bytes_moved, typical_counts)
    kinds_of_work = (work.macs - work.depthwise_macs, work.depthwise_macs, work.bytes_moved, work.parameters)
    mixed = (count + macs + moved) / 3
    operators = _one_hot([_operator(layer) for layer in layers])
    shapes = _one_hot([(x.in_channels, x.out_channels, x.height, x.stride) for x in layers])
    sizes = _one_hot([layer.height for layer in layers])
    found = {
        "work": np.stack([_share(values, typical_counts) for values in kinds_of_work], axis=1),
        "operator": operators * count[:, None],
        "operator_bytes": operators * moved[:, None],
        "kind": _one_hot([layer.kind for layer in layers]) * count[:, None],
        "shape": shapes * count[:, None],
        "shape_work": shapes * mixed[:, None],
        "size": sizes * count[:, None],
        "size_work": sizes * mixed[:, None],
        "smooth": _kernel_factors(layers, 1.0) * mixed[:, None],
        "wide": _kernel_factors(layers, _FAR) * mixed[:, None],
        "wide_count": _kernel_factors(layers, _FAR) * count[:, None],
        "entry": np.diag(mixed),
        "entry_count": np.diag(count),
    }
    padded = {name: np.pad(loading, ((0, 1), (0, 0))) for name, loading in found.items()}
    return {"overhead": np.append(np.zeros(len(layers)), 1.0)[:, None], **padded}


def _share(values: Array, typical_counts: Array) -> Array:
    """At which the average network sums to 1; zeros where it has nothing of the kind."""
    total = float(values @ typical_counts)
    return values / total if total > 0 else values


def _operator(layer: Layer) -> tuple[str, int, int]:
    return layer.kind.removeprefix(DEAD), layer.kernel_size, layer.expansion


def _family(layer: Layer) -> str:
    return layer.kind.removeprefix(DEAD).split("_")[0]


def _one_hot(labels: Sequence[object]) -> Array:
    """(len(labels), number of distinct labels), in order of appearance."""
    columns: Mapping[object, int] = {label: column for column, label in enumerate(dict.fromkeys(labels))}
    found = np.zeros((len(labels), len(columns)))
    found[np.arange(len(labels)), [columns[label] for label in labels]] = 1.0
    return found


def _kernel_factors(layers: Sequence[Layer], scale: float) -> Array:
    """F (num_layers, r) with F F^T the squared-exponential kernel over log features.

    Variants of a kind (``mbconv`` and ``mbconv_se``) are as far apart as a feature by its scale; other kinds are
    independent. By pivoted Cholesky decomposition (Harbrecht, Peters & Schneider 2012), which needs r columns only.
    """
    features = np.log(
        [[x.in_channels, x.out_channels, x.height, max(x.expansion, 1), x.kernel_size, x.stride] for x in layers]
    ) / (scale * _FEATURE_SCALES)
    kinds, families = np.array([layer.kind for layer in layers]), np.array([_family(layer) for layer in layers])
    left, columns = np.ones(len(layers)), np.zeros((len(layers), 0))
    while columns.shape[1] < min(_MAX_RANK, len(layers)) and left.max() > _MIN_SHARE:
        pivot = int(np.argmax(left))
        apart = np.square(features - features[pivot]).sum(axis=1) + (kinds != kinds[pivot]) / scale**2
        kernel = np.exp(-0.5 * apart) * (families == families[pivot])
        column = (kernel - columns @ columns[pivot]) / np.sqrt(left[pivot])
        columns, left = np.hstack([columns, column[:, None]]), np.maximum(left - column**2, 0.0)
    return columns
