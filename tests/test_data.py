"""Data sets, splits, checksums and normalizations against the files themselves, numpy, Pillow and scikit-learn."""

import hashlib
import io
import os
import pickle
import tarfile
import threading
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import runs
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100

from ablation.data import Images, Splits, fit_normalization, load, loading
from ablation.data.cifar import cifar
from ablation.errors import UserError

NORMALIZATIONS = ("pixel_mean", "pixel_standardize", "channel_standardize")


def random_images(count: int, size: tuple[int, int] = (4, 4), seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(3, (count,), generator=generator))


def numbered(count: int) -> Images:
    """Images that carry their own number in their pixels and their label."""
    number = torch.arange(count)
    return Images(torch.stack((number // 256, number % 256, number % 7), 1)[:, :, None, None].byte(), number)


@pytest.fixture
def numbered_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set `numbered` of 1000 training and 100 test images."""
    monkeypatch.setitem(loading.LOADERS, "numbered", lambda root: (numbered(1000), numbered(100), ("a", "b")))


def error_of(key: str, **arguments: object) -> str:
    """The message with which `load` refuses, checked to be about `key` and one line."""
    defaults: dict[str, object] = {"name": "image_folder", "root": Path("/nowhere"), "validation": 0, "split_seed": 0}
    with pytest.raises(UserError) as caught:
        load(**(defaults | arguments))  # type: ignore[arg-type]
    assert caught.value.key == key
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------- the real CIFAR-10


@pytest.fixture(scope="module")
def cifar10(cifar10_root: Path) -> Splits:
    return load("cifar10", cifar10_root, 0, 0)


def test_cifar10_is_what_its_files_say(cifar10: Splits, cifar10_root: Path) -> None:
    assert (len(cifar10.train), cifar10.val, len(cifar10.test)) == (50_000, None, 10_000)
    assert cifar10.classes[:2] == ("airplane", "automobile")
    for name, images, start in (("data_batch_3", cifar10.train, 20_000), ("test_batch", cifar10.test, 0)):
        with (cifar10_root / "cifar-10-batches-py" / name).open("rb") as file:
            batch = pickle.load(file, encoding="bytes")
        stop = start + 10_000
        np.testing.assert_array_equal(images.images[start:stop].numpy().reshape(10_000, -1), batch[b"data"])
        np.testing.assert_array_equal(images.labels[start:stop].numpy(), batch[b"labels"])


def test_cifar10_channel_statistics_are_the_published_ones(cifar10: Splits) -> None:
    normalization = fit_normalization("channel_standardize", cifar10.train)
    published = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]])
    torch.testing.assert_close(normalization.mean.flatten(), published[0], atol=6e-5, rtol=0)
    torch.testing.assert_close(normalization.std.flatten(), published[1], atol=6e-5, rtol=0)


# ------------------------------------------------------------------------- the download, with a small data set


class Server:
    """An archive at a URL, the file at `path`, and how often it was downloaded."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content, self.downloads = path, content, 0
        self.path.write_bytes(content)

    def urlopen(self, request: urllib.request.Request, **options: Any) -> Any:
        self.downloads += request.get_header("Method") != "HEAD"  # torchvision first asks where the file is
        response = urlopen(request, **options)
        response.length = len(self.content)  # as HTTP has it
        return response


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A data set `mini` in CIFAR's own format, 6 training and 3 test images, to be downloaded."""
    rows = np.random.RandomState(0).randint(0, 256, (9, 3072), dtype=np.uint8)
    files = {
        "train": pickle.dumps({"data": rows[:6], "labels": [0, 1, 2, 0, 1, 2]}),
        "test": pickle.dumps({"data": rows[6:], "labels": [2, 1, 0]}),
        "meta": pickle.dumps({"names": ["x", "y", "z"]}),
    }
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"mini-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    server = Server(tmp_path_factory.mktemp("server") / "mini.tar.gz", archive.getvalue())

    class Mini(CIFAR10):
        base_folder, filename = "mini-py", "mini.tar.gz"
        url, tgz_md5 = server.path.as_uri(), md5(server.content)
        train_list = [["train", md5(files["train"])]]
        test_list = [["test", md5(files["test"])]]
        meta = {"filename": "meta", "key": "names", "md5": md5(files["meta"])}

    monkeypatch.setattr(torchvision.datasets, "Mini", Mini, raising=False)
    monkeypatch.setitem(loading.LOADERS, "mini", partial(cifar, "Mini"))
    monkeypatch.setattr(urllib.request, "urlopen", server.urlopen)
    return server


def test_download(mini: Server, tmp_path: Path) -> None:
    splits = load("mini", tmp_path / "new" / "folder", 2, 0)
    assert splits.val is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4, 2, 3)
    assert (splits.classes, splits.test.labels.tolist()) == (("x", "y", "z"), [2, 1, 0])
    assert load("mini", tmp_path / "new" / "folder", 2, 0).checksum == splits.checksum
    assert mini.downloads == 1, "downloaded again"


@pytest.mark.parametrize("name", ["train", "test"])
def test_a_damaged_file_is_downloaded_again(mini: Server, tmp_path: Path, name: str) -> None:
    checksum = load("mini", tmp_path, 0, 0).checksum
    (tmp_path / "mini-py" / name).write_bytes(b"damaged")
    assert load("mini", tmp_path, 0, 0).checksum == checksum


def cut_off(server: Server, root: Path) -> None:
    server.path.write_bytes(server.content[:100])


def no_server(server: Server, root: Path) -> None:
    server.path.unlink()


def damaged_archive(server: Server, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "mini.tar.gz").write_bytes(server.content[:200])
    server.path.unlink()


def file_in_place_of_the_folder(server: Server, root: Path) -> None:
    root.parent.mkdir()
    root.write_text("a file")


def damaged_names(server: Server, root: Path) -> None:
    load("mini", root, 0, 0)
    (root / "mini-py" / "meta").write_bytes(b"damaged")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (cut_off, "mini-py/train is missing and the download failed"),
        (no_server, "mini-py/train is missing and the download failed"),
        (damaged_archive, "delete the damaged mini.tar.gz"),
        (file_in_place_of_the_folder, "mini-py/train is missing and the download failed"),
        (damaged_names, "mini-py/meta is damaged and the download failed"),
    ],
)
def test_a_failed_download(mini: Server, tmp_path: Path, fault: Callable[[Server, Path], None], message: str) -> None:
    fault(mini, tmp_path / "a" / "b")
    assert message in error_of("data.root", name="mini", root=tmp_path / "a" / "b")
    assert fault is not no_server or not (tmp_path / "a").exists(), "an empty folder was left behind"


def test_jobs_started_together_download_once(mini: Server, tmp_path: Path) -> None:
    checksums: list[str] = []
    jobs = [threading.Thread(target=lambda: checksums.append(load("mini", tmp_path, 0, 0).checksum)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert (len(checksums), len(set(checksums)), mini.downloads) == (4, 1, 1)


# ---------------------------------------------------------------------------------- CIFAR-100, in its own format


class Python2(pickle._Pickler):  # type: ignore[name-defined]
    """Pickles texts and bytes as Python 2 did, in which the official files were written."""

    def save_text(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: save_text, bytes: save_text}  # type: ignore[attr-defined]


def test_cifar100_is_what_its_files_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The official keys and classes, made-up images. A file with another MD5 is refused, in favour of a download."""
    random, sums, made = np.random.RandomState(0), {}, {}
    (tmp_path / "cifar-100-python").mkdir()
    made["meta"] = {
        f"{kind}_label_names": [f"{kind}_{i:02}" for i in range(n)] for kind, n in [("fine", 100), ("coarse", 20)]
    }
    for part, count in (("train", 300), ("test", 100)):
        fine = random.randint(0, 100, count).tolist()
        made[part] = {"filenames": ["a.png"] * count, "batch_label": f"{part}ing batch 1 of 1", "fine_labels": fine}
        made[part] |= {"coarse_labels": [0] * count, "data": random.randint(0, 256, (count, 3072), dtype=np.uint8)}
    for name, content in made.items():
        Python2(file := io.BytesIO(), protocol=2).dump(content)
        sums[name] = md5(file.getvalue())
        (tmp_path / "cifar-100-python" / name).write_bytes(file.getvalue())
    with (tmp_path / "cifar-100-python" / "train").open("rb") as official:
        assert b"fine_labels" in pickle.load(official, encoding="bytes"), "not as Python 2 pickles it"
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: 1 / 0)
    assert "cifar-100-python/train is damaged" in error_of("data.root", name="cifar100", root=tmp_path)
    for part in ("train", "test"):
        monkeypatch.setattr(CIFAR100, f"{part}_list", [[part, sums[part]]])
    monkeypatch.setattr(CIFAR100, "meta", CIFAR100.meta | {"md5": sums["meta"]})
    splits = load("cifar100", tmp_path, 0, 0)
    assert (splits.classes[99], splits.split) == ("fine_99", "the data set's own")
    for part, images in (("train", splits.train), ("test", splits.test)):
        np.testing.assert_array_equal(images.images.numpy().reshape(-1, 3072), made[part]["data"])
        assert images.labels.tolist() == made[part]["fine_labels"]
    outcome = runs.finish(
        runs.small(tmp_path / "results", "data=cifar100", f"data.root={tmp_path}", "schedule.steps=2")
    )
    assert outcome.state == "done", outcome.message
    assert np.shape(runs.essence(runs.folder_of(tmp_path / "results"))["record"]["confusion"]) == (100, 100)


# -------------------------------------------------------------------------------------------------------- digits


def test_digits_are_scikit_learns_enlarged() -> None:
    digits = load_digits()
    splits = load("digits", Path("/nowhere"), 0, 0)
    enlarged = [
        np.asarray(Image.fromarray(image.astype(np.float32)).resize((16, 16), Image.Resampling.BILINEAR))
        for image in digits.images
    ]
    expected = np.rint(np.stack(enlarged) * 255 / 16).astype(int)
    found = torch.cat((splits.train.images, splits.test.images))
    assert torch.equal(found, found[:, :1].expand(-1, 3, -1, -1))
    labels = torch.cat((splits.train.labels, splits.test.labels))

    def in_order(images: np.ndarray, names: np.ndarray) -> np.ndarray:
        rows = np.column_stack((names, images.reshape(len(images), -1).astype(int)))
        return rows[np.lexsort(rows.T[::-1])]

    np.testing.assert_array_equal(in_order(found[:, 0].numpy(), labels.numpy()), in_order(expected, digits.target))


def test_the_runs_of_a_sweep_read_cifar_once(cifar10_root: Path) -> None:
    one, same, other = (load("cifar10", cifar10_root, validation, 0) for validation in (0, 0, 5000))
    assert one is same
    assert (len(one.train), len(other.train)) == (50_000, 45_000)


def test_digits_are_always_the_same_split() -> None:
    """The checksum is a constant: another one would make committed records incomparable."""
    splits = load("digits", Path("/nowhere"), 0, 0)
    assert splits.checksum == load("digits", Path("/elsewhere"), 0, 1).checksum == "6cca812ca0639c71"
    assert (len(splits.train), len(splits.test)) == (1438, 359)
    train, test = splits.train.labels.bincount(), splits.test.labels.bincount()
    torch.testing.assert_close(test / (train + test), torch.full((10,), 0.2), atol=0.005, rtol=0)


# ------------------------------------------------------------------------------------------ splits and checksums


def test_validation_is_disjoint_complete_and_seeded(numbered_data: None) -> None:
    splits, again, other = (load("numbered", Path(), 300, seed) for seed in (0, 0, 1))
    assert splits.val is not None
    assert again.val is not None
    assert other.val is not None
    train, val = splits.train.labels.tolist(), splits.val.labels.tolist()
    assert len(val) == 300
    assert sorted(train + val) == list(range(1000))
    for part in (splits.train, splits.val):
        assert torch.equal(part.images, numbered(1000).images[part.labels]), "an image has another's label"
    assert splits.test.labels.tolist() == list(range(100))
    assert (again.val.labels.tolist(), again.checksum) == (val, splits.checksum)
    assert other.val.labels.tolist() != val
    assert other.checksum != splits.checksum
    assert val[:5] == [1, 2, 5, 8, 10], "the split of a seed must never change"


@pytest.mark.parametrize("validation", [-1, 1000])
def test_impossible_validation(numbered_data: None, validation: int) -> None:
    message = error_of("data.validation", name="numbered", validation=validation)
    assert message.startswith(f"data.validation={validation}: a number from 0 to 999")


def test_checksum_covers_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    def checksum(change: Callable[[Images, Images], object], classes: tuple[str, ...] = ("a",)) -> str:
        train, test = random_images(20), random_images(10, seed=1)
        change(train, test)
        monkeypatch.setitem(loading.LOADERS, "changed", lambda root: (train, test, classes))
        return load("changed", Path(), 3, 0).checksum

    sums = [
        checksum(lambda train, test: None),
        checksum(lambda train, test: None, classes=("b",)),
        checksum(lambda train, test: train.images[19, 2, 3, 3].bitwise_xor_(1)),
        checksum(lambda train, test: train.labels[0].add_(1)),
        checksum(lambda train, test: test.images[0, 0, 0, 0].bitwise_xor_(1)),
        checksum(lambda train, test: test.labels[9].add_(1)),
    ]
    assert len(set(sums)) == 6


# ------------------------------------------------------------------------------------------------- normalization


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
@pytest.mark.parametrize("kind", NORMALIZATIONS)
def test_normalization_is_numpys(kind: str, size: tuple[int, int]) -> None:
    train, other = random_images(2500, size), random_images(50, size, seed=1)
    scaled = train.images.numpy().astype(np.float64) / 255
    axes = (0, 2, 3) if kind == "channel_standardize" else 0
    mean, std = scaled.mean(axes, keepdims=True), scaled.std(axes, keepdims=True)
    expected = (other.images.numpy() / 255 - mean) / (1 if kind == "pixel_mean" else std)
    images = other.images.to(memory_format=torch.channels_last)
    result = fit_normalization(kind, train)(images)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-6)
    assert torch.equal(images, other.images), "the input was changed"


@pytest.mark.parametrize("kind", NORMALIZATIONS)
@pytest.mark.parametrize("rows", [slice(1), slice(None)], ids=["one row", "all"])
def test_constant_pixels_stay_finite(kind: str, rows: slice) -> None:
    train = random_images(2000)
    train.images[:, :, rows, :] = 77
    train.images[0, 0, 0, 0] = 76  # one image differs by one grey level
    normalization = fit_normalization(kind, train)
    for images in (train.images, torch.zeros_like(train.images), torch.full_like(train.images, 255)):
        assert normalization(images).abs().max() < 10  # false for NaN too
    if kind != "channel_standardize":
        assert normalization(train.images)[:, 1:, 0].abs().max() < 1e-6


# -------------------------------------------------------------------------------------------------- image folder


def save(path: Path, seed: int = 0, size: tuple[int, int] = (6, 5), mode: str = "RGB") -> np.ndarray:
    """Write an image of `size` (width, height) without loss; its pixels as RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    image.save(path)
    return np.asarray(image.convert("RGB"))


def folder_of(root: Path, classes: str = "cat dog", count: int = 5) -> dict[bytes, str]:
    """`count` images of each class, in several formats; from their pixels to their class."""
    formats = [(".png", "RGB"), (".PNG", "L"), (".bmp", "RGB")]
    saved = {}
    for c, name in enumerate(classes.split()):
        for i in range(count):
            suffix, mode = formats[i % 3]
            pixels = save(root / name / f"{i}{suffix}", 100 * c + i, mode=mode)
            saved[pixels.transpose(2, 0, 1).tobytes()] = name
    return saved


def classes_of(images: Images, classes: tuple[str, ...]) -> dict[bytes, str]:
    return {image.numpy().tobytes(): classes[label] for image, label in zip(images.images, images.labels, strict=True)}


def test_image_folder_is_split(tmp_path: Path) -> None:
    saved = folder_of(tmp_path, "b a c", 10)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "a" / ".hidden.png").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    splits = load("image_folder", tmp_path, 3, 0)
    assert splits.val is not None
    assert splits.classes == ("a", "b", "c")
    assert (len(splits.train), len(splits.val), len(splits.test)) == (21, 3, 6)
    assert splits.test.labels.bincount().tolist() == [2, 2, 2]
    assert splits.train.images.shape[1:] == (3, 5, 6)
    parts = [classes_of(part, splits.classes) for part in (splits.train, splits.val, splits.test)]
    assert parts[0] | parts[1] | parts[2] == saved
    assert load("image_folder", tmp_path, 3, 0).checksum == splits.checksum
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before, "the folder was changed"


def test_a_split_that_was_made_here_is_told_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder_of(tmp_path / "images", "b a c", 10)
    folder = "data=image_folder", f"data.root={tmp_path / 'images'}", "data.batch_size=8", "trainer.progress=null"
    assert runs.finish(runs.small(tmp_path, *folder)).state == "done"
    line, made = capfd.readouterr().out.splitlines()[0], runs.essence(runs.folder_of(tmp_path))["record"]["data"]
    assert "24 training, 0 validation, 6 test images" in line
    assert line.endswith(made["split"])
    assert made["split"].startswith("split off: 20 % of each class")


def test_image_folder_with_parts(tmp_path: Path) -> None:
    train, test = folder_of(tmp_path / "train", count=4), folder_of(tmp_path / "test", count=3)
    splits = load("image_folder", tmp_path, 0, 0)
    assert classes_of(splits.train, splits.classes) == train
    assert classes_of(splits.test, splits.classes) == test
    assert (len(splits.train), len(splits.test)) == (8, 6)


def add_cut_off(root: Path) -> None:
    save(root / "dog" / "0.png", 1, size=(64, 64))
    (root / "dog" / "0.png").write_bytes((root / "dog" / "0.png").read_bytes()[:3000])


def add_16_bit(root: Path) -> None:
    Image.fromarray(np.zeros((5, 6), dtype=np.uint16)).save(root / "cat" / "1.png")


def add_odd_test_image(root: Path) -> None:
    folder_of(root / "train")
    folder_of(root / "test")
    save(root / "test" / "dog" / "1.png", size=(9, 9))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 5\n"  # which Pillow would hand to Ghostscript
WRONG_LAYOUT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda root: root.rmdir(), "no such folder"),
    "empty": (lambda root: None, "no folders in it"),
    "one class": (lambda root: folder_of(root, "cat"), "only one class, cat"),
    "no test folder": (lambda root: folder_of(root / "train"), "a folder train but no folder test"),
    "no train folder": (lambda root: folder_of(root / "test"), "a folder test but no folder train"),
    "other classes": (lambda root: (folder_of(root / "train"), folder_of(root / "test", "cat dog eel")), "eel is only"),
    "too small": (
        lambda root: [save(root / c / "1.png", size=(9, 2)) for c in "ab"],
        "images of 9x2, but 4x4 is",
    ),
    "other size in test": (add_odd_test_image, "test/dog/1.png has 9x9 pixels but train/cat/0.png has 6x5"),
}
WRONG_FILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty class": (lambda root: (root / "eel").mkdir(), "no images in it"),
    "one image": (lambda root: save(root / "eel" / "1.png"), "class eel has one image"),
    "mixed sizes": (lambda root: save(root / "dog/2x.png", size=(7, 5)), "dog/2x.png has 7x5 pixels but cat/0.png has"),
    "text": (lambda root: (root / "dog/0.png").write_text("hello"), "dog/0.png cannot be read as an image"),
    "cut off": (add_cut_off, "dog/0.png cannot be read as an image"),
    "16 bit": (add_16_bit, "cat/1.png cannot be read as an image: its pixels have mode I;16"),
    "FIFO": (lambda root: os.mkfifo(root / "cat/9.png"), "cat/9.png cannot be read as an image: it is not"),
    "EPS": (
        lambda root: (root / "cat/9.png").write_bytes(EPS),
        "9.png cannot be read as an image: cannot identify",
    ),
    "bomb": (
        lambda root: (root / "cat/9.pgm").write_bytes(b"P5 20000 5000 9 "),
        "9.pgm cannot be read as an image: Image",
    ),
    "escape": (lambda root: (root / "cat/\x1b[31m.png").touch(), "cat/\ufffd[31m.png cannot be read"),
    "folder named as an image": (lambda root: (root / "cat/9.png").mkdir(), "cat/9.png cannot be read"),
}


@pytest.mark.parametrize("fault", [*WRONG_LAYOUT, *WRONG_FILE])
def test_bad_image_folder(fault: str, tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    if fault in WRONG_FILE:
        folder_of(root)
    make, message = (WRONG_LAYOUT | WRONG_FILE)[fault]
    make(root)
    assert message in error_of("data.root", root=root)


def test_image_folder_too_big_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path)
    monkeypatch.setattr("ablation.data.image_folder.MAX_BYTES", 10 * 90 - 1)
    assert "10 images of 6x5 need" in error_of("data.root", root=tmp_path)
