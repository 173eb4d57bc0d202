"""Image sets: what is loaded, from where, and what is said when it cannot be."""

import ast
import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fairfal_flwr.data
from fairfal_flwr.config import RunConfig
from fairfal_flwr.data import SOURCES, ImageSpec, digits, fashion_mnist, load_image_set
from fairfal_flwr.data.fashion_mnist import DEBIAN_FOLDER, FILES, read_fashion_mnist
from fairfal_flwr.errors import UserError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = FILES

needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist"
)


DIGITS = ImageSpec("digits")


def idx(array: np.ndarray) -> bytes:
    """Encode bytes in the IDX format."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_small_copy(folder: Path, *, zipped: bool = False) -> None:
    """Write 20 training and 10 test images; pixel (r, c) of image i is r + c + i."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = np.add.outer(np.arange(28), np.arange(28))
    for count, image_file, label_file in (
        (20, TRAIN_IMAGES, TRAIN_LABELS),
        (10, TEST_IMAGES, TEST_LABELS),
    ):
        numbers = np.arange(count)
        images = numbers[:, None, None] + grid
        for name, array in ((image_file, images), (label_file, numbers % 10)):
            content = gzip.compress(idx(array)) if zipped else idx(array)
            (folder / (f"{name}.gz" if zipped else name)).write_bytes(content)


def fake_torchvision(
    monkeypatch: pytest.MonkeyPatch, download: Callable[[str], None]
) -> None:
    """Replace torchvision's FashionMNIST, so that no test downloads or imports it."""
    fake = SimpleNamespace(FashionMNIST=lambda root, **options: download(root))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=fake))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", fake)


def never(root: str) -> None:
    raise AssertionError("nothing may be downloaded here")


@pytest.fixture
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for downloads of a machine without Fashion-MNIST."""
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("FAIRFAL_HOME", str(tmp_path / "home"))
    fake_torchvision(monkeypatch, never)
    return tmp_path / "home" / "datasets" / "FashionMNIST" / "raw"


def test_digits_have_the_documented_sizes_and_a_balanced_test_set():
    images = load_image_set(DIGITS)
    assert images.train_images.shape == (1437, 1, 16, 16)
    assert images.test_images.shape == (360, 1, 16, 16)
    assert images.train_images.dtype == images.test_images.dtype == torch.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == torch.int64
    assert images.test_labels.bincount().tolist() == [36] * 10
    assert images.num_classes == 10
    assert images.class_names[3] == "3"


def test_digits_repeat_each_pixel_and_use_the_full_range():
    images = load_image_set(DIGITS).test_images
    assert torch.equal(images[:, :, ::2, ::2], images[:, :, 1::2, 1::2])
    # The first digit's first row in the file is 0 0 5 13 9 1 0 0; 16 becomes 255.
    assert images[0, 0, 0, ::2].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert images.min() == 0
    assert images.max() == 255


def test_digits_mean_and_std_are_those_of_the_training_images():
    images = load_image_set(DIGITS)
    pixels = images.train_images.double() / 255
    assert pixels.mean().item() == pytest.approx(images.mean[0], abs=5e-5)
    assert pixels.std().item() == pytest.approx(images.std[0], abs=5e-5)


def test_image_sets_are_loaded_once_per_process():
    assert load_image_set(DIGITS) is load_image_set(DIGITS)


def test_digits_come_through_scikit_learn_where_its_file_has_moved(monkeypatch):
    table = digits._digits_table()
    parts = SimpleNamespace(data=table[:, :-1].astype(float), target=table[:, -1])
    fake = SimpleNamespace(load_digits=lambda: parts)
    monkeypatch.setattr(digits, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "sklearn", SimpleNamespace(datasets=fake))
    monkeypatch.setitem(sys.modules, "sklearn.datasets", fake)
    assert np.array_equal(digits._digits_table(), table)


@pytest.mark.slow
def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    table = digits._digits_table()
    assert np.array_equal(table[:, :-1], theirs.data)
    assert np.array_equal(table[:, -1], theirs.target)


def test_an_unknown_image_set_lists_the_known_ones():
    with pytest.raises(
        UserError,
        match=r"`data.name` is 'mnist'; allowed: digits, fashion-mnist, cifar10, .*",
    ):
        load_image_set(ImageSpec("mnist"))


@pytest.mark.parametrize("name", [*SOURCES, "hf:ylecun/mnist"])
def test_the_config_knows_every_image_set(name):
    assert RunConfig.from_flat({"data.name": name}).data.name == name


@pytest.mark.parametrize("name", ["mnist", "hf:", "hf: x", "Folder"])
def test_the_config_refuses_other_names(name):
    with pytest.raises(
        UserError, match=r"^Run config: `data.name` is .*; allowed: dig"
    ):
        RunConfig.from_flat({"data.name": name})


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("inside", ["", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_a_given_folder(
    tmp_path, monkeypatch, zipped, inside
):
    fake_torchvision(monkeypatch, never)
    write_small_copy(tmp_path / inside, zipped=zipped)
    train_images, train_labels, test_images, test_labels = read_fashion_mnist(
        str(tmp_path)
    )
    assert train_images.shape == (20, 1, 28, 28)
    assert train_images.dtype == torch.uint8
    assert train_images[3, 0, 20, 4] == 27
    assert train_labels.dtype == torch.int64
    assert train_labels.tolist() == [*range(10), *range(10)]
    assert test_images.shape == (10, 1, 28, 28)
    assert test_labels.tolist() == [*range(10)]


def test_the_home_sign_is_understood_in_data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_small_copy(tmp_path / "pictures")
    assert len(read_fashion_mnist("~/pictures")[0]) == 20


def test_a_given_folder_that_does_not_exist_is_an_error(tmp_path, empty_machine):
    path = tmp_path / "nowhere"
    with pytest.raises(
        UserError, match=rf"^`data-dir` is '{path}', but there is no folder '{path}'\.$"
    ):
        read_fashion_mnist(str(path))


def test_a_relative_data_dir_is_shown_with_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=rf"^`data-dir` is 'here', but .* folder '{tmp_path}/here'\.$"
    ):
        read_fashion_mnist("here")


def test_a_given_folder_is_never_replaced_by_another_place(tmp_path, empty_machine):
    write_small_copy(empty_machine)
    write_small_copy(tmp_path / "mine", zipped=True)
    (tmp_path / "mine" / f"{TRAIN_LABELS}.gz").unlink()
    (tmp_path / "mine" / f"{TEST_IMAGES}.gz").unlink()
    with pytest.raises(
        UserError,
        match=rf"^`data-dir` is .*lacks {TRAIN_LABELS}, {TEST_IMAGES} \(each may be "
        r"gzipped, with the ending \.gz\)\.$",
    ):
        read_fashion_mnist(str(tmp_path / "mine"))


LABELS = idx(np.arange(20) % 10)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        (TRAIN_LABELS, LABELS[:-1], "it is cut short"),
        (TRAIN_LABELS, LABELS[:6], "it is cut short"),
        (TRAIN_LABELS, b"", "it is no IDX file of bytes in 1 dimension"),
        (TRAIN_LABELS, LABELS + b"\0", "it is longer than its header says"),
        (TRAIN_LABELS, idx(np.arange(19) % 10), "19 labels for 20 images"),
        (TRAIN_LABELS, idx(np.arange(20)), r"its labels are not in 0\.\.9"),
        (TRAIN_IMAGES, LABELS, "it is no IDX file of bytes in 3 dimension"),
        (TRAIN_IMAGES, idx(np.zeros((20, 8, 8))), "its images are not 28x28"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, problem):
    write_small_copy(tmp_path)
    (tmp_path / name).write_bytes(content)
    path = tmp_path / name
    with pytest.raises(
        UserError,
        match=rf"^`data-dir` is '{tmp_path}', but '{path}' cannot be read: {problem}",
    ):
        read_fashion_mnist(str(tmp_path))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda content: content[: len(content) // 2], "it is cut short"),
        (lambda content: b"<html>" + content, "Not a gzipped file"),
        (lambda content: content[:20] + b"????????" + content[28:], "[Ee]rror"),
    ],
)
def test_a_damaged_gzipped_file_is_named(tmp_path, damage, problem):
    write_small_copy(tmp_path, zipped=True)
    path = tmp_path / f"{TEST_IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        UserError, match=rf"^`data-dir` is .* but '{path}' cannot be read: .*{problem}"
    ):
        read_fashion_mnist(str(tmp_path))


def test_a_forbidden_file_is_named(tmp_path, monkeypatch):
    write_small_copy(tmp_path)

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(
        UserError, match=rf"{TRAIN_IMAGES}' cannot be read: Permission denied\.$"
    ):
        read_fashion_mnist(str(tmp_path))


def test_a_split_without_images_is_an_error(tmp_path):
    write_small_copy(tmp_path)
    (tmp_path / TRAIN_IMAGES).write_bytes(idx(np.zeros((0, 28, 28))))
    (tmp_path / TRAIN_LABELS).write_bytes(idx(np.zeros(0)))
    with pytest.raises(UserError, match="its labels are not in"):
        read_fashion_mnist(str(tmp_path))


def test_debian_s_package_is_preferred_to_an_earlier_download(tmp_path, empty_machine):
    write_small_copy(tmp_path / "debian", zipped=True)
    write_small_copy(empty_machine)
    (empty_machine / TRAIN_IMAGES).write_bytes(b"")
    assert len(read_fashion_mnist("")[0]) == 20


def test_an_earlier_download_is_used(empty_machine):
    write_small_copy(empty_machine)
    assert len(read_fashion_mnist("")[0]) == 20


def test_a_damaged_file_in_a_usual_place_is_named(empty_machine):
    write_small_copy(empty_machine)
    (empty_machine / TEST_LABELS).write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"^Fashion-MNIST is in '{empty_machine}', but .*{TEST_LABELS}"
    ):
        read_fashion_mnist("")


def test_a_download_goes_to_the_per_user_folder(empty_machine, monkeypatch):
    fake_torchvision(
        monkeypatch, lambda root: write_small_copy(Path(root, "FashionMNIST", "raw"))
    )
    assert len(read_fashion_mnist("")[0]) == 20
    assert [path.name for path in empty_machine.parents[1].iterdir()] == [
        "FashionMNIST"
    ]
    fake_torchvision(monkeypatch, never)
    assert len(read_fashion_mnist("")[0]) == 20


def test_two_downloads_at_once_do_not_harm_each_other(empty_machine, monkeypatch):
    def download(root: str) -> None:
        write_small_copy(Path(root, "FashionMNIST", "raw"))
        write_small_copy(empty_machine)  # the other process is done first

    fake_torchvision(monkeypatch, download)
    assert len(read_fashion_mnist("")[0]) == 20


def fail_to_download(root: str) -> None:
    raise RuntimeError("Error downloading a:\nTried b, got:\n<no route>")


def half_download(root: str) -> None:
    write_small_copy(Path(root, "FashionMNIST", "raw"))
    Path(root, "FashionMNIST", "raw", TEST_LABELS).unlink()


@pytest.mark.parametrize(
    ("download", "reason"),
    [
        (
            fail_to_download,
            "Error downloading a: Tried b, got: <no route>",
        ),
        (half_download, f"an incomplete folder is in its place: no {TEST_LABELS}"),
    ],
)
def test_a_failed_download_says_where_it_looked_and_what_to_do(
    tmp_path, empty_machine, monkeypatch, download, reason
):
    fake_torchvision(monkeypatch, download)
    with pytest.raises(
        UserError,
        match=rf"^Fashion-MNIST is neither in {tmp_path}/debian nor in "
        rf"{empty_machine}, and the download failed \({reason}\); install it with "
        r"`apt-get install dataset-fashion-mnist`, or set `data-dir` to a folder that "
        r"holds its files\.$",
    ):
        read_fashion_mnist("")


@needs_fashion_mnist
def test_debian_s_fashion_mnist_is_the_real_one():
    images = load_image_set(ImageSpec("fashion-mnist"))
    assert images.train_images.shape == (60000, 1, 28, 28)
    assert images.test_images.shape == (10000, 1, 28, 28)
    assert images.train_labels.bincount().tolist() == [6000] * 10
    assert images.test_labels.bincount().tolist() == [1000] * 10
    assert images.class_names[images.train_labels[0]] == "Ankle boot"
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = images.train_images.flatten().bincount(minlength=256).double()
    mean = (values * weights).sum() / weights.sum()
    std = ((values - mean).square() * weights).sum().div(weights.sum()).sqrt()
    assert mean.item() == pytest.approx(images.mean[0], abs=5e-4)
    assert std.item() == pytest.approx(images.std[0], abs=5e-4)


@pytest.mark.slow
@needs_fashion_mnist
def test_torchvision_reads_the_same_from_its_own_layout(tmp_path):
    from torchvision.datasets import FashionMNIST

    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name in FILES:
        content = gzip.decompress((DEBIAN_FOLDER / f"{name}.gz").read_bytes())
        (raw / name).write_bytes(content)
    train_images, train_labels, test_images, _ = read_fashion_mnist(str(tmp_path))
    theirs = FashionMNIST(str(tmp_path))
    assert torch.equal(train_images.squeeze(1), theirs.data)
    assert torch.equal(train_labels, theirs.targets)
    assert torch.equal(test_images.squeeze(1), FashionMNIST(tmp_path, False).data)
    assert tuple(FashionMNIST.classes) == fashion_mnist.CLASS_NAMES


def test_importing_the_room_imports_nothing_slow():
    slow = {"flwr", "flwr_datasets", "datasets", "torchvision", "sklearn"}
    room = Path(fairfal_flwr.data.__file__).parent
    for path in room.glob("*.py"):
        if path.name == "flower_partitioner.py":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module or ""}
            else:
                continue
            assert not {name.split(".")[0] for name in names} & slow, path.name
            assert "fairfal_flwr.data.flower_partitioner" not in names, path.name
