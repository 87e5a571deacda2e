"""Labels that the other images contradict, by the rule of Northcutt et al. 2021, "Confident Learning"."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hwautoml.core.finding import Finding
from hwautoml.datasets.dataset import ImageDataset
from hwautoml.datasets.looks import looks_of

NUM_NEIGHBOURS = 8
CHUNK = 1024
MAX_IMAGES = 12_000
NUM_AXES = 48
# A classifier that is often wrong says nothing of labels.
MIN_ACCURACY = 0.85
MAX_SHARE = 0.1
NUM_EXAMPLES = 24


def doubts(dataset: ImageDataset) -> list[Finding]:
    """Of the labels of a loaded set. It takes seconds, and another look at the images."""
    splits = (dataset.train, dataset.val, dataset.test)
    thumbnails, labels, names = [], [], []
    for split in splits:
        for start in range(0, split.num_images, CHUNK):
            rows = np.arange(start, min(start + CHUNK, split.num_images))
            thumbnails.append(looks_of(split.raw(rows)).thumbnails)
        labels.append(split.labels.numpy())
        names += [dataset.files[index] for index in split.indices.tolist()]
    strata, classes = dataset.task.strata(np.concatenate(labels))
    return suspicious_labels(np.concatenate(thumbnails), strata, names, classes)


def suspicious_labels(
    thumbnails: NDArray[np.uint8], labels: NDArray[np.int64], names: list[str], classes: tuple[str, ...], seed: int = 0
) -> list[Finding]:
    """``thumbnails`` (num_images, 16, 16) and ``labels`` (num_images,): each image is classified by its neighbours.

    Says nothing where that is right less than 85 % of the time, or doubts more than a tenth of the labels.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[:MAX_IMAGES])
    counts = np.bincount(labels[chosen], minlength=len(classes))
    if len(classes) < 2 or counts.min() <= NUM_NEIGHBOURS:
        return []
    given = labels[chosen]
    probabilities = _by_neighbours(thumbnails[chosen], given, len(classes))
    if float((probabilities.argmax(axis=1) == given).mean()) < MIN_ACCURACY:
        return []
    # The usual confidence in each class, of images that carry its label.
    usual = np.array([probabilities[given == label, label].mean() for label in range(len(classes))])
    usual = np.minimum(usual, 1 - 1 / NUM_NEIGHBOURS)  # one neighbour may have a wrong label itself
    own = probabilities[np.arange(len(given)), given]
    likely = np.where(probabilities >= usual, probabilities, 0).argmax(axis=1)
    confident = probabilities[np.arange(len(given)), likely] >= usual[likely]
    doubtful = np.flatnonzero(confident & (likely != given) & (own < usual[given]))
    if not len(doubtful) or len(doubtful) > MAX_SHARE * len(given):
        return []
    doubtful = doubtful[np.argsort(own[doubtful])]
    shown = [f"{names[chosen[i]]} ({classes[given[i]]}, looks like {classes[likely[i]]})" for i in doubtful[:3]]
    message = f"{len(doubtful):,} of {len(given):,} labels are not those of the pictures that look most alike: "
    message += ", ".join(shown)
    examples = tuple((names[chosen[i]],) for i in doubtful[:NUM_EXAMPLES])
    fix = "look at them, and correct those that are wrong"
    return [Finding("note", "suspicious-labels", message, fix, len(doubtful), examples)]


def _by_neighbours(thumbnails: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    """(num_images, num_classes): the labels of the nearest other images, as shares."""
    flat = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    flat -= flat.mean(axis=0)
    axes = np.linalg.eigh(flat.T @ flat)[1][:, -NUM_AXES:]
    points = flat @ axes
    squares = (points**2).sum(axis=1)
    shares = np.zeros((len(points), num_classes))
    for start in range(0, len(points), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(points)))
        distances = squares[None] - 2 * points[rows] @ points.T
        distances[np.arange(len(rows)), rows] = np.inf  # its own label has no vote
        nearest = np.argpartition(distances, NUM_NEIGHBOURS, axis=1)[:, :NUM_NEIGHBOURS]
        np.add.at(shares, (rows[:, None], labels[nearest]), 1 / NUM_NEIGHBOURS)
    return shares
