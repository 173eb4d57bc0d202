"""The optimizer against PyTorch's own, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import Conv2d, Flatten, Linear, ReLU, Sequential
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import MultiStepLR

from fairfal_flwr.client.sgd import SGD

ROOT = Path(__file__).parents[2]
MILESTONE, DECAY = 4, 0.1


def small_network() -> Sequential:
    torch.manual_seed(0)
    return Sequential(
        Conv2d(1, 4, 3), ReLU(), Flatten(), Linear(4 * 6 * 6, 8), ReLU(), Linear(8, 3)
    )


def batches(count: int):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        images = torch.rand(16, 1, 8, 8, generator=generator)
        yield images, torch.randint(3, (16,), generator=generator)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
@pytest.mark.parametrize("frozen", [False, True])
def test_every_step_is_pytorchs(momentum, weight_decay, frozen):
    settings = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay}
    ours, theirs = small_network(), small_network()
    if frozen:
        ours[0].requires_grad_(False)
        theirs[0].requires_grad_(False)
    mine = SGD(ours.parameters(), **settings, decay_after=MILESTONE, decay=DECAY)
    reference = torch.optim.SGD(theirs.parameters(), **settings, fused=True)
    schedule = MultiStepLR(reference, [MILESTONE], gamma=DECAY)
    for images, labels in batches(2 * MILESTONE):
        for network, optimizer in ((ours, mine), (theirs, reference)):
            optimizer.zero_grad()
            cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)
    assert mine.lr == pytest.approx(0.01)


@pytest.mark.slow
def test_a_training_process_does_not_import_a_compiler():
    program = (
        "import sys, torch, client_app\n"
        "from fairfal_flwr.client.training import LabeledImages, train_round\n"
        "from fairfal_flwr.config import TrainConfig\n"
        "from fairfal_flwr.models import build_model\n"
        "model = build_model('cnn4', in_channels=1, image_size=(16, 16),\n"
        "                    num_classes=2, seed=0)\n"
        "data = LabeledImages(torch.rand(2, 1, 16, 16), torch.tensor([0, 1]))\n"
        "train_round(model, data, TrainConfig(), lr=0.1, generator=torch.Generator())\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)
