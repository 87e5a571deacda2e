"""An ONNX model becomes an NHWC module of fused functions, ready to be scheduled."""

from __future__ import annotations

import logging

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from hwautoml.errors import CompileError, UnsupportedOperatorError
from hwautoml.schedules.byte_maps import with_byte_maps
from hwautoml.schedules.legalize import legalizers
from hwautoml.schedules.simplify import simplify
from hwautoml.schedules.vector_unit import vector_unit

_LOGGER = logging.getLogger(__name__)


def import_onnx(model: onnx.ModelProto, name: str) -> tvm.IRModule:
    """The relax module of a model; ``name`` is what errors call it.

    Raises
    ------
    UnsupportedOperatorError
        TVM's importer has no translation for an operator of the model.
    CompileError
        The importer cannot handle the way the model uses an operator.
    """
    try:
        return from_onnx(model, keep_params_in_input=False)
    except (tvm.error.OpError, NotImplementedError) as error:
        raise UnsupportedOperatorError(
            f"TVM cannot import {name}: {error}",
            fix="use the onnxruntime backend (runtime = onnxruntime in the target)",
        ) from error
    except (tvm.error.InternalError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise CompileError(
            f"TVM's ONNX importer failed on {name}: {error}",
            fix="use the onnxruntime backend, or export with static shapes",
        ) from error


def lower(module: tvm.IRModule, target: tvm.target.Target, name: str) -> tvm.IRModule:
    """Imported relax to fused, unscheduled functions in NHWC with packed weights.

    Raises CompileError, naming the model, where one of TVM's passes fails on it.
    """
    unit = vector_unit(target)
    before = [
        relax.transform.DecomposeOpsForInference(),
        relax.transform.CanonicalizeBindings(),
    ]
    legalise = [
        relax.transform.LegalizeOps(legalizers(unit)),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
    ]
    try:
        module = simplify(tvm.transform.Sequential(before)(module))
        module = relax.transform.ConvertLayout({"relax.nn.conv2d": ["NHWC", "HWIO"]})(module)
        module = with_byte_maps(simplify(module), unit)
        with target:
            return _fuse(tvm.transform.Sequential(legalise)(module))
    except tvm.error.InternalError as error:
        raise CompileError(
            f"TVM could not lower {name}: {str(error).strip()[-300:]}",
            fix="export with a fixed batch size, or use the onnxruntime backend",
        ) from error


def _fuse(module: tvm.IRModule) -> tvm.IRModule:
    """Functions joined with what is computed element by element from their results."""
    fuse = [relax.transform.FuseOps(), relax.transform.FuseTIR()]
    try:
        return tvm.transform.Sequential(fuse)(module)
    except tvm.error.InternalError as error:
        # TVM 0.27 cannot fuse some functions whose shapes are known only at run time.
        _LOGGER.warning("not fused, so slower: %s", str(error).strip().splitlines()[-1])
        return module
