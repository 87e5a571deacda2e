"""A folder that ships: model, runner, manifest; needs neither torch nor this package to run."""

from __future__ import annotations

from hwautoml.bundles.bundle import Bundle, read_bundle
from hwautoml.bundles.writing import BundleSample, PackedRuntime, write_bundle

__all__ = ["Bundle", "BundleSample", "PackedRuntime", "read_bundle", "write_bundle"]
