"""Fixtures of the tests of priors."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def _unchecked() -> Iterator[None]:
    """Without the type checker of the tests, as users run the library."""
    disabled = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", disabled)
