"""Decoded pixels kept between runs: one uncompressed .npz per source and setting, written atomically."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import PIL

from hwautoml.core.pixel_rule import PixelRule
from hwautoml.core.storage import replaced_atomically
from hwautoml.datasets.decoding import PictureFacts
from hwautoml.datasets.layout import LabelledFile
from hwautoml.datasets.looks import Looks
from hwautoml.datasets.probing import Probe
from hwautoml.datasets.safety import HEADER_ERRORS, READ_ERRORS
from hwautoml.datasets.scan import Scan
from hwautoml.errors import StorageError

CACHE_VERSION = 2

_log = logging.getLogger(__name__)


def cache_file(
    cache_dir: Path, origin: str, files: Sequence[LabelledFile], settings: Mapping[str, int | str | None]
) -> Path:
    """Where the scan of these files under these settings is kept; any change of a file gives another name."""
    digest = hashlib.sha256(json.dumps([CACHE_VERSION, PIL.__version__, origin, dict(settings)]).encode())
    for entry in files:
        digest.update(
            f"{entry.file.path}\0{entry.file.size_bytes}\0{entry.file.stamp}\n".encode(errors="surrogateescape")
        )
    return cache_dir / f"images-{digest.hexdigest()[:24]}.npz"


def load_scan(path: Path) -> Scan | None:
    """None when there is none, or when it is damaged (logged; it is then written anew)."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            return Scan(
                probe=Probe(facts["image_size"], facts["channels"], PixelRule.from_json(facts["rule"])),
                pixels=arrays.get("pixels"),
                sums=arrays["sums"],
                checksums=arrays["checksums"],
                looks=Looks(arrays["digests"], arrays["thumbnails"]),
                facts=tuple(None if fact is None else PictureFacts(*fact) for fact in facts["pictures"]),
                reasons={int(index): reason for index, reason in facts["reasons"].items()},
            )
    except (*READ_ERRORS, *HEADER_ERRORS) as error:
        _log.warning("ignoring the damaged cache %s: %s", path, error)
        return None


def save_scan(path: Path, scan: Scan) -> None:
    """A full disk or a read-only folder is logged, not raised: the cache only saves time."""
    facts = {
        "image_size": scan.probe.image_size,
        "channels": scan.probe.channels,
        "rule": scan.probe.rule.to_json(),
        "pictures": [None if fact is None else astuple(fact) for fact in scan.facts],
        "reasons": dict(scan.reasons),
    }
    arrays = {
        "facts": np.array(json.dumps(facts)),
        "sums": scan.sums,
        "checksums": scan.checksums,
        "digests": scan.looks.digests,
        "thumbnails": scan.looks.thumbnails,
    }
    if scan.pixels is not None:
        arrays["pixels"] = scan.pixels
    try:
        with replaced_atomically(path) as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except (StorageError, OSError) as error:
        _log.warning("could not write the cache %s: %s", path, error)
