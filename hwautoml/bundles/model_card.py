"""The bundle's MODEL_CARD.md: what the model is, what it was tested on, and what not to expect of it.

After Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwautoml.core.markdown import plain
from hwautoml.core.task import Card

_TEMPLATE = """\
# Model card

## Model
- Network {architecture} of the space {space}, {precision}; input uint8 `(1, {resolution}, {resolution}, {channels})`, \
output {output}.
- Found, trained and compiled by hwautoml {version}; trained on the data below and on nothing else.

## Data
{data}

## Accuracy
{accuracy}

{details}

## Latency
{latency}

Conditions: {conditions}.

## Precision
{quantization}

## Parity
{parity}

## Limits
{limits}
- The latency holds for the machine and the number of threads above; `hwautoml verify` measures it again
  on that machine, and says that it does not on others.
"""


_CONDITIONS = ("cpu", "machine", "os", "runtime", "runtime_version", "num_threads", "governor", "date")


def model_card(manifest: Mapping[str, Any], card: Card) -> str:
    """Markdown; every figure stands in ``manifest``, or in what the task says of itself."""
    architecture, shape = manifest["architecture"], manifest["input"]
    return _TEMPLATE.format(
        architecture=plain(str(architecture.get("id", "of unknown id"))),
        space=plain(str(architecture.get("space", "of unknown name"))),
        precision=manifest.get("precision", "fp32"),
        resolution=shape["resolution"],
        channels=shape["channels"],
        output=card.output,
        version=manifest["versions"]["hwautoml"],
        data=_data(manifest.get("data")),
        accuracy=_accuracy(manifest["accuracy"], card),
        details=card.details,
        latency=_latency(manifest["latency"], manifest),
        conditions=_conditions(manifest["conditions"]),
        quantization=_quantization(manifest.get("quantization")),
        parity=f"With the trained network: {_pairs(manifest['parity']) or 'not recorded'}.",
        limits="\n".join(f"- {limit}" for limit in card.limits),
    )


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


def _accuracy(accuracy: Mapping[str, Any], card: Card) -> str:
    if not card.result:
        return _pairs(accuracy) or "Not recorded."
    validation = accuracy.get("val")
    return f"{card.result}, looked at once" + (
        f"; {validation:.2%} on validation." if isinstance(validation, float) else "."
    )


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


def _pairs(figures: Mapping[str, Any]) -> str:
    simple = {k: v for k, v in figures.items() if isinstance(v, str | int | float) and not isinstance(v, bool)}
    return ", ".join(plain(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}") for k, v in simple.items())
