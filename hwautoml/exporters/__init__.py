"""From a trained torch network to an ONNX file.

Names load on first use, so that importing this room leaves torch and onnx unloaded.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hwautoml.exporters.deployable import Deployable
    from hwautoml.exporters.half_precision import half_deployable, half_module, half_onnx
    from hwautoml.exporters.onnx_export import export_onnx
    from hwautoml.exporters.probe import export_probe
    from hwautoml.exporters.program_probe import export_program_probe
    from hwautoml.exporters.quantization import quantize_onnx
    from hwautoml.exporters.torch_export import export_program

__all__ = [
    "Deployable",
    "export_onnx",
    "export_probe",
    "export_program",
    "export_program_probe",
    "half_deployable",
    "half_module",
    "half_onnx",
    "quantize_onnx",
]

_MODULE_OF = {
    "Deployable": "deployable",
    "export_onnx": "onnx_export",
    "export_probe": "probe",
    "export_program": "torch_export",
    "export_program_probe": "program_probe",
    "half_deployable": "half_precision",
    "half_module": "half_precision",
    "half_onnx": "half_precision",
    "quantize_onnx": "quantization",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"hwautoml.exporters.{_MODULE_OF[name]}"), name)
