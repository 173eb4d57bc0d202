"""What the tests of the query strategies share."""

from collections.abc import Iterator

import pytest
import torch
from worlds import World


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Tensors are tiny here: waiting for a second thread takes longer than it helps."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world() -> World:
    """Return a pool of 60 with 12 labels in 4 classes."""
    return World(num_pool=60, num_classes=4)
