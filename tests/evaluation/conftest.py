"""Float64 throughout, so that enumerated values and estimates differ by noise alone."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _double():
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)
