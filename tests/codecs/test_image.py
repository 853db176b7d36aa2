"""Image codec: nearest centres by brute force, the declared loss, same bytes, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from whorl.codecs.contract import Tokens
from whorl.codecs.image import ImageCodec, fit_image_codec, load
from whorl.codecs.kinds import load_codec
from whorl.core.errors import DataError, RecordError, SpecError


def images(count: int = 40, height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 17, (count, height, width)).astype(np.uint8)


def test_each_patch_gets_its_nearest_centre() -> None:
    codec = fit_image_codec(images(), num_ids=12, patch_size=2)
    image = images(1, seed=1)[0]
    ids = codec.encode(image)
    assert len(ids) == codec.value_ids == 12
    place = 0
    for top in range(0, 6, 2):
        for left in range(0, 8, 2):
            patch = image[top : top + 2, left : left + 2].astype(float).ravel()
            distances = [float(((patch - centre) ** 2).sum()) for centre in codec.centres]
            assert distances[ids[place]] == min(distances)
            decoded = codec.decode(ids)[top : top + 2, left : left + 2]
            assert (decoded.ravel() == codec.centres[ids[place]]).all()
            place += 1


def test_loss_is_the_distance_to_what_is_decoded_and_falls_with_more_centres() -> None:
    train, other = images(200), images(20, seed=2)
    losses = []
    for num_ids in (4, 16, 64):
        codec = fit_image_codec(train, num_ids, patch_size=2)
        decoded = np.stack([codec.decode(codec.encode(image)) for image in other])
        by_hand = np.sqrt(((decoded - other) ** 2).mean())
        assert codec.loss(other) == pytest.approx(by_hand, rel=1e-5)
        losses.append(by_hand)
    assert losses[0] > losses[1] > losses[2] > 0


def test_few_distinct_patches_are_kept_exactly() -> None:
    train = np.zeros((5, 4, 4), np.uint8)
    train[1, :2, :2] = 7
    train[2, 2:, 2:] = 16
    codec = fit_image_codec(train, num_ids=64, patch_size=2)
    assert codec.num_ids == 3 and codec.loss(train) == 0.0
    assert codec.centres[:, 0].tolist() == [0.0, 7.0, 16.0]  # by brightness


def test_same_images_same_bytes_and_files_load_again() -> None:
    codec = fit_image_codec(images(), 16, 2, seed=3)
    assert codec.files() == fit_image_codec(images(), 16, 2, seed=3).files()
    again = load_codec("image-patches", "image", codec.files())
    image = images(1, seed=4)[0]
    assert again.encode(image) == codec.encode(image)
    assert again.files() == codec.files()


def test_rectangles_and_other_patch_sizes_tile() -> None:
    for size in (1, 3):
        codec = fit_image_codec(images(height=3, width=9), 8, size)
        assert codec.value_ids == 27 // size**2
        assert codec.decode(codec.encode(images(1, 3, 9)[0])).shape == (3, 9)


def test_a_part_of_an_image_is_decoded_and_more_than_one_is_not() -> None:
    codec = fit_image_codec(images(), 8, 2)
    half = codec.decode([1] * 4)
    assert (half[2:] == 0).all() and (half[:2, :2].ravel() == codec.centres[1]).all()
    assert (codec.decode([]) == 0).all()
    with pytest.raises(DataError, match="too many"):
        codec.decode([0] * 13)


@pytest.mark.parametrize(
    "value", [np.zeros((4, 8)), np.full((6, 8), np.nan), "text", None, [[1, 2], [3]], np.zeros(48)]
)
def test_what_is_no_such_image_is_refused(value: object) -> None:
    codec = fit_image_codec(images(), 8, 2)
    with pytest.raises(DataError, match="image"):
        codec.encode(value)


def test_bad_shapes_and_no_images_are_refused() -> None:
    with pytest.raises(SpecError, match="tile"):
        fit_image_codec(images(), 8, patch_size=4)
    with pytest.raises(SpecError, match="square"):
        ImageCodec([np.zeros((4, 5), np.float32)], 4, 4)
    with pytest.raises(DataError, match="none"):
        fit_image_codec([], 8, 2)
    with pytest.raises(DataError, match="shape"):
        fit_image_codec([np.zeros((4, 4)), np.zeros((4, 6))], 8, 2)


def coloured(count: int = 30, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 3)).astype(np.uint8)


def test_further_books_code_what_is_left_and_lose_less() -> None:
    train, other = coloured(200), coloured(20, seed=2)
    losses = []
    for ids_per_patch in (1, 2, 3):
        codec = fit_image_codec(train, 32 * ids_per_patch, 2, ids_per_patch=ids_per_patch)
        assert codec.shape == (4, 6, 3) and codec.value_ids == 6 * ids_per_patch
        image = other[0].astype(float)
        ids = codec.encode(image)
        for place, (top, left) in enumerate((y, x) for y in (0, 2) for x in (0, 2, 4)):
            left_over = image[top : top + 2, left : left + 2].ravel()
            for number, book in enumerate(codec.books):
                chosen = ids[place * ids_per_patch + number] - number * 32
                distances = [float(((left_over - centre) ** 2).sum()) for centre in book]
                assert distances[chosen] == min(distances)
                left_over = left_over - book[chosen]
        losses.append(codec.loss(other))
        assert f"{codec.value_ids} tokens an image" in codec.told and "PSNR" in codec.told
        again = load_codec("image-patches", "image", codec.files())
        assert again.encode(image) == ids and again.files() == codec.files()
    assert losses[0] > losses[1] > losses[2] > 0


def test_books_of_each_place_are_learned_from_it_alone() -> None:
    train, other = images(200, 4, 6), images(20, 4, 6, seed=2)
    train[:, :2, :2] = 5  # one patch alone at the first place
    codec = fit_image_codec(train, 6 * 8, 2, by_place=True)
    assert codec.books[0].shape == (6, 8, 4) and codec.num_ids == 48 and codec.value_ids == 6
    assert (codec.books[0][0] == 5).all()
    for image in other:
        ids = codec.encode(image)
        decoded = codec.decode(ids)
        for place, (top, left) in enumerate((y, x) for y in (0, 2) for x in (0, 2, 4)):
            patch = image[top : top + 2, left : left + 2].astype(float).ravel()
            book = codec.books[0][place]
            distances = [float(((patch - centre) ** 2).sum()) for centre in book]
            chosen = ids[place] - 8 * place
            assert 0 <= chosen < 8 and distances[chosen] == min(distances)
            assert (decoded[top : top + 2, left : left + 2].ravel() == book[chosen]).all()
    assert {codec.encode(image)[0] for image in other} == {0}  # equal ones: the first
    again = load_codec("image-patches", "image", codec.files())
    assert again.encode(other[0]) == codec.encode(other[0]) and again.files() == codec.files()
    assert "for each place" in codec.told
    with pytest.raises(DataError, match="order"):
        codec.decode([8, 8])
    assert (codec.decode([0, 9])[:2, 2:4].ravel() == codec.books[0][1][1]).all()
    with pytest.raises(SpecError, match="square"):
        ImageCodec([np.zeros((5, 8, 4), np.float32)], 4, 6)
    two = fit_image_codec(train, 6 * 8 * 2, 2, by_place=True, ids_per_patch=2)
    assert two.loss(other) < codec.loss(other)
    assert two.encode(two.decode(two.encode(other[3]))) == two.encode(other[3])


def test_ids_of_the_wrong_book_are_no_image_and_some_of_a_patch_are() -> None:
    codec = fit_image_codec(coloured(), 16, 2, ids_per_patch=2)
    with pytest.raises(DataError, match="order"):
        codec.decode([8, 0])
    one = codec.decode([3])
    assert (one[:2, :2].ravel() == codec.books[0][3]).all() and (one[2:] == 0).all()
    with pytest.raises(DataError, match="too few ids"):
        fit_image_codec(coloured(), 1, 2, ids_per_patch=2)


def test_what_comes_back_has_lost_what_is_said() -> None:
    """Declared loss, over shapes, colours and books: FAULTS of round trips."""
    for trial in range(40):
        rng = np.random.default_rng(trial)
        size, books = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        by_place = bool(rng.random() < 0.5)
        shape = (size * int(rng.integers(1, 4)), size * int(rng.integers(1, 4)))
        shape += (3,) if rng.random() < 0.5 else ()
        train = rng.integers(0, 256, (30, *shape)).astype(np.uint8)
        num_ids = 4 * books * (shape[0] * shape[1] // size**2 if by_place else 1)
        codec = fit_image_codec(
            train, num_ids, size, trial, ids_per_patch=books, white=255.0, by_place=by_place
        )
        ids = codec.encode(train[0])
        back = codec.decode(ids)
        assert back.shape == shape and all(0 <= i < codec.num_ids for i in ids)
        lost = float(np.sqrt(((back - train[0]) ** 2).mean()))
        assert codec.loss([train[0]]) == pytest.approx(lost, rel=1e-5)
        shown = codec.from_bytes(codec.to_bytes(train[0]))
        np.testing.assert_array_equal(shown, train[0])  # PNG keeps every level
        assert codec.encode(shown) == ids


def test_damaged_files_are_refused() -> None:
    data = fit_image_codec(images(), 8, 2).files()["codebook.safetensors"]
    for broken in (b"", data[:-1], data[:40], b"x" * 100):
        with pytest.raises(RecordError, match="image codec"):
            load("image", {"codebook.safetensors": broken})
    with pytest.raises(RecordError):
        load("image", {})


def test_the_token_contract_gives_it_a_range_and_prints_it() -> None:
    codec = fit_image_codec(images(), 8, 2)
    tokens = Tokens.build({"image": codec}, 64)
    assert tokens.decode([16, 23]) == "<|image_0|><|image_7|>"
