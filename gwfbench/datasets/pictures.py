"""One image file as bytes a pixel, the same with every version of Pillow.

    grey        1, 2, 4, 8 and 16 bits, with or without alpha, and palettes whose colours in use are all grey
    colour      all others: 8 and 16 bits, palettes, CMYK
    16 bits     u = round(v / 257), so that 0 is 0 and 65535 is 255
    alpha       the image lies on white: u = round((a v + (255 - a) 255) / 255)
    EXIF        the orientation that a camera has noted is applied, as viewers do
    CMYK        u = round((255 - c) (255 - k) / 255)

Colour profiles and gamma are left aside, as most loaders do. Animations are refused.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from gwfbench.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

WIDE = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}  # where Pillow keeps the high byte, and how to get the low one
GREY_WITH_ALPHA = "LA;16B"


def decoder() -> str:
    """The versions that pixels of a JPEG may depend on."""
    from PIL import __version__, features

    return f"Pillow {__version__}, JPEG {features.version('jpg')}"


def read(content: bytes) -> np.ndarray:
    """uint8 (h, w) of a grey image, (h, w, 3) of any other, from what its file holds.

    Raises:
        UserError: there is no Pillow.
        ValueError, OSError, SyntaxError: it can't be read.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UserError("images kept as PNG or JPEG, without Pillow", "Pillow", "pip install pillow") from None
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                raise ValueError("it is an animation")
            if image.format == "JPEG" and image.mode in ("L", "RGB"):  # as below, in a tenth of the time
                return np.array(ImageOps.exif_transpose(image))
            wide = str(image.tile[0][3]) if image.tile else ""
            long = wide in (*WIDE, GREY_WITH_ALPHA) or image.mode.startswith("I")
            pixels = _of_16_bits(content, image, wide) if long else _of_8_bits(image)
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    alpha = pixels[..., -1:]
    white = _ratio(pixels[..., :-1] * alpha + (255 - alpha) * 255, 255).astype(np.uint8)
    return white[..., 0] if white.shape[-1] == 1 else white


def _of_8_bits(image: Image) -> np.ndarray:
    """(h, w, 2) of grey and alpha, or (h, w, 4)."""
    image.load()
    if image.mode == "CMYK":
        inks = _upright(image)
        colours = _ratio((255 - inks[..., :3]) * (255 - inks[..., 3:]), 255)
        return np.concatenate([colours, np.full_like(colours[..., :1], 255)], -1)
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise ValueError(f"its pixels are {image.mode}, which is neither grey nor RGB")
    pixels = _upright(image.convert("RGBA"))
    grey = image.mode in ("1", "L", "LA") or (
        image.mode in ("P", "PA") and bool((pixels[..., :3] == pixels[..., :1]).all())
    )
    return pixels[..., 2:] if grey else pixels


def _of_16_bits(content: bytes, image: Image, wide: str) -> np.ndarray:
    """The same, scaled."""
    from PIL import Image as Pillow

    if "transparency" in image.info:
        raise ValueError("it has 16 bits and one colour for transparent")
    if image.mode.startswith("I"):
        grey = _upright(image)[..., None]
        both = np.concatenate([grey, np.full_like(grey, 65535)], -1)
    else:
        with Pillow.open(io.BytesIO(content)) as other:
            tile = other.tile[0]
            args = "RGBA" if wide == GREY_WITH_ALPHA else WIDE[wide]
            other.tile = [(*tile[:3], args)]  # type: ignore[list-item]
            low = _upright(other)
        four_bytes = wide == GREY_WITH_ALPHA
        both = low[..., ::2] * 256 + low[..., 1::2] if four_bytes else _upright(image) * 256 + low
    scaled = _ratio(both, 257)
    return scaled if scaled.shape[-1] != 3 else np.concatenate([scaled, np.full_like(scaled[..., :1], 255)], -1)


def _upright(image: Image) -> np.ndarray:
    """int64 pixels, turned as EXIF says."""
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(image)).astype(np.int64)


def _ratio(number: np.ndarray, by: int) -> np.ndarray:
    """Rounded to the nearest whole number; `by` is odd, so there is always one."""
    return (number + by // 2) // by
