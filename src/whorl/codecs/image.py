"""Images <-> tokens by learned codebooks of patches: of each patch one token, or several.

An image, [height, width] or [height, width, 3], is cut into patches of patch_size x patch_size in
reading order. The first token of a patch is the nearest centre of the first book, found by k-means;
each further one the nearest centre of the next book to what those before it left (residual
codebooks). Books are one for all places of a patch, or each place has its own: then an id says what
is where. What is lost is how far a patch is from the sum of its centres: `loss` says how much.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whorl.codecs.image_files import GREY, RGB, pillow, read_image
from whorl.core.errors import DataError, MissingExtra, RecordError, SpecError

__all__ = ["STEPS", "ImageCodec", "codebook_of", "fit_image_codec", "load", "nearest_centre"]

FILE = "codebook.safetensors"
CENTRES = "centres"  # of the first book; of the others with their number behind it
STRETCHED = "stretched"  # of an image of another shape: it is not fitted in
PNG_WHITE = 255.0
MAX_FIT_PATCHES = 40_000  # that k-means reads for all places
MAX_PLACE_PATCHES = 4_000  # for one
MAX_ITERATIONS = 100  # of k-means
# Levels and centres are multiples of 1/64: sums of their products are exact, so that the same image
# has the same ids on any machine, however it adds.
STEPS = 64.0

Floats = NDArray[np.float64]


class ImageCodec:
    """Images of one shape. Local ids: of the first book, place by place, then of the next."""

    kind = "image-patches"
    media_type = "image/png"

    def __init__(
        self,
        books: Sequence[NDArray[np.floating[Any]]],
        height: int,
        width: int,
        name: str = "image",
        white: float = PNG_WHITE,
        channels: int = GREY,
        stretched: bool = False,
    ) -> None:
        """books: each [centres, patch_size ** 2 * channels], or [patches, centres, …] where each
        place has its own; white: the level a PNG shows as white; stretched: a file of another
        shape is stretched, not fitted in.

        Raises SpecError if the patches do not tile the image.
        """
        lengths = {book.shape[-1] if book.ndim in (2, 3) else 0 for book in books}
        length = lengths.pop() if len(lengths) == 1 else 0
        patch_size = round((length / channels) ** 0.5) if channels in (GREY, RGB) else 0
        _check_tiling(height, width, patch_size)
        self.num_patches = height * width // patch_size**2
        whole = all(book.size and np.isfinite(book).all() for book in books)
        places = {len(book) for book in books if book.ndim == 3} - {self.num_patches}
        if length != patch_size**2 * channels or not whole or places:
            shapes = [book.shape for book in books]
            raise SpecError("a codebook needs finite square patches", found=shapes)
        self.name = name
        self.height, self.width, self.channels = height, width, channels
        self.patch_size = patch_size
        self.books = tuple(np.ascontiguousarray(book, "<f4") for book in books)
        sizes = [book.size // length for book in self.books]
        self.num_ids = sum(sizes)
        self.white = float(white) if white > 0 else PNG_WHITE
        self.stretched = stretched
        self.value_ids = self.num_patches * len(self.books)
        self.told = ""  # of what was lost where it was learned
        # Of each book: [places or 1, centres, length] in float64, squared lengths, and the id of
        # the first centre of each place.
        self._search: list[tuple[Floats, Floats, NDArray[np.int64]]] = []
        for book, start in zip(self.books, np.cumsum([0, *sizes]), strict=False):
            centres = book.reshape(-1, *book.shape[-2:]).astype(np.float64)
            starts = start + np.arange(len(centres)) * centres.shape[1]
            self._search.append((centres, (centres**2).sum(-1), starts))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image."""
        colours = () if self.channels == GREY else (self.channels,)
        return self.height, self.width, *colours

    @property
    def centres(self) -> NDArray[np.float32]:
        """Of the first book."""
        return self.books[0]

    def encode(self, value: Any) -> list[int]:
        """value_ids local ids. Raises DataError on another shape or values that are not finite."""
        left = _patches(np.round(_checked(value, self.shape) * STEPS) / STEPS, self.patch_size)
        found = np.empty((self.num_patches, len(self.books)), np.int64)
        for number, (centres, squares, starts) in enumerate(self._search):
            nearest = _nearest(left, centres, squares)
            found[:, number] = nearest + starts
            left = left - _chosen(centres, nearest)
        ids: list[int] = found.ravel().tolist()
        return ids

    def decode(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 of the image's shape; patches that no id was given for are 0.

        Raises DataError on more ids than an image has, or ids in another order than `encode`'s.
        """
        if len(ids) > self.value_ids:
            raise DataError(
                "too many ids for one image", found=len(ids), expected=f"at most {self.value_ids}"
            )
        patches = np.zeros((self.num_patches, self.books[0].shape[-1]), np.float32)
        given, count = np.asarray(ids, np.int64), len(self.books)
        for number, (centres, _, starts) in enumerate(self._search):
            mine = given[number::count]
            mine = mine - np.broadcast_to(starts, self.num_patches)[: len(mine)]
            if len(mine) and not (mine.min() >= 0 and mine.max() < centres.shape[1]):
                expected = "of each patch one id of each of its books, in their order"
                raise DataError("ids of another order than an image's", expected=expected)
            patches[: len(mine)] += _chosen(centres[: len(mine)], mine).astype(np.float32)
        return _image(patches, self.shape, self.patch_size)

    def shown(self, ids: Sequence[int]) -> str:
        """What these ids are, in words."""
        whole, rest = divmod(len(ids), self.value_ids)
        one = f"an image of {self.width} x {self.height}"
        told = [one] * whole + [f"{rest} of {self.value_ids} ids of {one}"] * bool(rest)
        return f"[{', '.join(told)}]"

    def loss(self, images: Iterable[Any]) -> float:
        """What decoding loses: root of the mean squared difference, in levels."""
        errors = [
            np.mean((self.decode(self.encode(image)) - np.asarray(image, np.float32)) ** 2)
            for image in images
        ]
        return float(np.sqrt(np.mean(errors)))

    def files(self) -> dict[str, bytes]:
        """The books and the image's shape as safetensors."""
        from safetensors.numpy import save

        shape = np.array(self.shape, "<i8")
        white = np.array([self.white], "<f8")
        books = {_key(place): book for place, book in enumerate(self.books)}
        more = {STRETCHED: np.ones(1, "<i8")} if self.stretched else {}
        return {FILE: save({**books, "image_shape": shape, "white": white, **more})}

    def to_bytes(self, value: Any) -> bytes:
        """A PNG of 8 bits; levels between its 256 are rounded, and cut at black and white."""
        image = _checked(value, self.shape)
        levels = np.round(np.clip(image / self.white, 0, 1) * PNG_WHITE).astype(np.uint8)
        data = io.BytesIO()
        pillow().fromarray(levels).save(data, "PNG")
        return data.getvalue()

    def from_bytes(self, data: bytes) -> NDArray[np.float32]:
        """float32 of the image's shape, of a PNG, JPEG, WebP or GIF of any size.

        Raises DataError on what is none, or too large.
        """
        levels = read_image(data, self.width, self.height, self.channels, self.stretched)
        return np.asarray(levels / PNG_WHITE * self.white, np.float32)


def load(name: str, files: Mapping[str, bytes]) -> ImageCodec:
    """The codec of these files. Raises RecordError if they are not its."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_tensors

    try:
        tensors = load_tensors(files[FILE])
        height, width, *colours = (int(number) for number in tensors["image_shape"])
        books = [tensors[CENTRES]]
        while (key := _key(len(books))) in tensors:
            books.append(tensors[key])
        white = float(tensors["white"][0])
        (channels,) = colours or [GREY]
        return ImageCodec(books, height, width, name, white, channels, STRETCHED in tensors)
    except (KeyError, TypeError, ValueError, IndexError, SpecError, SafetensorError) as error:
        raise RecordError(f"codec {name} is not an image codec", found=error) from error


def fit_image_codec(
    images: Iterable[Any],
    num_ids: int,
    patch_size: int,
    seed: int = 0,
    name: str = "image",
    ids_per_patch: int = 1,
    white: float | None = None,
    by_place: bool = False,
    stretched: bool = False,
) -> ImageCodec:
    """Books of at most num_ids centres together (fewer if there are fewer distinct patches).

    Every k-th patch is read so that no more than MAX_FIT_PATCHES are; one thread, rounded and
    sorted centres: the same images give the same bytes. white: None: the brightest level there is.
    by_place: each place has books of its own. Raises DataError without images, when their shapes
    differ, or with too few ids.
    """
    arrays = [np.asarray(image) for image in images]
    if not arrays or arrays[0].ndim not in (2, 3):
        raise DataError(
            "an image codec needs images to learn from",
            found="none" if not arrays else f"shape {arrays[0].shape}",
            expected="images [height, width] or [height, width, 3]",
        )
    shape = arrays[0].shape
    height, width, channels = (*shape, GREY)[:3]
    _check_tiling(height, width, patch_size)
    num_places = height * width // patch_size**2 if by_place else 1
    if num_ids < ids_per_patch * num_places:
        expected = f"at least {ids_per_patch * num_places}"
        raise DataError("too few ids for an image codec", found=num_ids, expected=expected)
    left = _some_patches(arrays, shape, patch_size, num_places)
    books: list[Floats] = []
    for number in range(ids_per_patch):
        size = num_ids // ids_per_patch // num_places
        book = _alike([codebook_of(patches, size, seed + number) for patches in left])
        books.append(book if by_place else book[0])
        for place, (patches, centres) in enumerate(zip(left, book, strict=True)):
            left[place] = patches - centres[nearest_centre(patches, centres)]
    brightest = max(float(array.max()) for array in arrays)
    codec = ImageCodec(books, height, width, name, white or brightest, channels, stretched)
    codec.told = _told(codec, float(np.sqrt(np.mean([(patches**2).mean() for patches in left]))))
    return codec


def _some_patches(
    images: Sequence[Any], shape: tuple[int, ...], size: int, num_places: int
) -> list[Floats]:
    """Every k-th patch of all as one array; of several places every k-th image, by place."""
    per_image = shape[0] * shape[1] // size**2
    if num_places > 1:
        stride = -(-len(images) // MAX_PLACE_PATCHES)
        some = np.stack([_patches(_checked(image, shape), size) for image in images[::stride]])
        return list(some.swapaxes(0, 1))
    stride = -(-len(images) * per_image // MAX_FIT_PATCHES)
    patches = [
        _patches(_checked(image, shape), size)[-place * per_image % stride :: stride]
        for place, image in enumerate(images)
    ]
    return [np.concatenate(patches)]


def _alike(books: Sequence[Floats]) -> Floats:
    """[places, centres, length]: the last centre again where there are fewer; never the nearest."""
    most = max(map(len, books))
    return np.stack([book[np.minimum(np.arange(most), len(book) - 1)] for book in books])


def _told(codec: ImageCodec, lost: float) -> str:
    decibels = "exact" if not lost else f"PSNR {20 * np.log10(codec.white / lost):.1f} dB"
    sizes = " + ".join(str(book.shape[-2]) for book in codec.books)
    each = " for each place" if codec.books[0].ndim == 3 else ""
    return (
        f"{codec.value_ids} tokens an image, patches of {codec.patch_size} pixels a side out of "
        f"{sizes} learned{each}; loses {lost:.1f} of {codec.white:.0f} levels ({decibels})"
    )


def _key(place: int) -> str:
    return f"{CENTRES}.{place}" if place else CENTRES


def codebook_of(patches: Floats, num_centres: int, seed: int) -> Floats:
    """Centres [n, length] of patches [m, length], by brightness, in steps of 1 / STEPS."""
    distinct = len(np.unique(patches, axis=0))
    centres = _k_means(patches.astype(np.float32), min(num_centres, distinct), seed)
    centres = np.unique(np.round(centres * STEPS) / STEPS, axis=0)
    return np.asarray(centres[np.argsort(centres.sum(axis=1), kind="stable")])


def _k_means(patches: NDArray[np.float32], num_centres: int, seed: int) -> Floats:
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra.of("scikit-learn", "train", "learning an image codebook") from error
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        warnings.simplefilter("ignore")  # fewer distinct patches than centres: handled above
        means = KMeans(num_centres, n_init=1, max_iter=MAX_ITERATIONS, random_state=seed)
        fitted = means.fit(patches)
    return np.asarray(fitted.cluster_centers_, np.float64)


def nearest_centre(patches: Floats, centres: Floats) -> NDArray[np.int64]:
    """The nearest of some centres of each patch; the first of equally near ones."""
    return np.asarray(((centres**2).sum(-1) - 2 * (patches @ centres.T)).argmin(-1), np.int64)


def _nearest(patches: Floats, centres: Floats, squares: Floats) -> NDArray[np.int64]:
    """The same of an image's patches, each among its place's centres or those of all."""
    if len(centres) == 1:
        products = patches @ centres[0].T
    else:
        products = (centres @ patches[:, :, None])[..., 0]
    return np.asarray((squares - 2 * products).argmin(-1), np.int64)


def _chosen(centres: Floats, numbers: NDArray[np.int64]) -> Floats:
    """[patches, length]: of each place the centre of this number."""
    if len(centres) == 1:
        return np.asarray(centres[0][numbers])
    return np.asarray(centres[np.arange(len(numbers)), numbers])


def _patches(image: Floats, size: int) -> Floats:
    """[num_patches, size ** 2 * channels], in reading order."""
    height, width, *colours = image.shape
    grid = image.reshape(height // size, size, width // size, size, *colours).swapaxes(1, 2)
    return np.ascontiguousarray(grid).reshape(height * width // size**2, -1)


def _image(patches: NDArray[np.float32], shape: tuple[int, ...], size: int) -> NDArray[np.float32]:
    """The inverse of `_patches`."""
    height, width, *colours = shape
    grid = patches.reshape(height // size, width // size, size, size, *colours).swapaxes(1, 2)
    return np.ascontiguousarray(grid).reshape(shape)


def _checked(value: Any, shape: tuple[int, ...]) -> Floats:
    try:
        image = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError("this is not an image", found=type(value).__name__) from error
    if image.shape != shape or not np.isfinite(image).all():
        raise DataError(
            "the image codec cannot encode this image",
            found=f"shape {image.shape}" if image.shape != shape else "NaN or infinity",
            expected=f"finite values of shape {shape}",
        )
    return image


def _check_tiling(height: int, width: int, patch_size: int) -> None:
    if patch_size < 1 or height < 1 or height % patch_size or width < 1 or width % patch_size:
        raise SpecError(
            "patches do not tile the image",
            found=f"{patch_size} x {patch_size} in {height} x {width}",
            do="choose a patch size that divides both sides",
        )
