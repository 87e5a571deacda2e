"""Search spaces handed to NNI as ``nni.mutable`` objects, and its samples brought back.

The only file that imports NNI, and only when one of its functions is called: ``import nni``
takes most of a second and, left to itself, puts a handler that writes to standard output.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hwautoml.core.space import Architecture, SearchSpace, Value
from hwautoml.errors import InvalidValueError, MissingDependencyError

if TYPE_CHECKING:
    from types import ModuleType


def to_nni(space: SearchSpace) -> Any:
    """``nni.mutable.MutableDict`` with one ``Categorical`` per choice; labels are the choices' names.

    Choices without effect stay in it, as NNI knows no conditional ones: several of its
    samples can be one ``Architecture``.
    """
    mutable = _import_mutable()
    return mutable.MutableDict({c.name: mutable.Categorical(list(c.options), label=c.name) for c in space.choices})


def from_nni(space: SearchSpace, sample: Mapping[str, Any]) -> Architecture:
    """A sample as NNI's strategies make it (label to value) or as ``freeze`` returns it.

    Raises:
        UnknownNameError: a label is no choice of ``space`` (NNI's own check lets it pass).
        InvalidValueError: a choice is missing or its value is no option.
    """
    if not isinstance(sample, Mapping):
        raise InvalidValueError(f"a sample of NNI's maps labels to values, got a {type(sample).__name__}")
    options = {choice.name: choice.options for choice in space.choices}
    return space.architecture({name: _option(options.get(name, ()), value) for name, value in sample.items()})


def sample_with_nni(space: SearchSpace, num_samples: int, seed: int = 0) -> list[Architecture]:
    """``num_samples`` draws by NNI's own uniform sampling; the same seed gives the same ones."""
    mutable_space = to_nni(space)
    random_state = np.random.RandomState(seed)  # what NNI draws with, not a Generator
    drawn = []
    for _ in range(num_samples):
        sample: dict[str, Any] = {}
        mutable_space.random(sample, random_state)
        drawn.append(from_nni(space, sample))
    return drawn


def _option(options: tuple[Value, ...], value: Any) -> Any:
    """The option that equals ``value``: an id must not depend on numpy.int64(3), 3.0 or 3.

    A value that equals none is returned as it is, for the space to refuse.
    """
    if isinstance(value, bool | np.bool_):
        return str(value)  # True equals 1, but is nobody's kernel size
    return next((option for option in options if option == value), value)


def _import_mutable() -> ModuleType:
    """``nni.mutable``, imported without side effects on the process's output."""
    first_import = "nni" not in sys.modules
    # Any other framework makes nni.nas need pytorch_lightning. A user's own setting stays.
    os.environ.setdefault("NNI_FRAMEWORK", "none")
    try:
        import nni
        import nni.mutable
    except ImportError as error:
        raise MissingDependencyError(f"NNI cannot be imported: {error}", fix="pip install nni==3.0") from error
    if first_import:  # whoever imported NNI before us wants its log as it is
        nni.silence_stdout()
        logging.getLogger("nni").setLevel(logging.WARNING)
    return nni.mutable
