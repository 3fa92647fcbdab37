"""The vision transformers known by name: what distinguishes their graphs, and how their photographs are normalised."""

from typing import NamedTuple

from sret_jax.models.backbones.base import IMAGE_DEVIATION, IMAGE_MEAN

Triple = tuple[float, float, float]
HALVES: Triple = (0.5, 0.5, 0.5)


class ViTSpec(NamedTuple):
    """A variant; the defaults are DINOv2's.

    `grid`, patches per side of the learned positions, is that of the first release; a file may have another.
    """

    width: int
    depth: int
    heads: int
    registers: int = 0
    family: str = "dinov2"
    patch: int = 14  # pixels
    grid: int = 37  # 0: no learned positions
    hidden: int = 0  # of the perceptron; 0: four times the width
    gated: bool = False  # SwiGLU instead of GELU
    epsilon: float = 1e-6  # of the norms
    class_token: bool = True
    rotary: str = ""  # "centred" as DINOv3, "counted" as Perception Encoder, or none
    layer_scale: bool = True
    patch_bias: bool = True
    norm_before: bool = False  # the tokens are normalised before the first block
    resampling: str = "offset"  # of learned positions, where the weights do not say: `positions.RESAMPLING`
    pool_heads: int = 0  # of the attention pooling; 0: the network has none
    projection: int = 0  # length of the attention-pooled vector; 0: the width
    either_gelu: bool = False  # exact, or by tanh where the weights do not say
    mean: Triple = IMAGE_MEAN  # of the photographs, per channel, values 0..1
    deviation: Triple = IMAGE_DEVIATION

    @property
    def perceptron(self) -> int:
        """Channels inside the perceptron."""
        return self.hidden or 4 * self.width

    @property
    def head_width(self) -> int:
        return self.width // self.heads


_TINY, _SMALL, _BASE, _LARGE = (192, 12, 3), (384, 12, 6), (768, 12, 12), (1024, 24, 16)
_SO400M = (1152, 27, 16)  # shape-optimised, of 400 million parameters
_SIZES = {"s": _SMALL, "b": _BASE, "l": _LARGE}
_SATELLITE: tuple[Triple, Triple] = (0.430, 0.411, 0.296), (0.213, 0.156, 0.143)  # mean and deviation


def _dinov2(size: tuple[int, int, int], registers: int) -> ViTSpec:
    return ViTSpec(*size, registers, resampling="antialias" if registers else "offset")


def _dinov3(size: tuple[int, int, int]) -> ViTSpec:
    return ViTSpec(*size, registers=4, family="dinov3", patch=16, grid=0, epsilon=1e-5, rotary="centred")


def _pe(size: tuple[int, int, int], patch: int, grid: int, projection: int) -> ViTSpec:
    return ViTSpec(
        *size,
        family="pe",
        patch=patch,
        grid=grid,
        epsilon=1e-5,
        rotary="counted",
        layer_scale=False,
        patch_bias=False,
        norm_before=True,
        resampling="bilinear",
        pool_heads=8,
        projection=projection,
        mean=HALVES,
        deviation=HALVES,
    )


def _siglip(size: tuple[int, int, int], patch: int, grid: int, hidden: int = 0) -> ViTSpec:
    return ViTSpec(
        *size,
        family="siglip",
        patch=patch,
        grid=grid,
        hidden=hidden,
        class_token=False,
        layer_scale=False,
        resampling="bicubic",
        pool_heads=size[2],
        either_gelu=True,
        mean=HALVES,
        deviation=HALVES,
    )


_SIGLIP = {
    "vitb16": _siglip(_BASE, 16, 14),
    "vitl16": _siglip(_LARGE, 16, 16),
    "so400m14": _siglip(_SO400M, 14, 16, 4304),
    "so400m16": _siglip(_SO400M, 16, 16, 4304),
}
# Where two names have the same spec, a file alone is taken for the first.
SPECS: dict[str, ViTSpec] = {
    **{f"dinov2_vit{k}14": _dinov2(v, 0) for k, v in _SIZES.items()},
    **{f"dinov2_vit{k}14_reg": _dinov2(v, 4) for k, v in _SIZES.items()},
    "dinov3_vits16": _dinov3(_SMALL),
    "dinov3_vits16plus": _dinov3(_SMALL)._replace(gated=True),
    "dinov3_vitb16": _dinov3(_BASE),
    "dinov3_vitl16": _dinov3(_LARGE),
    "dinov3_vitl16_sat": _dinov3(_LARGE)._replace(mean=_SATELLITE[0], deviation=_SATELLITE[1]),
    **{f"lingbot_vit{k}16": _dinov3(v) for k, v in _SIZES.items()},
    "pe_core_vitt16": _pe(_TINY, 16, 24, 512),
    "pe_core_vits16": _pe(_SMALL, 16, 24, 512),
    "pe_core_vitb16": _pe(_BASE, 16, 14, 1024),
    "pe_core_vitl14": _pe(_LARGE, 14, 24, 1024),
    **{f"siglip2_{k}": v for k, v in _SIGLIP.items()},
    **{f"siglip_{k}": v for k, v in _SIGLIP.items()},
}
