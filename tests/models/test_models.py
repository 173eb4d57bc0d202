"""Every network is features and one linear layer, in the shape that is promised."""

import math

import pytest
import torch

from fairfal_flwr.config import RunConfig
from fairfal_flwr.errors import UserError
from fairfal_flwr.models import (
    MODELS,
    Architecture,
    as_input,
    build_model,
    inference,
    predict,
)

SMALLEST = {"cnn4": 16, "resnet10": 9, "resnet18": 9, "mobilenet": 9}
FEATURES = {"cnn4": 64, "resnet10": 512, "resnet18": 512, "mobilenet": 1280}
# For 3 channels and 10 classes: the published sizes of the forms for CIFAR; CNN-4 by
# hand, convolutions with bias and BatchNorm; ResNet-10 is ResNet-18 without its second
# blocks, each of two convolutions of 3x3 and their BatchNorm.
PARAMETERS = {
    "cnn4": 3 * 576 + 64 + 3 * (64 * 576 + 64) + 4 * 128 + 256 * 10 + 10,
    "resnet10": 11_173_962 - sum(18 * w * w + 4 * w for w in (64, 128, 256, 512)),
    "resnet18": 11_173_962,
    "mobilenet": 2_236_682,
}


def build(name, side=28, *, channels=1, classes=10, seed=0):
    return build_model(
        name,
        in_channels=channels,
        image_size=(side, side),
        num_classes=classes,
        seed=seed,
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_features_and_logits_have_their_shapes(name, channels):
    model = build(name, channels=channels, classes=7)
    images = torch.rand(2, channels, 28, 28)
    model.eval()
    features, logits = model.features_and_logits(images)
    assert features.shape == (2, FEATURES[name])
    assert logits.shape == (2, 7)
    assert torch.equal(logits, model(images))
    assert torch.equal(logits, model.head(features))


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_image_trains_in_a_batch_of_one(name):
    side = SMALLEST[name]
    build(name, side).train()(torch.rand(1, 1, side, side)).sum().backward()
    with pytest.raises(ValueError, match="needs images of at least"):
        build(name, side - 1)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_size_is_the_known_one(name):
    model = build(name, 32, channels=3)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_blocks_without_convolution_are_identities_on_the_way_around():
    from fairfal_flwr.models.resnet import BasicBlock

    assert len(BasicBlock(8, 8, 1).shortcut) == 0
    assert len(BasicBlock(8, 8, 2).shortcut) == 2


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_determines_the_weights_and_leaves_torch_alone(name):
    state = torch.random.get_rng_state()
    first, same, other = (build(name, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [model.state_dict() for model in (first, same, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert any(not torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


@pytest.mark.parametrize("name", ["resnet", "torchvision:", "torchvision:a b", ""])
def test_the_config_refuses_unknown_architectures(name):
    with pytest.raises(UserError, match=r"`model.name` is .*; allowed: cnn4, resnet10"):
        RunConfig.from_flat({"model.name": name})


@pytest.mark.parametrize("name", [*MODELS, "torchvision:resnet18"])
def test_the_config_takes_known_ones(name):
    assert RunConfig.from_flat({"model.name": name}).model.name == name


def test_the_rule_for_grey_images_is_said():
    def rule(name, channels):
        images = torch.empty(0, channels, 8, 8)
        return Architecture.for_images(name, "", images, 2).input_rule

    assert "repeated three times" in rule("torchvision:resnet18", 1)
    assert "as they are" in rule("torchvision:resnet18", 3)
    assert "as they are" in rule("resnet18", 1)


def test_an_architecture_takes_its_shape_from_images_if_there_are_any_or_not():
    images = torch.empty(0, 3, 20, 30, dtype=torch.uint8)
    architecture = Architecture.for_images("cnn4", "", images, 6)
    assert architecture == Architecture("cnn4", "", 3, (20, 30), 6)
    model = architecture.build(seed=2)
    same = build_model(
        "cnn4", in_channels=3, image_size=(20, 30), num_classes=6, seed=2
    )
    assert model(torch.rand(2, 3, 20, 30)).shape == (2, 6)
    assert all(map(torch.equal, model.parameters(), same.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "features"),
    [
        *(("resnet18", 64, 512), ("mobilenet_v3_small", 32, 1024)),
        *(
            ("densenet121", 32, 1024),
            ("squeezenet1_0", 64, None),
            ("vit_b_32", 64, 768),
        ),
        *(("efficientnet_b0", 32, 1280), ("swin_t", 64, 768), ("alexnet", 32, None)),
        *(("regnet_y_400mf", 32, 440), ("vit_b_32", 64, 768)),
    ],
)
def test_classifiers_of_torchvision(name, side, features):
    name = f"torchvision:{name}"
    if features is None:
        with pytest.raises(ValueError, match=r"linear layer|does not take 32x32"):
            build(name, side, channels=3)
        return
    model = build(name, side, channels=3, classes=5).eval()
    images = torch.rand(2, 3, side, side)
    found, logits = model.features_and_logits(images)
    assert found.shape == (2, features)
    assert logits.shape == (2, 5)
    assert model.head.in_features == features


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "side", "smallest"),
    [("resnet18", 32, 2), ("resnet18", 64, 1), ("alexnet", 64, 1), ("vit_b_32", 32, 1)],
)
def test_batchnorm_over_one_pixel_needs_two_images(name, side, smallest):
    model = build(f"torchvision:{name}", side, channels=3).train()
    assert model.smallest_batch == smallest
    assert model(torch.rand(smallest, 3, side, side)).isfinite().all()
    if smallest == 2:
        with pytest.raises(ValueError, match="more than 1 value"):
            model(torch.rand(1, 3, side, side))


@pytest.mark.slow
def test_grey_images_go_into_torchvision_three_times():
    grey = build("torchvision:resnet18", 64).eval()
    color = build("torchvision:resnet18", 64, channels=3).eval()
    images = torch.rand(2, 1, 64, 64)
    assert torch.equal(grey(images), color(images.repeat(1, 3, 1, 1)))


@pytest.mark.slow
def test_an_unknown_classifier_names_near_ones():
    with pytest.raises(ValueError, match=r"no such classifier; near: resnet18"):
        build("torchvision:resnet81", 64, channels=3)
    with pytest.raises(ValueError, match="no such classifier"):
        build("torchvision:fasterrcnn_resnet50_fpn", 64, channels=3)


def test_rows_are_predicted_as_if_they_were_all_there_is(monkeypatch):
    monkeypatch.setattr(inference, "BATCH_SIZE", 4)
    model = build("cnn4", 16, classes=3)
    images = torch.randint(0, 256, (20, 1, 16, 16), dtype=torch.uint8)
    rows = torch.tensor([19, 3, 3, 0, 7, 11])
    for found, expected in zip(
        predict(model, images, [0.5], [0.25], rows=rows),
        predict(model, images[rows], [0.5], [0.25]),
        strict=True,
    ):
        assert torch.equal(found, expected)
    probs, features = predict(model, images, [0.5], [0.25], rows=rows[:0])
    assert probs.shape == (0, 3)
    assert len(features) == 0


def test_pixels_are_normalized_by_hand():
    images = torch.tensor([[[[0, 255]], [[51, 102]]]], dtype=torch.uint8)
    found = as_input(images, mean=[0.5, 0.2], std=[0.5, 0.1])
    assert found.dtype == torch.float32
    assert found.flatten().tolist() == pytest.approx([-1.0, 1.0, 0.0, 2.0], abs=1e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_a_prediction_is_the_softmax_of_each_image_by_itself(monkeypatch, training):
    monkeypatch.setattr(inference, "BATCH_SIZE", 3)
    model = build("cnn4", 16, channels=3, classes=4).train(training)
    before = {name: w.clone() for name, w in model.state_dict().items()}
    images = torch.randint(0, 256, (7, 3, 16, 16), dtype=torch.uint8)
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    probs, features = predict(model, images, mean, std)
    assert model.training == training
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    model.eval()
    for image, row, feature in zip(images, probs, features, strict=True):
        planes = [(image[c] / 255.0 - mean[c]) / std[c] for c in range(3)]
        slow = model.backbone(torch.stack(planes)[None])[0]
        assert torch.allclose(feature, slow, atol=1e-5)
        exponents = [
            float(weights @ slow + bias)
            for weights, bias in zip(model.head.weight, model.head.bias, strict=True)
        ]
        whole = sum(math.exp(value) for value in exponents)
        plain = [math.exp(value) / whole for value in exponents]
        assert row.tolist() == pytest.approx(plain, abs=1e-5)
    assert probs.std(dim=0).max() > 1e-4  # other images, other answers
