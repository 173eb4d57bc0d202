"""Starting from a file of weights, and being told when it is the wrong one."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from fairfal_flwr.errors import UserError
from fairfal_flwr.models import Architecture


def build(file="", name="cnn4", classes=4, seed=0, side=16, channels=1, **options):
    architecture = Architecture(name, str(file), channels, (side, side), classes)
    return architecture.build(seed, **options)


def same(first, second, prefix=""):
    a, b = first.state_dict(), second.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a if k.startswith(prefix))


@pytest.mark.parametrize("kind", ["safetensors", "pth", "wrapped"])
def test_a_file_of_this_network_is_loaded(tmp_path, kind):
    saved = build(seed=3)
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(saved.state_dict(), path)
    else:
        state = saved.state_dict()
        torch.save({"state_dict": state} if kind == "wrapped" else state, path)
    assert same(build(path), saved)
    assert not same(build(), saved)
    assert same(build(path, weights=False), build())


def test_a_head_for_other_classes_starts_anew(tmp_path):
    saved = build(seed=3, classes=7)
    save_file(saved.state_dict(), tmp_path / "w.safetensors")
    model = build(tmp_path / "w.safetensors", seed=5)
    assert same(model, saved, "backbone")
    assert same(model, build(seed=5), "head")


def test_another_architecture_is_one_line(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(build(name="resnet10").state_dict(), path)
    with pytest.raises(
        UserError,
        match=rf"^`model.weights` is '{path}', which is not of 'cnn4': \S+, \S+, \S+ "
        r"and \d+ more differ\.$",
    ):
        build(path)


def test_weights_for_other_channels_are_one_line(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(build(channels=3).state_dict(), path)
    with pytest.raises(UserError, match=r"'cnn4': backbone.0.0.weight differ\.$"):
        build(path)


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_file_that_would_run_something_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": Harm(tmp_path / "harm")}, path)
    with pytest.raises(UserError, match=rf"'{path}' cannot be read: ") as error:
        build(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("w.pth", b"hello"),
        ("w.pth", b""),
        ("w.pth", pickle.dumps([1])),
        ("w.safetensors", b"hello"),
        ("w.safetensors", b""),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        UserError, match=r"^`model.weights` is .* cannot be re"
    ) as error:
        build(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(UserError, match=rf"'{tmp_path}/{name}' cannot be read: No"):
            build(tmp_path / name)


def test_images_that_are_too_small_name_the_key():
    with pytest.raises(
        UserError,
        match=r"^`model.name` is 'cnn4', which needs images of at least 16x16 pixels "
        r"\(`data.image-size` resizes images\)\.$",
    ):
        build(side=8)


@pytest.mark.slow
def test_torchvision_s_own_files_fit_its_networks(tmp_path):
    from torchvision.models import resnet18

    theirs = resnet18()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    name = "torchvision:resnet18"
    model = build(tmp_path / "w.pth", name, classes=4, side=64, channels=3)
    found = model.state_dict()
    assert torch.equal(
        found["backbone.network.layer4.1.conv2.weight"],
        theirs.state_dict()["layer4.1.conv2.weight"],
    )
    same_size = build(tmp_path / "w.pth", name, classes=1000, side=64, channels=3)
    assert torch.equal(same_size.head.weight, theirs.fc.weight)
    with pytest.raises(UserError, match=r"which is not of 'torchvision:resnet34': "):
        build(tmp_path / "w.pth", "torchvision:resnet34", side=64, channels=3)
