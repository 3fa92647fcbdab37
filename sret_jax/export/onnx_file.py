"""The network as an ONNX file of free batch and size, which is only kept when it computes the same descriptors."""

from typing import Any

import numpy as np

from sret_jax.data.photo_set import PhotoSet
from sret_jax.errors import UserError
from sret_jax.export.parity import BOUND, Run, measured
from sret_jax.export.program import INPUTS, OUTPUT, check_exportable, convention, free_inputs, in_float32, program
from sret_jax.retriever import Retriever

FILE = "model.onnx"
NEEDS = "pip install 'sret_jax[onnx]'"


def to_onnx(retriever: Retriever, photos: PhotoSet | None = None) -> tuple[bytes, dict[str, Any]]:
    """The file with the parameters inside, and what config.json says of it: the calling convention and the parity.

    Args:
      photos: that the parity is measured on; by default `photographs_of_all_shapes`.

    Raises:
      UserError: the packages of the extra `onnx` are missing, a part of the network cannot be exported (it is named),
        or ONNX Runtime computes something else: then by how much.
    """
    try:
        import onnx
        import onnxruntime

        from sret_jax.export.onnx_graph import OPSET, convert
    except ModuleNotFoundError as error:
        raise UserError(f"--onnx needs the package {error.name}: {NEEDS}") from None
    retriever = in_float32(retriever)
    check_exportable(retriever)
    sizes, inputs = free_inputs(retriever)
    data = convert(program(retriever), inputs, OUTPUT, sizes)
    found = measured(retriever, session(data), photos)
    if not found.difference <= BOUND:
        raise UserError(
            f"{FILE} is not kept: ONNX Runtime's descriptors differ by {found.difference:.1e}, more than {BOUND:.0e} "
            f"({found.worst}); this network cannot be exported as ONNX, --stablehlo can"
        )
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__, "opset": OPSET}
    about = {"file": FILE, "computed_in": "float32"} | versions | convention(retriever)
    return data, about | {"parity": found.to_dict()}


def session(model: bytes | str, threads: int = 0) -> Run:
    """A function that ONNX Runtime computes on the CPU; of a file or its bytes. `threads`: 0 leaves them to it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    running = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        found: np.ndarray = running.run([OUTPUT], dict(zip(INPUTS, (images, masks), strict=True)))[0]
        return found

    return run
