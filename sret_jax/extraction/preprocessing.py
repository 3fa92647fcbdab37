"""What is done to a photograph before the network, as a record that a person or another program can follow."""

from typing import Any

import numpy as np

from sret_jax.config import Config
from sret_jax.data.resizing import FILTERS, THUMBNAIL_GAP
from sret_jax.models.backbones import BACKBONES
from sret_jax.models.descriptor import RetrievalNetwork, Variables

CANVAS = 32  # pixels, where the backbone takes any size: the sides of what an exported program is given


def canvas_multiple(network: RetrievalNetwork) -> int:
    """The sides of what an exported program is given are multiples of this, pixels."""
    return network.size_multiple if network.size_multiple > 1 else CANVAS


def preprocessing(network: RetrievalNetwork, variables: Variables, config: Config) -> dict[str, Any]:
    """From an encoded photograph to the network's input, as JSON values.

    image_size        pixels that the longest side gets
    scales            the sizes at which it is described, times image_size, and how these descriptors become one
    enlarge           whether a smaller photograph is enlarged to it
    size_multiple     both sides are multiples of this
    rounding          of the shorter side to such a multiple: "nearest" (halves up), "down", or "aspect", as
                      `data.resizing` explains
    filter            of Pillow's `resize`, with its `reducing_gap`
    mean, deviation   of the channels, for values 0 to 1; the network itself applies them
    canvas_multiple   the sides of the padded input of an exported program are multiples of this
    """
    stored = variables.get("batch_stats", {}).get("backbone", {})
    info = BACKBONES[config.model.backbone]
    mean, deviation = stored.get("image_mean", info.mean), stored.get("image_deviation", info.deviation)
    filter = config.data.filter
    return {
        "decoding": "upright by its EXIF orientation, 8 bits of 16, colours in sRGB, transparent pixels white",
        "colours": "RGB",
        "image_size": config.data.image_size,
        "scales": list(config.extract.scales),
        "scale_pooling": config.extract.scale_pooling,
        "enlarge": config.data.enlarge,
        "size_multiple": network.size_multiple,
        "rounding": config.data.rounding,
        "filter": FILTERS[filter].name.lower(),
        "reducing_gap": THUMBNAIL_GAP if filter == "thumbnail" else None,
        "antialias": True,
        "values": "uint8, 0 to 255; mean and deviation are applied inside the network",
        "mean": [round(float(x), 7) for x in np.ravel(mean)],
        "deviation": [round(float(x), 7) for x in np.ravel(deviation)],
        "padding": "zeros at the bottom and the right; the mask is true on the photograph",
        "canvas_multiple": canvas_multiple(network),
    }
