"""Network to an exported program, what the runtimes ``torch`` and ``torch-inductor`` start from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from hwautoml.core.artifact import Artifact
from hwautoml.core.storage import write_atomically
from hwautoml.errors import CompileError

if TYPE_CHECKING:
    import torch


def export_program(
    network: torch.nn.Module, path: Path, input_shape: tuple[int, ...], *, dtype: str = "float32"
) -> Artifact:
    """Write ``network``, ``input_shape`` of ``dtype`` to whatever it gives, weights as they are, as a .pt2 archive.

    For inference, of fixed shapes, and of weights and ATen operators only: no pickles, no sample inputs, no
    traces of where the code lay; the backends refuse programs with more in them.

    Raises:
        CompileError: the network cannot be exported.
    """
    import torch

    was_training = network.training
    network.eval()
    try:
        with torch.no_grad():
            program = torch.export.export(network, (torch.zeros(input_shape, dtype=getattr(torch, dtype)),))
    except RuntimeError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise CompileError(
            f"torch cannot export {type(network).__name__}: {lines[0]}",
            fix="use modules that torch.export can trace (no data-dependent control flow)",
        ) from error
    finally:
        network.train(was_training)
    program.example_inputs = None
    for node in program.graph.nodes:
        node.meta = {name: value for name, value in node.meta.items() if name in ("val", "tensor_meta")}
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    write_atomically(path, buffer.getvalue())
    return Artifact.of_file(path, "torch-program", "")
