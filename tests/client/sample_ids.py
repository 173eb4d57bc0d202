"""Samples as a ledger takes them."""

import numpy as np
from numpy.typing import NDArray


def ids(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
