"""Where training computes."""

import pytest
import torch

accelerate = pytest.importorskip("accelerate")

from vadd.training.parallel import make_accelerator  # noqa: E402


@pytest.mark.parametrize(("found", "on_cpu"), [(None, True), ("mps", True), ("cuda", False), ("xpu", False)])
def test_an_accelerator_without_double_precision_is_left_alone(found, on_cpu, monkeypatch):
    device = None if found is None else torch.device(found)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: options)
    assert make_accelerator()["cpu"] is on_cpu
