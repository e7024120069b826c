"""The adapter of Zuko's flows: an optional package that leaves the rest of the program alone."""

import subprocess
import sys

import pytest
import torch

from vadd.errors import ConfigError
from vadd.priors import ZukoPrior


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ConfigError, match=r"pip install 'vadd\[flows\]', or use FlowPrior"):
        ZukoPrior(2)


def test_validation_of_distributions_stays_as_it_was():
    """Importing Zuko by itself switches it off for the whole process."""
    code = """
import torch
from vadd.priors import ZukoPrior
for setting in (True, False):
    torch.distributions.Distribution.set_default_validate_args(setting)
    ZukoPrior(2)
    assert torch.distributions.Distribution._validate_args is setting
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_draws_of_couplings_take_two_passes():
    """``passes`` is what makes drawing fast: the fully autoregressive flow needs one a component."""
    for passes, expected in ((2, 2), (None, 6)):
        flow = ZukoPrior(6, "MAF", num_layers=1, hidden_sizes=(8,), passes=passes).flow
        assert flow.transform.transforms[0].passes == expected


def test_by_default_there_are_four_layers():
    assert len(ZukoPrior(2).flow.transform.transforms) == 4


@pytest.mark.usefixtures("_unchecked")
def test_bad_options_are_refused():
    with pytest.raises(ConfigError, match='family must be "MAF" or "NSF", got \'CNF\''):
        ZukoPrior(2, "CNF")
    with pytest.raises(ConfigError, match=r"hidden_sizes\[1\] must be an integer of at least 1, got 0"):
        ZukoPrior(2, hidden_sizes=(8, 0))
    with pytest.raises(ConfigError, match="passes must be an integer of at least 1, got -1"):
        ZukoPrior(2, passes=-1)


def test_a_trained_flow_leaves_the_standard_normal():
    """Two bumps at +-1.5 in each component: their density is learned, with far more than the normal has."""
    prior = ZukoPrior(2, num_layers=2, hidden_sizes=(32,))
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.01)
    x_t, t = torch.zeros(256, 1).long(), torch.ones(256)
    losses = []
    for _ in range(150):
        z = 1.5 * (2 * torch.randint(2, (256, 2)) - 1) + 0.2 * torch.randn(256, 2)
        optimizer.zero_grad()
        loss = -prior(x_t, t).log_prob(z).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The entropy of the bumps is 2 (ln 2 + ln 0.2 + 1.42) = 1.00 nats; the standard normal costs 4.1.
    assert losses[0] > 4
    assert sum(losses[-10:]) / 10 < 1.5
