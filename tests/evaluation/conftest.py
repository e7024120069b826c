"""Float64 in all tests of the bounds."""

import pytest


@pytest.fixture(autouse=True)
def _double_everywhere(_double):
    pass
