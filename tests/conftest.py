"""Every test starts from the same global state and must leave it as it was."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pyro
import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # small tensors; parallel runs share the cores

settings.register_profile("vadd", deadline=None, print_blob=True)
settings.register_profile("vadd-ci", settings.get_profile("vadd"), derandomize=True)
settings.load_profile("vadd-ci" if os.environ.get("CI") else "vadd")


def pytest_make_parametrize_id(val: object) -> str | None:
    """Names of options and parts in test names, the same in every process: without addresses."""
    if isinstance(val, dict | torch.nn.Module):
        return re.sub(r" at 0x\w+", "", str(val))
    return None


def _global_state() -> dict[str, object]:
    # Pyro's settings hold torch's flag for the validation of distributions, too.
    return {
        "torch.get_default_dtype()": torch.get_default_dtype(),
        "torch.get_default_device()": torch.get_default_device(),
        "torch.is_grad_enabled()": torch.is_grad_enabled(),
        "torch.are_deterministic_algorithms_enabled()": torch.are_deterministic_algorithms_enabled(),
        "jaxtyping.config.jaxtyping_disable": jaxtyping.config.jaxtyping_disable,
        **{f"pyro.settings {name!r}": value for name, value in pyro.settings.get().items()},
    }


@pytest.fixture(autouse=True)
def _global_state_is_left_alone() -> Iterator[None]:
    with pyro.validation_enabled():
        before = _global_state()
        settings_before = pyro.settings.get()
        yield
        after = _global_state()
        leaks = [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
        if leaks:  # put right, so that one leak fails one test
            torch.set_default_dtype(before["torch.get_default_dtype()"])
            torch.set_default_device(before["torch.get_default_device()"])
            torch.set_grad_enabled(before["torch.is_grad_enabled()"])
            torch.use_deterministic_algorithms(before["torch.are_deterministic_algorithms_enabled()"])
            jaxtyping.config.update("jaxtyping_disable", before["jaxtyping.config.jaxtyping_disable"])
            pyro.settings.set(**settings_before)
    if leaks:
        pytest.fail("the test leaks global state: " + "; ".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def _seeds_and_parameter_store(_global_state_is_left_alone: None) -> None:
    pyro.set_rng_seed(0)  # torch, numpy and random
    pyro.clear_param_store()


@pytest.fixture
def _unchecked() -> Iterator[None]:
    """Without the type checker of the tests, as users run the library; it is slow and draws random numbers."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)


@pytest.fixture
def _double() -> Iterator[None]:
    """Float64 throughout, so that exact values and estimates differ by noise alone."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the data sets, named by the environment variable VADD_DATA."""
    name = os.environ.get("VADD_DATA")
    if not name:
        pytest.skip("VADD_DATA is not set: it names the folder of the data sets")
    root = Path(name)
    if not root.is_dir():
        pytest.fail(f"VADD_DATA is {name!r}, which is no folder", pytrace=False)
    return root
