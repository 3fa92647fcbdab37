"""Colours of a photograph that has a profile of its own, as sRGB.

Telephones write Display P3 and cameras Adobe RGB. Read as sRGB these numbers are paler colours, and the descriptor is
another one. Grey profiles are ignored, and so is every profile that cannot be used: the photograph stays as it is.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 4 * 2**20  # bytes; those of presses have two million
SAME = 3  # of 255: a profile that moves no colour further is sRGB, whoever wrote it
SPACES = {"RGB": b"RGB ", "CMYK": b"CMYK"}


def in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An RGB or CMYK image as RGB; without a profile that can be used CMYK by Pillow's formula."""
    transform = None
    if profile and 128 < len(profile) <= MAX_PROFILE and profile[16:20] == SPACES[image.mode]:
        transform = _transform(profile, image.mode)
    if transform is None:
        return image.convert("RGB")
    return transform.apply(image)


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """From the profile to sRGB; None where that would change nothing, or the profile is damaged."""
    try:
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.buildTransform(ImageCms.ImageCmsProfile(io.BytesIO(profile)), srgb, mode, "RGB")
        if mode == "RGB" and _greatest_change(transform) <= SAME:
            return None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return transform


def _greatest_change(transform: ImageCms.ImageCmsTransform) -> int:
    """Of a channel, over colours spread evenly."""
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(16, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(moved.astype(int) - colours).max())
