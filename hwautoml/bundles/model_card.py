"""The bundle's MODEL_CARD.md: what the model is, what it was tested on, and what not to expect of it.

After Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hwautoml.bundles.markdown import plain

_TEMPLATE = """\
# Model card

## Model
- Network {architecture} of the space {space}, {precision}; input uint8 `(1, {resolution}, {resolution}, {channels})`, \
output one probability for each of {num_classes} classes.
- Found, trained and compiled by hwautoml {version}; trained on the data below and on nothing else.

## Data
{data}

## Accuracy
{accuracy}

{per_class}

## Latency
{latency}

Conditions: {conditions}.

## Precision
{quantization}

## Parity
{parity}

## Limits
- The model knows these classes and no others: a picture of anything else gets one of them, often with a high
  probability. Probabilities are not calibrated.
- The accuracy holds for pictures like those of the test split. Other cameras, other light or another distribution
  of classes have not been tested{worst}.
- The latency holds for the machine and the number of threads above; `hwautoml verify` measures it again
  on that machine, and says that it does not on others.
"""


_CONDITIONS = ("cpu", "machine", "os", "runtime", "runtime_version", "num_threads", "governor", "date")


def class_metrics(classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    """Per class from ``confusion`` [true][predicted]: images, recall, precision (None where nothing was predicted)."""
    rows = []
    for index, name in enumerate(classes):
        right, images = confusion[index][index], sum(confusion[index])
        predicted = sum(row[index] for row in confusion)
        rows.append(
            {
                "class": name,
                "images": images,
                "recall": right / images if images else None,
                "precision": right / predicted if predicted else None,
            }
        )
    return rows


def model_card(manifest: Mapping[str, Any]) -> str:
    """Markdown; every figure stands in ``manifest``."""
    architecture, shape = manifest["architecture"], manifest["input"]
    metrics = manifest.get("metrics") or []
    return _TEMPLATE.format(
        architecture=plain(str(architecture.get("id", "of unknown id"))),
        space=plain(str(architecture.get("space", "of unknown name"))),
        precision=manifest.get("precision", "fp32"),
        resolution=shape["resolution"],
        channels=shape["channels"],
        num_classes=len(manifest["classes"]),
        version=manifest["versions"]["hwautoml"],
        data=_data(manifest.get("data")),
        accuracy=_accuracy(manifest["accuracy"], metrics),
        per_class=_per_class(metrics),
        latency=_latency(manifest["latency"], manifest),
        conditions=_conditions(manifest["conditions"]),
        quantization=_quantization(manifest.get("quantization")),
        parity=f"With the trained network: {_pairs(manifest['parity']) or 'not recorded'}.",
        worst=_worst(metrics),
    )


def wilson_interval(share: float, number: int) -> tuple[float, float]:
    """95 % interval of a share seen in ``number`` trials (Wilson 1927)."""
    z = 1.96
    middle = (share + z * z / (2 * number)) / (1 + z * z / number)
    half = z / (1 + z * z / number) * math.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _data(data: Mapping[str, Any] | None) -> str:
    if not data:
        return "Not recorded."
    counts = ", ".join(f"{number:,} {split}" for split, number in data.get("counts", {}).items())
    lines = [f"- {plain(str(data.get('name', 'unnamed')))}: {counts} images."]
    if data.get("num_skipped"):
        lines.append(f"- {data['num_skipped']} files were unreadable and left out.")
    if data.get("fingerprint"):
        lines.append(f"- Fingerprint of the images: `{data['fingerprint']}`.")
    return "\n".join(lines)


def _accuracy(accuracy: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> str:
    test, number = accuracy.get("test"), sum(row["images"] for row in metrics)
    if isinstance(test, float) and number:
        low, high = wilson_interval(test, number)
        text = f"{test:.2%} of {number:,} test images (95 % interval {low:.2%} to {high:.2%}), looked at once"
        validation = accuracy.get("val")
        return text + (f"; {validation:.2%} on validation." if isinstance(validation, float) else ".")
    return _pairs(accuracy) or "Not recorded."


def _per_class(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return "Per class: not recorded."
    lines = ["| class | test images | recall | precision |", "|---|---|---|---|"]
    for row in metrics:
        lines.append(
            f"| {plain(row['class'])} | {row['images']:,} | {_percent(row['recall'])} | {_percent(row['precision'])} |"
        )
    return "\n".join(lines)


def _latency(latency: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    median, interval = latency.get("measured_median"), latency.get("measured_interval")
    if not isinstance(median, float) or not interval:
        return _pairs(latency) or "Not recorded."
    text = (
        f"{median:.4g} ms per image (measured, 95 % {interval[0]:.4g} to {interval[1]:.4g}) with "
        f"{manifest['default_runtime']}, {manifest['num_threads']} thread(s)"
    )
    limit = latency.get("limit")
    return text + (f"; the limit was {limit:g} ms." if isinstance(limit, int | float) else ".")


def _conditions(conditions: Mapping[str, Any]) -> str:
    """What a reader wants to know; manifest.json has the rest."""
    known = {name: conditions[name] for name in _CONDITIONS if conditions.get(name) is not None}
    return _pairs(known) or _pairs(conditions) or "not recorded"


def _quantization(facts: Mapping[str, Any] | None) -> str:
    return (
        "fp32; int8 was not tried."
        if not facts
        else (plain(str(facts["reason"])) if "reason" in facts else _pairs(facts))
    )


def _worst(metrics: Sequence[Mapping[str, Any]]) -> str:
    known = [row for row in metrics if row["recall"] is not None]
    if not known:
        return ""
    row = min(known, key=lambda r: r["recall"])
    return f"; of the classes, {plain(row['class'])} is recognised least often ({row['recall']:.1%})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _pairs(figures: Mapping[str, Any]) -> str:
    simple = {k: v for k, v in figures.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    return ", ".join(plain(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}") for k, v in simple.items())
