"""A finished run's data, small and plausible, with a class name that is an attack."""

from typing import Any

import pytest

CLASSES = ["cat", "dog & fox", "<script>alert('x')</script>"]
IDS = [f"{n:012x}" for n in range(1, 9)]


def latency(median: float) -> dict[str, Any]:
    return {"median_ms": median, "interval_ms": [0.98 * median, 1.03 * median], "p95_ms": 1.1 * median}


def candidate(index: int) -> dict[str, Any]:
    return {
        "architecture_id": IDS[index],
        "accuracy_val": 0.80 + 0.02 * index,
        "latency_ms": 0.1 + 0.05 * index,
        "latency_std_ms": 0.004,
        "values": {"resolution": 24, "stage0.kind": "fused", "stage0.block0.kernel": 3},
        "origin": "predicted",
        "on_front": index % 2 == 0,
        "chosen": index == 4,
    }


def special(index: int) -> dict[str, Any]:
    predicted = 0.1 + 0.05 * index
    return {
        "architecture_id": IDS[index],
        "accuracy_val": 0.82 + 0.02 * index,
        "predicted_ms": predicted,
        "predicted_interval": [0.95 * predicted, 1.05 * predicted],
        "predicted_form": "tvm",
        "measured": {"onnxruntime": latency(1.3 * predicted), "tvm": latency(1.02 * predicted)},
        "meets_limit": 1.02 * predicted <= 0.32,
        "chosen": index == 4,
    }


@pytest.fixture
def data() -> dict[str, Any]:
    return example()


def example() -> dict[str, Any]:
    return {
        "title": "photos on cpu",
        "target": "cpu",
        "space": "mobile/v1/24x24x3/classes3",
        "limit_ms": 0.32,
        "budget_seconds": 300.0,
        "dataset": {
            "name": "photos",
            "classes": CLASSES,
            "counts": {"train": 80, "val": 10, "test": 36},
            "num_skipped": 1,
            "skipped": ["cat/<img src=x onerror=alert(1)>.jpg"],
        },
        "candidates": [candidate(i) for i in range(8)],
        "specialised": [special(i) for i in (2, 4, 6)],
        "figures": [
            {
                "identifier": "confusion",
                "title": "What is mistaken for what",
                "lead": "33 of 36 test images right.",
                "matrix": {"names": CLASSES, "counts": [[11, 1, 0], [0, 12, 0], [2, 0, 10]]},
                "list_title": "Most frequent mistakes",
                "items": ["<script>alert('x')</script> taken for cat: 2 of 12", "cat taken for dog & fox: 1 of 12"],
            },
            {
                "identifier": "per-class",
                "title": "Every class",
                "lead": "In a table.",
                "head": ["class", "recall"],
                "rows": [[name, "91 %"] for name in CLASSES],
            },
        ],
        "seconds": {"train": 60.0, "search": 3.5, "total": 65.0},
        "conditions": {"machine": "test", "threads": 1, "versions": {"tvm": "0.27.0"}, "noise_floor": 0.0131},
        "winner": {
            "architecture_id": IDS[4],
            "accuracy_val": 0.9,
            "accuracy_test": 33 / 36,
            "accuracy_test_interval": [0.7817, 0.9713],
            "runtime": "tvm",
            "latency": latency(0.306),
            "meets_limit": True,
            "bundle": "runs/photos/bundle",
            "layers": [
                {"key": "v1/stem/in3x24x24/out16/k3/e1/s1/relu/fp32/b1", "latency_ms": 0.02},
                {"key": "v1/mbconv_se/in16x24x24/out32/k5/e4/s2/relu/fp32/b1", "latency_ms": 0.05},
                {"key": "v1/head/in32x12x12/out3/k1/e1/s1/relu/fp32/b1", "latency_ms": None},
            ],
            "costs": {"parameters": 266_123, "macs": 9_690_000},
        },
    }
