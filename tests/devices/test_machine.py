"""What a machine says about itself: its GPU, asked of the driver's library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwautoml.devices.machine import has_int8_dot_product, is_int8_exact, machine_conditions

# Of the driver's interface what is asked for, with so many devices.
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return %d; }
int cuDeviceGetCount(int *count) { *count = %d; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "NVIDIA Test 9000", size); return 0; }
"""
QUESTION = "from hwautoml.devices import machine as m; print(m.cuda_device(), m.fingerprint('tvm', '1'))"


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize(("failure", "count", "name"), [(0, 1, "NVIDIA Test 9000"), (0, 0, None), (100, 1, None)])
def test_the_driver_is_asked_for_the_gpu(failure: int, count: int, name: str | None, tmp_path: Path) -> None:
    """A library with the driver's name and functions, through the system's loader."""
    (tmp_path / "driver.c").write_text(DRIVER % (failure, count))
    library = str(tmp_path / "libcuda.so.1")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, str(tmp_path / "driver.c")], check=True)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", QUESTION], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{name} ")
    assert ("-nvidia-test-9000-tvm-1-" in done.stdout) == (name is not None), "another GPU, another table"


@pytest.mark.parametrize(
    ("conditions", "is_exact"),
    [
        ({"machine": "aarch64"}, True),
        ({"machine": "x86_64", "int8_dot_product": True}, True),
        ({"machine": "x86_64", "int8_dot_product": False}, False),
        ({"machine": "x86_64"}, False),  # an agent of before this was told
        ({"machine": None}, False),
    ],
)
def test_exact_sums_of_bytes_are_a_matter_of_the_device_that_was_asked(
    conditions: dict[str, object], is_exact: bool
) -> None:
    assert is_int8_exact(conditions) is is_exact


def test_this_machine_says_whether_its_sums_of_bytes_are_exact() -> None:
    assert is_int8_exact(machine_conditions()) is has_int8_dot_product()
