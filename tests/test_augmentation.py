"""Augmentations against independent references, image by image, and the distribution of what is drawn."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from ablation.data.augmentation import Augmentation, apply_operations, operations

SIZES = [(32, 32), (16, 16), (12, 20)]
AUGMENTATIONS = {
    "none": Augmentation(),
    "crop_flip": Augmentation(padding=4, flip=True),
    "crop": Augmentation(padding=4),
    "flip": Augmentation(flip=True),
    "shift_flip": Augmentation(shift=4.0, flip=True),
    "cutout": Augmentation(padding=4, flip=True, cutout=8),
    "cutout_odd": Augmentation(cutout=7),
    "cutout_large": Augmentation(cutout=50),
    "all": Augmentation(padding=2, shift=1.5, flip=True, cutout=5, policy="trivial_augment"),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(count, 3, *size, generator=seeded(1))


def crop_flip_reference(image: Tensor, draws: dict[str, Tensor], i: int, padding: int) -> Tensor:
    padded = v2.functional.pad(image, [padding] * 4)
    height, width = image.shape[-2:]
    cropped = v2.functional.crop(padded, int(draws["crop_row"][i]), int(draws["crop_column"][i]), height, width)
    return v2.functional.horizontal_flip(cropped) if draws["flip"][i] else cropped


def cutout_reference(image: Tensor, row: int, column: int, length: int) -> Tensor:
    height, width = image.shape[-2:]
    image = image.clone()
    for y in range(row - length // 2, row - length // 2 + length):
        for x in range(column - length // 2, column - length // 2 + length):
            if 0 <= y < height and 0 <= x < width:
                image[:, y, x] = 0
    return image


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["crop_flip", "crop", "flip", "cutout", "cutout_odd", "cutout_large"])
def test_crop_flip_and_cutout_are_torchvisions(name: str, size: tuple[int, int]) -> None:
    """First crop and flip, then the hole: it is where it was drawn, whatever the crop."""
    augmentation, images = AUGMENTATIONS[name], batch(100, size)
    draws = augmentation.draw(100, size, seeded())
    result = augmentation(images, draws)
    for i, expected in enumerate(images):
        if augmentation.padding or augmentation.flip:
            expected = crop_flip_reference(expected, draws, i, augmentation.padding)
        if augmentation.cutout:
            hole = int(draws["hole_row"][i]), int(draws["hole_column"][i])
            expected = cutout_reference(expected, *hole, augmentation.cutout)
        assert torch.equal(result[i], expected), i


@pytest.mark.parametrize("size", SIZES)
def test_shift_is_scipys(size: tuple[int, int]) -> None:
    augmentation, images = Augmentation(shift=4.0), batch(100, size)
    draws = augmentation.draw(100, size, seeded())
    result = augmentation(images, draws)
    for i, image in enumerate(images):
        offset = (0, -float(draws["shift_row"][i]), -float(draws["shift_column"][i]))
        reference = ndimage.shift(image.double().numpy(), offset, order=1, mode="nearest")
        np.testing.assert_allclose(result[i].numpy(), reference, atol=2e-5, err_msg=str(i))


def test_trivial_augment_is_torchvisions() -> None:
    """Each image as TrivialAugmentWide makes it when it draws the same operation, strength and sign."""
    reference = transforms.TrivialAugmentWide()
    images = torch.randint(256, (300, 3, 32, 32), generator=seeded(), dtype=torch.uint8)
    images[::2] = images[::2] // 3 + 40  # images of low contrast, for autocontrast and equalize
    names, table = list(operations()), list(operations().values())
    expected, operation, magnitude = [], [], []
    for i, image in enumerate(images):
        torch.manual_seed(i)
        expected.append(reference(image))
        torch.manual_seed(i)  # and now the draws of its forward()
        entry = table[number := int(torch.randint(len(table), (1,)))]
        varies = len(set(entry.magnitudes)) > 1
        value = entry.magnitudes[int(torch.randint(31, (1,)))] if varies else 0.0
        operation.append(number)
        magnitude.append(-value if entry.signed and torch.randint(2, (1,)) else value)
    assert set(operation) == set(range(14)), "not every operation was tried"
    result = apply_operations(images, torch.tensor(operation), torch.tensor(magnitude, dtype=torch.float64))
    for i, number in enumerate(operation):
        difference = (result[i].int() - expected[i].int()).abs()
        # The two generations of torchvision's operations round some grey levels differently.
        tolerance = 1 if names[number] in ("Color", "Sharpness", "AutoContrast") else 0
        assert difference.max() <= tolerance, (names[number], magnitude[i])
        assert difference.float().mean() < 0.2, (names[number], magnitude[i])


def test_trivial_augment_keeps_each_image_in_its_place() -> None:
    images = (torch.arange(200, dtype=torch.uint8))[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    geometric = torch.randint(1, 6, (200,), generator=seeded())  # on an even image they move it or show black
    result = apply_operations(images, geometric, torch.ones(200, dtype=torch.float64))
    assert torch.equal(result.amax((1, 2, 3)), images[:, 0, 0, 0])


def test_trivial_augment_is_uniform() -> None:
    drawn: list[Tensor] = []
    images = torch.zeros(28_000, 3, 1, 1, dtype=torch.uint8)

    def record(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
        drawn.extend((operation, magnitude))
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablation.data.augmentation.apply_operations", record)
        Augmentation(policy="trivial_augment").policy_epoch(images, seeded())
    operation, magnitude = drawn
    assert stats.chisquare(operation.bincount(minlength=14)).pvalue > 0.001
    names = list(operations())
    rotations = magnitude[operation == names.index("Rotate")]
    assert stats.chisquare(rotations.abs().unique(return_counts=True)[1]).pvalue > 0.001
    assert stats.binomtest(int((rotations > 0).sum()), int((rotations != 0).sum())).pvalue > 0.001
    assert (magnitude[operation == names.index("Solarize")] >= 0).all(), "an unsigned operation got a sign"


def test_crops_and_flips_are_uniform() -> None:
    draws = Augmentation(padding=4, flip=True).draw(81_000, (32, 32), seeded())
    cells = (draws["crop_row"] * 9 + draws["crop_column"]) * 2 + draws["flip"]
    assert stats.chisquare(cells.bincount(minlength=162)).pvalue > 0.001


def test_shifts_and_holes_are_uniform() -> None:
    draws = Augmentation(shift=4.0, cutout=8).draw(24_000, (12, 20), seeded())
    for name in ("shift_row", "shift_column"):
        assert stats.kstest(draws[name].numpy(), "uniform", args=(-4, 8)).pvalue > 0.001
    assert abs(np.corrcoef(draws["shift_row"], draws["shift_column"])[0, 1]) < 0.03
    holes = (draws["hole_row"] * 20 + draws["hole_column"]).bincount(minlength=240)
    assert stats.chisquare(holes).pvalue > 0.001


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_repeat_with_the_seed_and_differ_without(name: str) -> None:
    augmentation = AUGMENTATIONS[name]
    first, again, other = (augmentation.draw(500, (16, 16), seeded(seed)) for seed in (3, 3, 4))
    assert first.keys() == again.keys() == other.keys()
    for key, values in first.items():
        assert values.shape == (500,)
        assert torch.equal(values, again[key])
        assert not torch.equal(values, other[key]) or len(values.unique()) == 1, key
    images = torch.randint(256, (300, 3, 16, 16), generator=seeded(), dtype=torch.uint8)
    first, again, other = (augmentation.policy_epoch(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (augmentation.policy is None)


def test_nothing_on_is_nothing_done() -> None:
    generator, images = seeded(), batch(4, (32, 32))
    state = generator.get_state()
    augmentation = Augmentation()
    assert augmentation.draw(4, (32, 32), generator) == {}
    assert augmentation(images, {}) is images
    assert augmentation.policy_epoch(images, generator) is images
    assert torch.equal(generator.get_state(), state)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_batches_do_not_depend_on_their_neighbours(name: str) -> None:
    """A slice of the epoch's draws does to a slice of the images what the whole does; memory format does not matter."""
    augmentation, images = AUGMENTATIONS[name], batch(64, (16, 16))
    draws = augmentation.draw(64, (16, 16), seeded())
    whole = augmentation(images, draws)
    part = augmentation(
        images[32:].to(memory_format=torch.channels_last), {key: values[32:] for key, values in draws.items()}
    )
    torch.testing.assert_close(part, whole[32:], rtol=0, atol=1e-6)
    assert (whole.shape, whole.dtype) == (images.shape, images.dtype)
    if augmentation.flip and not augmentation.shift:
        assert whole.is_contiguous(memory_format=torch.channels_last)
