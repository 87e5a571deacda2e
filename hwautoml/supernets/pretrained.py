"""Members of a pretrained network: their weights are there, only a head is missing.

What a member is worth is answered by a linear probe, a regularised linear head on its pooled features, in the time of
one pass over the images. Its weights are the head that fine-tuning then begins with: from a random one, the first steps
would spoil the features (Kumar et al. 2022, "Fine-tuning can distort pretrained features").
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hwautoml.core.elastic_space import ElasticSpace
from hwautoml.core.space import Architecture
from hwautoml.core.task import Outcome, Task
from hwautoml.supernets.evaluator import Batches, Images, LabelledImages, recalibration_batches
from hwautoml.supernets.scoring import Normalised, recalibrate
from hwautoml.supernets.supernet import Supernet

PROBE_BATCH = 32
MAX_PROBE_IMAGES = 3000  # of the training split, and a third as many of the validation split
PENALTY = 50.0  # of the squared weights on standardised features, over the number of images
MAX_ITERATIONS = 100
FOLDS = 4

Head = tuple[Tensor, Tensor]
"""Weights (num_outputs, num_features) and bias (num_outputs,)."""


def load_shared(supernet: Supernet, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Into positions with one kind of weights; positions that ``weights`` do not name stay as they are."""
    shared = supernet.space.shared_layers()
    for position, tensors in weights.items():
        (kind,) = shared[position]
        supernet.get_submodule(f"shared.{position}.{kind}").load_state_dict(dict(tensors))


def fit_head(features: Tensor, labels: Tensor, task: Task, penalty: float = PENALTY) -> Head:
    """Weights (num_outputs, num_features) and bias (num_outputs,) of a linear head on ``features`` (n, num_features).

    The task's own loss with an L2 penalty on standardised features, minimised by L-BFGS: for classes that is
    multinomial logistic regression.
    """
    mean, scale = features.mean(0), features.std(0, unbiased=False) + 1e-6
    standard = (features - mean) / scale
    weight = torch.zeros(task.num_outputs, features.shape[1], requires_grad=True)
    bias = torch.zeros(task.num_outputs, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task.loss(standard @ weight.T + bias, labels) + penalty / len(features) * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    raw = weight.detach() / scale
    return raw, bias.detach() - raw @ mean


class PretrainedMembers:
    """Members of a supernet with pretrained weights, each with a head of its own."""

    def __init__(self, supernet: Supernet, images: LabelledImages, *, device: str) -> None:
        self.supernet, self.images, self.device = supernet, images, device
        self._recalibration: dict[int, Batches] = {}

    def __call__(self, architecture: Architecture) -> Outcome:
        """Of heads on the member's features, each on images that it was not fitted to: the validation images, and the
        training images by cross-validation, because a small set has too few to validate on to tell members apart."""
        network, task = self._backbone(architecture), self.images.task
        features, labels = self._features(network, self.images.train, architecture, MAX_PROBE_IMAGES)
        further, expected = self._features(network, self.images.val, architecture, MAX_PROBE_IMAGES // 3)
        parts = [_outcome(task, fit_head(features, labels, task), further, expected)]
        for fold in range(FOLDS):
            held_out = torch.arange(len(labels)) % FOLDS == fold  # they are shuffled
            head = fit_head(features[~held_out], labels[~held_out], task)
            parts.append(_outcome(task, head, features[held_out], labels[held_out]))
        return task.merge(parts)

    def recalibrated(self, architecture: Architecture) -> nn.Module:
        """The member with its pretrained weights and a head from its features; in evaluation mode."""
        network = self._backbone(architecture)
        features, labels = self._features(network, self.images.train, architecture, MAX_PROBE_IMAGES)
        weight, bias = fit_head(features, labels, self.images.task)
        head = head_of(network)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias)
        return network.eval()

    def _backbone(self, architecture: Architecture) -> nn.Module:
        """With statistics of its own where channels were left out; those of the full network are right as they are."""
        network = self.supernet.cut_out(architecture).eval()
        if not _has_all_channels(self.supernet.space, architecture):
            resolution = self.supernet.space.resolution(architecture)
            if resolution not in self._recalibration:
                self._recalibration[resolution] = recalibration_batches(self.images.train, resolution, self.device)
            recalibrate(Normalised(network, self.images.mean, self.images.std), self._recalibration[resolution])
        return network

    def _features(
        self, network: nn.Module, split: Images, architecture: Architecture, max_images: int
    ) -> tuple[Tensor, Tensor]:
        """(n, num_features) that the head is given, and labels (n, ...), of a fixed, shuffled part of the images."""
        kept: list[Tensor] = []
        hook = head_of(network).register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].detach().cpu()))
        model = Normalised(network, self.images.mean, self.images.std).eval()
        model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
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
                model(images)
                labels.append(found.cpu())
                if len(labels) * PROBE_BATCH >= max_images:
                    break
        hook.remove()
        return torch.cat(kept), torch.cat(labels)


def _outcome(task: Task, head: Head, features: Tensor, labels: Tensor) -> Outcome:
    weight, bias = head
    outputs = task.activate(features @ weight.T + bias)
    return task.outcome(outputs.numpy(), labels.numpy())


def head_of(network: nn.Module) -> nn.Linear:
    """The last linear layer of a network."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def _has_all_channels(space: ElasticSpace, architecture: Architecture) -> bool:
    """Whether each layer has the expansion of the shared weights of its position."""
    shared = space.shared_layers()
    placed = space.placed_layers(architecture)
    return all(x.is_head or x.expansion == shared[p][space.weights_kind(x)].expansion for p, x in placed)
