"""Where each tensor of a foreign checkpoint goes: one `Layout` per naming that public networks are saved with.

    layout        backbone's keys                       beside the backbone
    torchvision   conv1, layer1.0.conv1, fc             (timm's ResNets too)
    efficientnet  _conv_stem, _blocks.0._expand_conv
    cirtorch      features.0, features.4.0.conv1        pool.p, whiten (fully connected)
    cirtorch-imagenet  0, 4.0.conv1                     (the Caffe-converted ResNets that cirtorch starts from)
    solar         features.conv1.0, features.conv2_x.2  pool.p, whiten, features.soa4, features.soa5
    how           features.0, features.4.0.conv1        dim_reduction, or whiten as a convolution
    dir           conv1, layer1.0.conv1                 adpool.p, fc (the whitening)

The vision transformers are in `transformers`, ConvNeXt in `convnext`. Their files do not say what the network is
called: it is what fits their shapes, or among several such the one that the caller names.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sret_jax.errors import UserError
from sret_jax.models.weights.layouts import convnext, transformers
from sret_jax.models.weights.layouts.base import FORMS as FORMS
from sret_jax.models.weights.layouts.base import Form as Form
from sret_jax.models.weights.layouts.base import Layout as Layout
from sret_jax.models.weights.layouts.base import Leaf as Leaf
from sret_jax.models.weights.layouts.base import State as State
from sret_jax.models.weights.layouts.convolutional import efficientnet_layout, resnet_layout


def find_layout(
    state: State, name: str, source: Any, backbone: str = "", about: Mapping[str, Any] | None = None
) -> Layout:
    """The layout called `name`, or for "auto" the one that the keys show.

    Args:
      backbone: the network that the caller takes it for, where the file alone does not tell; "" for none.
      about: the `config.json` that was saved beside the file, where there is one.

    Raises:
      UserError: no such layout or network, or several networks.
    """
    if other := transformers.known_otherwise(state):
        raise UserError(
            f"{source}: seems to hold {other}, which is none of those here; choose weights of another backbone, "
            "such as pe_core_vitb16 or siglip2_vitb16"
        )
    names = [known for known, marks in _MARKS.items() if marks(state)] if name == "auto" else [name]
    if not names:
        some = ", ".join(repr(k) for k in list(state)[:3])
        raise UserError(f"{source}: no known layout has entries like {some}; choose from {', '.join(_MARKS)}")
    if names[0] not in _MARKS:
        raise UserError(f"unknown layout {names[0]!r}; choose auto or one of {', '.join(_MARKS)}")
    if names[0] in transformers.MARKS:
        return transformers.transformer_layout(names[0], state, source, backbone, about or {})
    if names[0] in convnext.NAMINGS:
        return convnext.convnext_layout(names[0], state, source)
    made = efficientnet_layout if names[0] == "efficientnet" else resnet_layout
    return made(names[0], state, source)


def recognised(state: State, name: str) -> bool:
    """Whether the keys are those of a layout, or for another `name` than "auto" of that one; or mistakable for them."""
    return bool(transformers.known_otherwise(state)) or any(
        marks(state) for known, marks in _MARKS.items() if name in ("auto", known)
    )


_MARKS: dict[str, Callable[[State], bool]] = {  # in this order: the first that holds
    **transformers.MARKS,
    **convnext.MARKS,
    "efficientnet": lambda s: "_conv_stem.weight" in s,
    "solar": lambda s: "features.conv1.0.weight" in s,
    "how": lambda s: (
        "features.0.weight" in s and ("dim_reduction.weight" in s or np.ndim(s.get("whiten.weight", 0)) == 4)
    ),
    "cirtorch": lambda s: "features.0.weight" in s,
    "cirtorch-imagenet": lambda s: "0.weight" in s and "4.0.conv1.weight" in s,
    "dir": lambda s: "adpool.p" in s,
    "torchvision": lambda s: "conv1.weight" in s and "layer1.0.conv1.weight" in s,
}
