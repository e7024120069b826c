"""A trained masked diffusion model as the start of one with a latent."""

from pathlib import Path

from vadd._checks import require_kind
from vadd.errors import ConfigError
from vadd.model import VADDModel
from vadd.storage.pretrained import CHECKPOINT
from vadd.training.checkpoint import load_checkpoint

__all__ = ["start_from_mdm"]


def start_from_mdm(model: VADDModel, mdm: VADDModel | str | Path) -> VADDModel:
    """Give the denoiser of a model the weights of a trained masked diffusion model, in place.

    Afterwards the model has the token probabilities of the masked diffusion model, whatever the latent: so have all
    bounds that draw their latents from the prior, and samples. The denoiser's path of the latent, the prior and the
    guide stay as they are; a guide or prior that shares the denoiser shares the new weights.

    Args:
        model: a model with a latent whose denoiser is built with the options of the other's, but for ``latent_shape``,
            and whose path of the latent starts at zero, as a new one does.
        mdm: a model without a latent, or where one is stored: a folder of
            :func:`~vadd.training.save_checkpoint` or :meth:`VADDModel.save_pretrained
            <vadd.model.VADDModel.save_pretrained>`, or a repository of the Hub.

    Returns:
        The same model.

    Raises:
        ConfigError: if one of the two is no model, weights have no place in the denoiser (they are named), the two have
            other processes, or the model's output would differ from the other's. Nothing is changed then.
        CheckpointError: if what is stored cannot be read.
    """
    require_kind("model", model, VADDModel)
    require_kind("mdm", mdm, (VADDModel, str, Path), "give a model, or where one is stored")
    source = _load(mdm).to(model.null_latent.device) if isinstance(mdm, str | Path) else mdm
    if not model.has_latent:
        raise ConfigError("model has no latent: load the masked diffusion model itself.")
    own, other = model.process, source.process
    if not own.is_same_as(other):
        raise ConfigError(
            f"model and mdm must have one masking process, got {own.schedule} on {own.vocab_size} tokens and "
            f"{other.schedule} on {other.vocab_size}: build the model with the mdm's schedule."
        )
    model.load_mdm(source)
    return model


def _load(source: str | Path) -> VADDModel:
    if (Path(source) / CHECKPOINT).is_file():
        return load_checkpoint(source).model
    return VADDModel.from_pretrained(source)
