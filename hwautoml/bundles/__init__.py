"""A folder that ships: model, runner, manifest; needs neither torch nor this package to run."""

from __future__ import annotations

from hwautoml.bundles.bundle import Bundle, read_bundle
from hwautoml.bundles.writing import BundleSample, write_bundle

__all__ = ["Bundle", "BundleSample", "read_bundle", "write_bundle"]
