"""Which inner channels of a pretrained block matter: those that members keep come first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hwautoml.core.elastic_space import ElasticSpace

if TYPE_CHECKING:
    from torch import Tensor, nn

_INNER = ("expand.conv.", "expand.norm.", "depthwise.conv.", "depthwise.norm.")


def by_importance(
    weights: Mapping[str, Mapping[str, Tensor]], space: ElasticSpace, images: Tensor
) -> dict[str, dict[str, Tensor]]:
    """``weights`` with the inner channels of each inverted residual block in the order of what they contribute to its
    output for normalised ``images`` (N, C, H, W): the mean of the depthwise convolution's activation times the norm of
    the projection's weights that read it.

    Magnitude alone (Li et al. 2017) knows nothing of the images: a channel that never fires on them costs as much as
    another, and contributes nothing.
    """
    means = _mean_activations(weights, space, images)
    return {position: _reordered(tensors, means.get(position)) for position, tensors in weights.items()}


def _mean_activations(
    weights: Mapping[str, Mapping[str, Tensor]], space: ElasticSpace, images: Tensor
) -> dict[str, Tensor]:
    """(inner channels,) by position, of the blocks whose expansion is a choice."""
    import torch

    network = space.module(space.largest()).eval()
    plain = {f"{position}.{name}": t for position, tensors in weights.items() for name, t in tensors.items()}
    network.load_state_dict(plain, strict=False)  # the head has none
    means: dict[str, Tensor] = {}

    def keep(position: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda module, _, output: means.update({position: output.clamp(0, 6).mean((0, 2, 3))})

    for position, tensors in weights.items():
        if "expand.conv.weight" in tensors:
            network.get_submodule(f"{position}.depthwise").register_forward_hook(keep(position))
    with torch.no_grad():
        network(images)
    return means


def _reordered(tensors: Mapping[str, Tensor], mean: Tensor | None) -> dict[str, Tensor]:
    if mean is None:
        return dict(tensors)
    readers = tensors["project.conv.weight"].flatten(1).norm(dim=0)
    order = (mean * readers).argsort(descending=True)
    return {
        name: tensor[order]
        if name.startswith(_INNER) and tensor.ndim
        else tensor[:, order]
        if name == "project.conv.weight"
        else tensor
        for name, tensor in tensors.items()
    }
