"""What is exported as a program: photographs of any number and size, padded and masked, to finished descriptors."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Bool, Float, UInt8

from sret_jax.errors import UserError
from sret_jax.extraction.preprocessing import canvas_multiple
from sret_jax.models.descriptor import build_network
from sret_jax.models.pooling import l2_normalize
from sret_jax.retriever import Retriever

INPUTS, OUTPUT = ("images", "mask"), "descriptors"
Program = Callable[[UInt8[Array, "b h w 3"], Bool[Array, "b h w"]], Float[Array, "b d"]]


def check_exportable(retriever: Retriever) -> None:
    """Raises `UserError` that names the part for which sizes have to be numbers, or that is never a program."""
    config = retriever.config
    if tuple(config.extract.scales) != (1.0,):
        scales = ", ".join(map(str, config.extract.scales))
        raise UserError(
            f"config.extract.scales=({scales}): a program describes a photograph at one scale; give --one-scale"
        )
    for field, value, why in (
        ("model.pool", "rmac", "its regions are looked up in a table of all sizes"),
        ("model.smoothing.control", "shuffled", "its permutation is one of a number of positions"),
    ):
        part, name = field.rsplit(".", 1)
        node: Any = config
        for own in part.split("."):
            node = getattr(node, own)
        if getattr(node, name) == value:
            raise UserError(f"config.{field}={value!r} cannot be exported as a program of free sizes: {why}")
    _ = retriever.extractor  # a layer that was never filled


def program(retriever: Retriever) -> Program:
    """The network, and the whitening that was learned after training, as one function of arrays."""
    network, learned = retriever.network, retriever.whitening
    variables = jax.tree.map(jnp.asarray, retriever.variables)

    def describe(images: UInt8[Array, "b h w 3"], mask: Bool[Array, "b h w"]) -> Float[Array, "b d"]:
        x = network.apply(variables, images, mask)[0]
        if learned is None:
            return x
        mean, projection = (np.asarray(part, np.float32) for part in learned)
        return l2_normalize(jnp.matmul(x - mean[None], projection, precision="highest"))

    return describe


def in_float32(retriever: Retriever) -> Retriever:
    """The same parameters, computed in float32 throughout."""
    if retriever.config.model.dtype == "float32":
        return retriever
    model = dataclasses.replace(retriever.config.model, dtype="float32")
    config = dataclasses.replace(retriever.config, model=model)
    return dataclasses.replace(retriever, config=config, network=build_network(model))


def free_inputs(retriever: Retriever) -> tuple[tuple[Any, ...], list[tuple[str, jax.ShapeDtypeStruct]]]:
    """The sizes b, m h and m w, symbols, where sides are multiples of m; and name, shape and type of the inputs."""
    multiple = canvas_multiple(retriever.network)
    sizes = export.symbolic_shape(f"b, {multiple}*h, {multiple}*w")
    shapes = (*sizes, 3), sizes
    types = jnp.uint8, jnp.bool_
    named = zip(INPUTS, shapes, types, strict=True)
    return tuple(sizes), [(name, jax.ShapeDtypeStruct(shape, kind)) for name, shape, kind in named]


def convention(retriever: Retriever) -> dict[str, Any]:
    """How an exported program is called, as JSON values."""
    multiple = canvas_multiple(retriever.network)
    return {
        "inputs": {
            "images": "uint8 [batch, height, width, 3]: RGB, each photograph in the upper left corner, zeros elsewhere",
            "mask": "bool [batch, height, width]: true where the photograph is",
        },
        "outputs": {OUTPUT: f"float32 [batch, {retriever.descriptor_length}], of unit length"},
        "free": f"batch from 1; height and width multiples of {multiple}",
    }
