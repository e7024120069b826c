"""Run-time checks of shapes, dtypes and types, for the whole package, on request.

With ``VADD_TYPECHECK=1`` in the environment, importing the package makes every annotation an
enforced one; a violation raises ``jaxtyping.TypeCheckError``. Otherwise nothing is imported, wrapped
or slowed down.
"""

import importlib.util
import os

_VARIABLE = "VADD_TYPECHECK"


def _install() -> None:
    setting = os.environ.get(_VARIABLE, "")
    if setting in ("", "0"):
        return
    from vadd.errors import ConfigError

    if setting != "1":
        raise ConfigError(f"the environment variable {_VARIABLE} must be 0 or 1, got {setting!r}.")
    if importlib.util.find_spec("beartype") is None:
        raise ConfigError(
            f"{_VARIABLE}=1 needs the package beartype: pip install 'vadd[typecheck]', or unset the variable."
        )
    import warnings

    from beartype.roar import BeartypeDecorHintPep585DeprecationWarning
    from jaxtyping import install_import_hook

    # It speaks of annotations in Pyro's base classes, which nobody here can change.
    warnings.filterwarnings("ignore", category=BeartypeDecorHintPep585DeprecationWarning)
    install_import_hook("vadd", "beartype.beartype")


_install()
