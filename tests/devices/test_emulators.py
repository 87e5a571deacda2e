"""Emulated processors are known, and their times never pass for a device's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwautoml.core.measurement import Measurement
from hwautoml.devices import machine
from hwautoml.errors import MeasurementError
from hwautoml.pipeline.connecting import require_real


def test_this_machine_is_real() -> None:
    assert machine.emulator() is None
    assert machine.machine_conditions()["emulator"] is None
    assert "-emulated-" not in machine.fingerprint("tvm", "1")


@pytest.mark.parametrize(
    ("program", "is_emulator"),
    [("qemu-aarch64-static", True), ("qemu-aarch64", True), ("box64", True), ("python3.11", False), ("notqemu", False)],
)
def test_an_emulator_is_known_by_its_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, is_emulator: bool
) -> None:
    (tmp_path / "exe").symlink_to(f"/usr/bin/{program}")
    monkeypatch.setattr(machine, "_PROGRAM", tmp_path / "exe")
    assert machine.emulator() == (program if is_emulator else None)
    assert ("-emulated-" in machine.fingerprint("tvm", "1")) is is_emulator


def test_an_emulated_machine_is_told_by_whoever_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(machine.EMULATED_VARIABLE, "qemu-system-aarch64")
    assert machine.machine_conditions()["emulator"] == "qemu-system-aarch64"


@given(st.text(min_size=1, max_size=20) | st.none())
def test_only_measurements_on_real_devices_are_measured(emulator: str | None) -> None:
    measurement = Measurement((1.0,), {"emulator": emulator})
    assert measurement.origin == ("measured" if emulator is None else "emulated")
    assert Measurement((1.0,)).origin == "measured"


def test_an_emulated_device_is_refused_with_what_to_do() -> None:
    require_real({"emulator": None})
    require_real({})
    with pytest.raises(MeasurementError, match="emulated \\(qemu-arm\\).*\n.*tables estimate"):
        require_real({"emulator": "qemu-arm"})
