"""A quick export for micro-benchmarks, where only the shape of the computation matters."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.artifact import Artifact
from hwautoml.core.storage import write_atomically
from hwautoml.errors import CompileError
from hwautoml.exporters.onnx_export import INPUT_NAME

if TYPE_CHECKING:
    import torch


def export_probe(
    network: torch.nn.Module, path: Path, input_shape: tuple[int, ...], *, dtype: str = "float32"
) -> Artifact:
    """Write ``network``, ``input_shape`` of ``dtype`` to whatever it gives; weights as they are.

    About 0.1 s, a tenth of ``export_onnx``: through torch's older exporter, whose graph ONNX Runtime optimises to the
    same operations (a test compares them). For measuring only; nothing is checked and nothing is described.

    Raises:
        CompileError: the network cannot be exported.
    """
    import torch

    was_training = network.training
    network.eval()
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings(), torch.no_grad():
            for message in (".*legacy TorchScript-based ONNX export", "The feature will be removed"):
                warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
            example = torch.zeros(input_shape, dtype=getattr(torch, dtype))
            torch.onnx.export(
                network,
                (example,),
                buffer,  # type: ignore[arg-type]  # the older exporter takes files too
                dynamo=False,
                opset_version=18,
                input_names=[INPUT_NAME],
                output_names=["output"],
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise CompileError(f"torch cannot export {type(network).__name__} for measuring: {error}") from error
    finally:
        network.train(was_training)
    write_atomically(path, buffer.getvalue())
    return Artifact.of_file(path, "onnx", "")
