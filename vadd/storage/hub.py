"""Repositories of the Hugging Face Hub, through the optional package huggingface_hub."""

import importlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vadd.errors import CheckpointError, ConfigError

__all__ = ["locate", "push"]

_NAME = "[A-Za-z0-9_][A-Za-z0-9_.-]*"
_REPOSITORY = re.compile(f"({_NAME}/)?{_NAME}")
_LOG_IN = "log in (`hf auth login`) or pass token="


def locate(
    path_or_repo: str | Path, files: Sequence[str], *, revision: str | None = None, token: str | bool | None = None
) -> Path:
    """The folder itself where there is one, else the named files of a repository, downloaded to the hub's cache.

    Raises:
        CheckpointError: if there is no such folder and it is no name of a repository, or the download fails.
        ConfigError: if a revision is given for a folder, or huggingface_hub is needed and missing.
    """
    path = Path(path_or_repo)
    if path.is_dir() and str(path_or_repo):  # an empty name is no word for the current folder
        if revision is not None:
            raise ConfigError(f"revision is for repositories, and {path} is a folder here: leave revision out.")
        return path
    if path.is_file():
        raise CheckpointError(f"{path} is a file: pass the folder that save_pretrained wrote.")
    if isinstance(path_or_repo, Path) or not _REPOSITORY.fullmatch(path_or_repo):
        raise CheckpointError(
            f"no folder {str(path_or_repo)!r}: pass one that save_pretrained wrote, or a repository as 'owner/name'."
        )
    package = _require_package(f"there is no folder {path_or_repo!r} here, and to download a repository of that name")
    try:
        return Path(package.snapshot_download(path_or_repo, revision=revision, token=token, allow_patterns=[*files]))
    except Exception as error:  # of the package, of its HTTP library, or of the disk
        raise CheckpointError(
            f"there is no folder {path_or_repo!r} here, and the repository of that name"
            f"{'' if revision is None else f', revision {revision!r},'} cannot be downloaded: {_reason(error)}. Check "
            f"the name and the connection; for a private repository {_LOG_IN}."
        ) from error


def push(
    save: Callable[[Path], Any],
    repo_id: str,
    files: Sequence[str],
    *,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
) -> str:
    """Commit the files that ``save`` writes to a folder, in one commit.

    Args:
        save: writes some of ``files``.
        repo_id: the repository; created if missing.
        files: names; those that are not written are removed from the repository.
        private: whether a new repository is private, and an existing one has to be.
        token: access token.
        commit_message: of the commit.

    Returns:
        The address of the commit.
    """
    package = _require_package("to push to a repository")
    with TemporaryDirectory() as name:
        folder = Path(name)
        save(folder)  # first: what cannot be saved leaves no empty repository
        try:
            api = package.HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if private is not None and bool(api.model_info(repo_id).private) != private:
                # The hub itself ignores the option for a repository that exists.
                raise ConfigError(
                    f"repository {repo_id} exists and is {'public' if private else 'private'}, private={private} was "
                    "asked for: nothing was uploaded. Change it in its settings, or leave private out."
                )
            operations: list[Any] = []
            for file in files:
                if (folder / file).exists():
                    operations.append(package.CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file))
                elif api.file_exists(repo_id, file):
                    operations.append(package.CommitOperationDelete(path_in_repo=file))
            return str(api.create_commit(repo_id, operations, commit_message=commit_message).commit_url)
        except ConfigError:
            raise
        except Exception as error:  # of the package, of its HTTP library, or of the disk
            raise CheckpointError(
                f"cannot push to repository {repo_id!r}: {_reason(error)}. Check the name and the connection, and "
                f"{_LOG_IN} of an account that may write there."
            ) from error


def _require_package(purpose: str) -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise ConfigError(f"{purpose} needs the optional package huggingface_hub: pip install 'vadd[hub]'.") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())  # some span several lines
    return f"{type(error).__name__}: {text}".rstrip(".")
