"""The conditions of a measurement: which machine, how busy, set up how."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_PROTOCOL = "m3"  # how a latency is measured; m1: not all runs warm, m2: next to a reference of dense blocks only
# qemu's user mode shows a program its own /proc/self, and forgets this way to the same file.
_PROGRAM = Path("/proc/thread-self/exe")
_EMULATORS = re.compile(r"(qemu|box64|box86|FEX|rosetta)[\w.-]*")
_X86 = ("x86_64", "AMD64", "i386", "i686")
EMULATED_VARIABLE = "HWAUTOML_EMULATOR"
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
# ARM kernels have no "model name"; boards name themselves in "Model" or "Hardware".
_MODEL_FIELDS = ("model name", "Model", "Hardware", "CPU part")


def cpu_model() -> str:
    """As the kernel names it; the architecture where it does not."""
    lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if _CPUINFO.is_file() else []
    for field in _MODEL_FIELDS:
        for line in lines:
            name, _, value = line.partition(":")
            if name.strip() == field and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()


def has_int8_dot_product() -> bool:
    """Whether sums of 8-bit products are exact here: on x86 without VNNI, products of two neighbours saturate."""
    if platform.machine() not in _X86:
        return True
    lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines() if _CPUINFO.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return bool({"avx512_vnni", "avx_vnni"} & set(flags))


def is_int8_exact(conditions: Mapping[str, object]) -> bool:
    """`has_int8_dot_product` of the machine that a device's ``conditions`` describe, which need not be this one.

    An x86 whose agent does not say (an older one, another server) is taken for one without, which is never wrong:
    weights then keep to 7 bits.
    """
    told, machine = conditions.get("int8_dot_product"), conditions.get("machine")
    return told if isinstance(told, bool) else isinstance(machine, str) and machine not in _X86


def allowed_cores() -> tuple[int, ...]:
    """Cores that this process may run on, ascending."""
    return tuple(sorted(os.sched_getaffinity(0)))


@cache
def cuda_device() -> str | None:
    """The first CUDA device's name, asked of NVIDIA's driver; None without either (not run on a GPU so far)."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    number, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(number)) or number.value < 1:
        return None
    return None if driver.cuDeviceGetName(name, len(name), 0) else name.value.decode(errors="replace")


def emulator() -> str | None:
    """What runs this process in place of the processor it is for; None on a real one.

    Programs that run under qemu's user mode and its like are recognised. A whole emulated machine looks
    real from inside: whoever starts one says so in the environment variable ``HWAUTOML_EMULATOR``.
    """
    told = os.environ.get(EMULATED_VARIABLE)
    if told:
        return told
    try:
        name = _PROGRAM.readlink().name
    except OSError:
        return None
    return name if _EMULATORS.fullmatch(name) else None


def machine_conditions() -> dict[str, object]:
    """What is true of this machine now; every value is JSON. ``emulator``: its times say nothing about a device."""
    governor = _GOVERNOR.read_text(encoding="utf-8").strip() if _GOVERNOR.is_file() else None
    return {
        "cpu": cpu_model(),
        "machine": platform.machine(),
        "gpu": cuda_device(),
        "emulator": emulator(),
        "int8_dot_product": has_int8_dot_product(),
        "num_cores": os.cpu_count() or 1,
        "num_allowed_cores": len(allowed_cores()),
        "governor": governor,
        "os": platform.platform(),
        "python_version": platform.python_version(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def fingerprint(runtime: str, runtime_version: str) -> str:
    """Short, stable, fit for a file name: equal where latencies may be compared."""
    emulated = "" if emulator() is None else "-emulated"
    gpu = "" if cuda_device() is None else f"-{cuda_device()}"
    text = f"{cpu_model()}-{platform.machine()}{gpu}{emulated}-{runtime}-{runtime_version}-{_PROTOCOL}"
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
