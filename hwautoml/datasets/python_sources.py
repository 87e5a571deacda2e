"""Labelled images that a Python program already holds: a DataFrame, pairs, arrays, any Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hwautoml.core.task import Task
from hwautoml.datasets.arrays import LabelledArray, labelled_array
from hwautoml.datasets.decoding import COLOUR_MODES
from hwautoml.datasets.label_table import Columns, LabelRow, Table, label_rows
from hwautoml.datasets.layout import Layout
from hwautoml.datasets.sources import FolderSource, Listing
from hwautoml.datasets.table_layout import layout_of_rows
from hwautoml.errors import DatasetError, InvalidValueError

ACCEPTED = (
    "a path, a pandas DataFrame with columns of paths and labels, a list of (path, label), a pair (images, labels) of "
    "numpy arrays or torch tensors, or a Dataset with (image, label) items"
)


def files_of(source: Any, columns: Columns) -> tuple[FolderSource, Layout] | None:
    """Of a DataFrame or of pairs; relative paths start in the current folder. None for anything else.

    Raises:
        DatasetError: paths do not exist, or labels contradict each other.
    """
    if hasattr(source, "columns") and hasattr(source, "itertuples"):
        cells = [["" if _is_missing(v) else str(v) for v in row] for row in source.itertuples(index=False)]
        rows = label_rows(Table("the DataFrame", tuple(map(str, source.columns)), cells), columns)
        name = "the DataFrame"
    elif isinstance(source, Sequence) and source and all(_is_pair_of_path(item) for item in source):
        rows, name = [LabelRow(str(path), str(label)) for path, label in source], "the list"
    else:
        return None
    folder = FolderSource(Path.cwd())
    return folder, layout_of_rows(rows, name, folder, Listing((), ()))


def array_of(source: Any, task: type[Task]) -> LabelledArray:
    """Of arrays, tensors or a Dataset, all images in memory.

    Raises:
        InvalidValueError: nothing of these.
        DatasetError: shapes, values or labels that cannot be used.
    """
    if isinstance(source, tuple) and len(source) == 2 and all(hasattr(part, "shape") for part in source):
        return labelled_array("the arrays", _channels_last(source[0]), _as_numpy(source[1]), task)
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, str | bytes | dict):
        return _from_dataset(source, task)
    raise InvalidValueError(f"{type(source).__name__} is no source of labelled images; expected {ACCEPTED}")


def _is_missing(value: object) -> bool:
    return value is None or value != value  # NaN differs from itself


def _is_pair_of_path(item: object) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2 and isinstance(item[0], str | Path)


def _as_numpy(array: Any) -> NDArray[Any]:
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def _channels_last(images: Any) -> NDArray[Any]:
    """torch's batches are (N, C, H, W)."""
    is_tensor = hasattr(images, "detach")
    array = _as_numpy(images)
    return array.transpose(0, 2, 3, 1) if is_tensor and array.ndim == 4 and array.shape[1] in (1, 3) else array


def _from_dataset(source: Any, task: type[Task]) -> LabelledArray:
    name = type(source).__name__
    images, labels = [], []
    for index in range(len(source)):
        item = source[index]
        if not (isinstance(item, tuple | list) and len(item) == 2):
            raise DatasetError(
                f"item {index} of {name} is a {type(item).__name__}; expected (image, label)", fix=f"pass {ACCEPTED}"
            )
        images.append(_picture(item[0]))
        labels.append(_as_numpy(item[1]) if hasattr(item[1], "shape") else item[1])
    shapes = sorted({image.shape for image in images})
    if len(shapes) != 1:
        raise DatasetError(
            f"the images of {name} have {len(shapes)} shapes, such as {shapes[:3]}",
            fix="resize them in the Dataset, or pass the files: a folder, or a list of (path, label)",
        )
    given = np.array(labels)
    names = [str(text) for text in getattr(source, "classes", ())]
    if names and given.dtype.kind in "iu" and given.ndim == 1 and given.max(initial=0) < len(names):
        given = np.array(names)[given]
    return labelled_array(name, np.stack(images), given, task)


def _picture(image: Any) -> NDArray[Any]:
    if isinstance(image, Image.Image):
        if image.mode in COLOUR_MODES and image.mode != "RGB":
            image = image.convert("RGB")
        return np.asarray(image)
    return _channels_last(image[None])[0] if hasattr(image, "detach") else np.asarray(image)
