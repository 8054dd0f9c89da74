"""The query image as LLaVA-Med sees it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageOps


def pad_to_square(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Pad an RGB image to a square in the mean colour, centred.

    The stock processor resizes the short edge and crops the centre, which cuts both sides of a
    wide film. LLaVA-Med pads instead; its odd pixel of padding falls at random, ours does not.

    Parameters
    ----------
    image : PIL.Image.Image
        Mode RGB, any size.
    mean : sequence of float
        Channel means in [0, 1], those of the processor's normalisation: the padding becomes 0.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, side = the longer side of ``image``.
    """
    if image.width == image.height:
        return image
    side = max(image.size)
    colour = tuple(round(255 * channel) for channel in mean)
    return ImageOps.pad(image, (side, side), color=colour)  # type: ignore[arg-type]
