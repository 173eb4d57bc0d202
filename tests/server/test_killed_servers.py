"""A seeded sample of `tests/soak/resume.py`: a killed server goes on exactly."""

import pytest
from soak.resume import CASES, survive


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_killed_campaign_ends_as_if_nobody_had_disturbed_it(tmp_path, case):
    kills, differences = survive(tmp_path, case, kills=2, seed=1)
    assert differences == []
    assert kills > 0
