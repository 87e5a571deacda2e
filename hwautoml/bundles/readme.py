"""The bundle's README.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hwautoml.core.markdown import plain, without_html
from hwautoml.core.task import Card

_TEMPLATE = """\
# {title}

{purpose}

```
python -m pip install -r requirements.txt
python run.py photo.jpg{top}
python run.py --check
```

`run.py` needs Python 3.10 or later, numpy, Pillow and {runtime} ({num_threads} thread(s)); no training framework.
`python run.py --help` lists its options and the top of the file its exit codes.

- `python serve.py` answers HTTP requests with images (`POST /predict`, `/health`, `/metrics`) on this machine only;
  `Containerfile` is a recipe for a container.
{cpp}- `hwautoml verify FOLDER` checks the files' hashes, the packed samples and the latency on the machine at hand.
- `MODEL_CARD.md`: data, accuracy per class, limits.

- Input of the model itself: uint8 `(1, {resolution}, {resolution}, {channels})`; its output: {output};
  any image file given to `run.py` is turned upright, cropped to its centre square and resized.
- Accuracy: {accuracy}
- Latency: {latency}
- Conditions: {conditions}
- Parity with the trained network: {parity}

`manifest.json` holds all of this for programs, with the SHA-256 of every file.
"""

_CPP = """\
- `cpp/`: a runner without Python and a C header for embedding (`cmake -S cpp -B build && cmake --build build`).
"""


def readme_text(manifest: Mapping[str, Any], card: Card) -> str:
    """Markdown; figures as they stand in ``manifest``."""
    return _TEMPLATE.format(
        title=card.title,
        purpose=card.purpose,
        output=card.output,
        top=" --top 3" if manifest["task"]["answer"]["kind"] == "ranking" else "",
        cpp=_CPP if "apache-tvm" in manifest["versions"] else "",
        runtime=manifest["default_runtime"],
        num_threads=manifest["num_threads"],
        resolution=manifest["input"]["resolution"],
        channels=manifest["input"]["channels"],
        **{key: _figures(manifest[key]) for key in ("accuracy", "latency", "conditions", "parity")},
    )


def _figures(figures: Mapping[str, Any]) -> str:
    if not figures:
        return "not recorded"
    return ", ".join(f"{plain(name)} {_figure(value)}" for name, value in figures.items())


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return plain(value) if isinstance(value, str) else without_html(json.dumps(value, default=str, ensure_ascii=False))
