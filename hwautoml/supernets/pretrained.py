"""Members of a pretrained network: their weights are there, only a head is missing.

What a member is worth is answered by a linear probe: a regularised logistic regression on its pooled features, whose
weights are the head that training then begins with (Kumar et al. 2022 on why a probe comes before fine-tuning).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.space import Architecture
from hwautoml.supernets.evaluator import Batches, Images, LabelledImages, recalibration_batches
from hwautoml.supernets.scoring import Normalised, recalibrate
from hwautoml.supernets.supernet import Supernet

PROBE_BATCH = 32
PENALTY = 1.0  # inverse strength (C) of the probe's L2 penalty, on standardised features divided by their number
MAX_ITERATIONS = 200


def load_shared(supernet: Supernet, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Into positions with one kind of weights; positions that ``weights`` do not name stay as they are."""
    for position, tensors in weights.items():
        (kind,) = supernet.space.shared_layers()[position]
        supernet.get_submodule(f"shared.{position}.{kind}").load_state_dict(dict(tensors))


@dataclass(frozen=True, eq=False)
class Probe:
    """``weight`` (num_outputs, num_features) and ``bias`` (num_outputs,) of a linear head on raw features."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, num_outputs) for features (n, num_features)."""
        return np.asarray(features @ self.weight.T + self.bias, dtype=np.float32)


def fit_probe(
    features: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int, penalty: float = PENALTY
) -> Probe:
    """Multinomial logistic regression with L2 penalty on standardised ``features`` (n, num_features).

    Classes that do not occur among ``labels`` keep weights of zero and a bias below all others.
    """
    from sklearn.linear_model import LogisticRegression

    mean, scale = features.mean(0), features.std(0) + 1e-6
    standard = (features - mean) / scale
    model = LogisticRegression(C=penalty / features.shape[1] * 10, max_iter=MAX_ITERATIONS)
    model.fit(standard, labels)
    weight = np.zeros((num_classes, features.shape[1]))
    bias = np.full(num_classes, float(model.intercept_.min()) - 10.0)
    rows, offsets = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # of two classes scikit-learn keeps the difference
        rows, offsets = np.vstack([-rows, rows]) / 2, np.concatenate([-offsets, offsets]) / 2
    weight[model.classes_], bias[model.classes_] = rows, offsets
    raw = weight / scale
    return Probe(raw.astype(np.float32), (bias - raw @ mean).astype(np.float32))


class PretrainedMembers:
    """Members of a supernet with pretrained weights, probed on a fixed part of the training images."""

    def __init__(self, supernet: Supernet, images: LabelledImages, *, max_images: int, device: str) -> None:
        self.supernet, self.images, self.max_images, self.device = supernet, images, max_images, device
        self._recalibration: dict[int, Batches] = {}

    def network(self, architecture: Architecture) -> nn.Module:
        """The member with its pretrained weights, and a head from its probe; in evaluation mode."""
        network = self.backbone(architecture)
        features, labels = self._features(network, self.images.train, architecture)
        probe = fit_probe(features, labels, self.images.num_classes)
        head = _head(network)
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(probe.weight))
            head.bias.copy_(torch.from_numpy(probe.bias))
        return network.eval()

    def backbone(self, architecture: Architecture) -> nn.Module:
        """With statistics of its own where channels were left out; those of the full network are right as they are."""
        network = self.supernet.cut_out(architecture).eval()
        if not _has_all_channels(self.supernet.space, architecture):
            resolution = self.supernet.space.resolution(architecture)
            if resolution not in self._recalibration:
                self._recalibration[resolution] = recalibration_batches(self.images.train, resolution, self.device)
            recalibrate(Normalised(network, self.images.mean, self.images.std), self._recalibration[resolution])
        return network

    def _features(
        self, network: nn.Module, split: Images, architecture: Architecture
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(n, num_features) before the head, pooled; and labels (n,)."""
        kept: list[Tensor] = []
        hook = _head(network).register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().cpu()))
        model = Normalised(network, self.images.mean, self.images.std).to(
            self.device, memory_format=torch.channels_last
        )
        labels: list[Tensor] = []
        batches = split.batches(
            PROBE_BATCH,
            shuffle=True,
            generator=torch.Generator().manual_seed(0),
            device=self.device,
            resolution=self.supernet.space.resolution(architecture),
        )
        with torch.no_grad():
            for images, found in batches:
                model.eval()(images)
                labels.append(found.cpu())
                if len(labels) * PROBE_BATCH >= self.max_images:
                    break
        hook.remove()
        return torch.cat(kept).numpy(), torch.cat(labels).numpy()


def _head(network: nn.Module) -> nn.Linear:
    """The last linear layer of a network."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def _has_all_channels(space: ElasticSpace, architecture: Architecture) -> bool:
    """Whether no layer is narrower than the shared weights of its position, the head apart."""
    shared = space.shared_layers()
    return all(
        layer.is_head or layer.expansion == shared[position][space.weights_kind(layer)].expansion
        for position, layer in space.placed_layers(architecture)
    )
