"""Images <-> tokens by a learned patch codebook: one token per patch, the nearest centre.

An image [height, width] is cut into patches of patch_size x patch_size in reading order; k-means
finds the centres. What is lost is the distance of a patch to its centre: `loss` says how much.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.core.errors import DataError, MissingExtra, RecordError, SpecError

__all__ = ["ImageCodec", "fit_image_codec", "load"]

FILE = "codebook.safetensors"
PNG_WHITE = 255.0
MAX_FIT_PATCHES = 100_000  # that k-means reads
CENTRE_STEPS = 64.0  # centres are rounded to 1/64 of a grey level: same bytes on any machine


class ImageCodec:
    """Grey images of one shape. Local id = number of the centre, the same for every place."""

    kind = "image-patches"
    media_type = "image/png"

    def __init__(
        self,
        centres: NDArray[np.float32],
        height: int,
        width: int,
        name: str = "image",
        white: float = PNG_WHITE,
    ) -> None:
        """centres: [num_ids, patch_size ** 2]; white: the grey level that a PNG shows as white.

        Raises SpecError if the patches do not tile the image.
        """
        patch_size = round(centres.shape[-1] ** 0.5) if centres.ndim == 2 else 0
        _check_tiling(height, width, patch_size)
        if centres.shape[-1] != patch_size**2 or not np.isfinite(centres).all():
            raise SpecError("a codebook needs finite square patches", found=centres.shape)
        self.name = name
        self.height, self.width, self.patch_size = height, width, patch_size
        self.centres = np.ascontiguousarray(centres, "<f4")
        self.num_ids = len(centres)
        self.white = float(white) if white > 0 else PNG_WHITE
        self.value_ids = height * width // patch_size**2

    def encode(self, value: Any) -> list[int]:
        """value_ids local ids. Raises DataError on another shape or values that are not finite."""
        patches = _patches(_checked(value, self.height, self.width), self.patch_size)
        return [int(number) for number in self._nearest(patches)]

    def decode(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [height, width]; places that no id was given for are 0.

        Raises DataError on more ids than an image has.
        """
        if len(ids) > self.value_ids:
            raise DataError(
                "too many ids for one image", found=len(ids), expected=f"at most {self.value_ids}"
            )
        patches = np.zeros((self.value_ids, self.patch_size**2), np.float32)
        patches[: len(ids)] = self.centres[np.asarray(ids, np.int64)]
        size = self.patch_size
        grid = patches.reshape(self.height // size, self.width // size, size, size)
        return np.ascontiguousarray(grid.swapaxes(1, 2)).reshape(self.height, self.width)

    def loss(self, images: Iterable[Any]) -> float:
        """What decoding loses: root of the mean squared difference, in grey levels."""
        errors = [
            np.mean((self.decode(self.encode(image)) - np.asarray(image, np.float32)) ** 2)
            for image in images
        ]
        return float(np.sqrt(np.mean(errors)))

    def files(self) -> dict[str, bytes]:
        """The centres and the image's shape as safetensors."""
        from safetensors.numpy import save

        shape = np.array([self.height, self.width], "<i8")
        white = np.array([self.white], "<f8")
        return {FILE: save({"centres": self.centres, "image_shape": shape, "white": white})}

    def to_bytes(self, value: Any) -> bytes:
        """A grey PNG of 8 bits; levels between its 256 are rounded, and cut at black and white."""
        image = _checked(value, self.height, self.width)
        levels = np.round(np.clip(image / self.white, 0, 1) * PNG_WHITE).astype(np.uint8)
        data = io.BytesIO()
        _pillow().fromarray(levels).save(data, "PNG")
        return data.getvalue()

    def from_bytes(self, data: bytes) -> NDArray[np.float32]:
        """float32 [height, width]; colours become grey.

        Raises DataError on what is no PNG of this height and width; nothing is decoded then.
        """
        expected = f"a PNG of {self.width} x {self.height} pixels"
        pillow = _pillow()
        try:
            with pillow.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.size != (self.width, self.height):
                    size = "{} x {}".format(*image.size)
                    raise DataError("the image has another size", found=size, expected=expected)
                levels = np.asarray(image.convert("L"), np.float32)
        except DataError:
            raise
        except (OSError, ValueError, SyntaxError, pillow.DecompressionBombError) as error:
            raise DataError("this is no image", found=error, expected=expected) from error
        return np.asarray(levels / PNG_WHITE * self.white, np.float32)

    def _nearest(self, patches: NDArray[np.float32]) -> NDArray[np.int64]:
        """The nearest centre of each patch; the first of equally near ones."""
        differences = patches[:, None, :].astype(np.float64) - self.centres[None, :, :]
        return np.asarray((differences**2).sum(-1).argmin(-1), np.int64)


def load(name: str, files: Mapping[str, bytes]) -> ImageCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    try:
        tensors = load_tensors(files[FILE])
        height, width = (int(number) for number in tensors["image_shape"])
        white = float(tensors["white"][0])
        return ImageCodec(tensors["centres"], height, width, name, white)
    except (KeyError, TypeError, ValueError, IndexError, SafetensorError) as error:
        raise RecordError(f"codec {name} is not an image codec", found=error) from error


def fit_image_codec(
    images: Iterable[Any], num_ids: int, patch_size: int, seed: int = 0, name: str = "image"
) -> ImageCodec:
    """A codebook of at most num_ids centres (fewer if there are fewer distinct patches).

    Every k-th patch is read so that no more than MAX_FIT_PATCHES are; one thread, rounded and
    sorted centres: the same images give the same bytes. Raises DataError without images or when
    their shapes differ.
    """
    arrays = [np.asarray(image) for image in images]
    if not arrays or arrays[0].ndim != 2:
        raise DataError(
            "an image codec needs images to learn from",
            found="none" if not arrays else f"shape {arrays[0].shape}",
            expected="grey images [height, width]",
        )
    height, width = arrays[0].shape
    _check_tiling(height, width, patch_size)
    per_image = height * width // patch_size**2
    stride = -(-len(arrays) * per_image // MAX_FIT_PATCHES)
    patches = np.concatenate(
        [_patches(_checked(image, height, width), patch_size) for image in arrays]
    )[::stride]
    distinct = len(np.unique(patches, axis=0))
    centres = _k_means(patches, min(num_ids, distinct), seed)
    centres = np.unique(np.round(centres * CENTRE_STEPS) / CENTRE_STEPS, axis=0)
    by_brightness = np.argsort(centres.sum(axis=1), kind="stable")
    white = max(float(array.max()) for array in arrays)
    return ImageCodec(centres[by_brightness].astype(np.float32), height, width, name, white)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra.of("pillow", "train", "images as files") from error
    return Image


def _k_means(patches: NDArray[np.float32], num_centres: int, seed: int) -> NDArray[np.float64]:
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "learning an image codebook") from error
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")  # fewer distinct patches than centres: handled above
        fitted = KMeans(num_centres, n_init=1, random_state=seed).fit(patches)
    return np.asarray(fitted.cluster_centers_, np.float64)


def _patches(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """[value_ids, size ** 2], in reading order."""
    height, width = image.shape
    grid = image.reshape(height // size, size, width // size, size).swapaxes(1, 2)
    return np.ascontiguousarray(grid).reshape(-1, size * size)


def _checked(value: Any, height: int, width: int) -> NDArray[np.float32]:
    try:
        image = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError("this is not an image", found=type(value).__name__) from error
    if image.shape != (height, width) or not np.isfinite(image).all():
        raise DataError(
            "the image codec cannot encode this image",
            found=f"shape {image.shape}" if image.shape != (height, width) else "NaN or infinity",
            expected=f"finite values of shape ({height}, {width})",
        )
    return image


def _check_tiling(height: int, width: int, patch_size: int) -> None:
    if patch_size < 1 or height < 1 or height % patch_size or width < 1 or width % patch_size:
        raise SpecError(
            "patches do not tile the image",
            found=f"{patch_size} x {patch_size} in {height} x {width}",
            do="choose a patch size that divides both sides",
        )
