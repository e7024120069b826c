"""Repositories of the hub, which is played by a folder: calls that the real package accepts, and their failures."""

import inspect
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from vadd import RecognitionGuide, VADDModel
from vadd.errors import CheckpointError, ConfigError

from .pairs import assert_same_guide, assert_same_model, names, pair

FILES = ["config.json", "guide.safetensors", "model.safetensors"]


class Hub:
    """Stands for the hub: repositories are folders, calls must fit the signatures of the real package."""

    def __init__(self, root, calls):
        self.root, self.calls = root, calls
        self.private = {}

    def record(self, real, name, args, kwargs):
        inspect.signature(real).bind(*args, **kwargs)
        self.calls.append((name, kwargs))

    def snapshot_download(self, *args, **kwargs):
        self.record(REAL_DOWNLOAD, "snapshot_download", args, kwargs)
        repository = self.root / args[0]
        if not repository.is_dir():
            raise ConnectionError("404 Client Error.\n\nRepository Not Found")
        folder = self.root / "cache" / args[0]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for path in repository.iterdir():
            if path.name in kwargs["allow_patterns"]:
                shutil.copy(path, folder)
        return str(folder)

    def api(self, token=None):
        self.calls.append(("HfApi", {"token": token}))
        return Api(self)


REAL_DOWNLOAD = huggingface_hub.snapshot_download
REAL_API = huggingface_hub.HfApi


class Api:
    def __init__(self, hub):
        self.hub = hub

    def record(self, name, args, kwargs):
        self.hub.record(getattr(REAL_API, name), name, (self, *args), kwargs)

    def create_repo(self, *args, **kwargs):
        self.record("create_repo", args, kwargs)
        assert kwargs["exist_ok"]
        name = args[0] if "/" in args[0] else f"me/{args[0]}"
        if not (self.hub.root / name).exists():
            (self.hub.root / name).mkdir(parents=True)
            self.hub.private[name] = bool(kwargs["private"])
        return SimpleNamespace(repo_id=name)

    def model_info(self, *args, **kwargs):
        self.record("model_info", args, kwargs)
        return SimpleNamespace(private=self.hub.private[args[0]])

    def file_exists(self, *args, **kwargs):
        self.record("file_exists", args, kwargs)
        return (self.hub.root / args[0] / args[1]).exists()

    def create_commit(self, *args, **kwargs):
        self.record("create_commit", args, kwargs)
        repository = self.hub.root / args[0]
        for operation in args[1]:
            if isinstance(operation, huggingface_hub.CommitOperationAdd):
                shutil.copy(operation.path_or_fileobj, repository / operation.path_in_repo)
            else:
                (repository / operation.path_in_repo).unlink()
        return SimpleNamespace(commit_url=f"https://hub/{args[0]}/commit/1")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub(tmp_path / "hub", [])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", hub.api)
    monkeypatch.chdir(tmp_path)
    return hub


def calls(hub, name):
    return [kwargs for called, kwargs in hub.calls if called == name]


@pytest.mark.parametrize("kind", ["plain", "vamp"])
def test_what_is_pushed_comes_back(hub, kind):
    model, guide = pair(kind)
    url = model.push_to_hub("someone/model", guide=guide, notes={"step": 3})
    assert url == "https://hub/someone/model/commit/1"
    assert names(hub.root / "someone/model") == FILES
    loaded = VADDModel.from_pretrained("someone/model")
    assert_same_model(loaded, model)
    assert_same_guide(RecognitionGuide.from_pretrained("someone/model", model=loaded), guide)


def test_exactly_the_three_files_of_a_revision_are_downloaded(hub):
    model, guide = pair()
    model.push_to_hub("someone/model", guide=guide)
    (hub.root / "someone/model/pytorch_model.bin").write_text("a pickle")
    loaded = VADDModel.from_pretrained("someone/model", revision="v1", token="secret")
    RecognitionGuide.from_pretrained("someone/model", model=loaded, revision="v2")
    first, second = calls(hub, "snapshot_download")
    assert sorted(first["allow_patterns"]) == FILES
    assert (first["revision"], first["token"]) == ("v1", "secret")
    assert (second["revision"], second["token"]) == ("v2", None)


def test_the_three_files_are_pushed_in_one_commit(hub):
    model, guide = pair()
    model.push_to_hub("model", guide=guide, private=True, token="secret", commit_message="Step 3")
    assert hub.private == {"me/model": True}
    assert calls(hub, "HfApi") == [{"token": "secret"}]
    assert calls(hub, "create_commit") == [{"commit_message": "Step 3"}]
    assert names(hub.root / "me/model") == FILES


def test_a_push_without_a_guide_removes_the_earlier_guide_and_nothing_else(hub):
    model, guide = pair()
    model.push_to_hub("someone/model", guide=guide)
    (hub.root / "someone/model/README.md").write_text("mine")
    model.push_to_hub("someone/model")
    assert names(hub.root / "someone/model") == ["README.md", "config.json", "model.safetensors"]
    model.push_to_hub("someone/model")  # nor is it looked for where there is none
    assert_same_model(VADDModel.from_pretrained("someone/model"), model)


@pytest.mark.parametrize("private", [True, False])
def test_an_existing_repository_of_the_other_visibility_gets_nothing(hub, private):
    model, _ = pair()
    model.push_to_hub("someone/model", private=not private)
    (hub.root / "someone/model/model.safetensors").write_text("earlier")
    with pytest.raises(ConfigError, match=r"someone/model exists and is .*nothing was uploaded"):
        model.push_to_hub("someone/model", private=private)
    assert (hub.root / "someone/model/model.safetensors").read_text() == "earlier"
    model.push_to_hub("someone/model")
    VADDModel.from_pretrained("someone/model")


def test_what_cannot_be_stored_makes_no_repository(hub):
    model, _ = pair("vamp")
    with pytest.raises(ConfigError, match="pass guide="):
        model.push_to_hub("someone/model")
    assert hub.calls == []


def test_a_local_folder_comes_first(hub, tmp_path):
    model, _ = pair()
    model.push_to_hub("someone/model")
    other, _ = pair()
    other.save_pretrained("someone/model")  # in the current folder
    assert_same_model(VADDModel.from_pretrained("someone/model"), other)
    assert calls(hub, "snapshot_download") == []
    with pytest.raises(ConfigError, match="revision is for repositories"):
        VADDModel.from_pretrained("someone/model", revision="main")


def test_a_failed_download_names_repository_reason_and_remedy(hub):
    with pytest.raises(CheckpointError) as caught:
        VADDModel.from_pretrained("someone/nothing", revision="v1")
    text = str(caught.value)
    assert "no folder 'someone/nothing' here" in text
    assert "revision 'v1'" in text
    assert "ConnectionError: 404 Client Error. Repository Not Found. Check the name" in text
    assert "hf auth login" in text
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_a_failed_push_names_repository_reason_and_remedy(hub, monkeypatch):
    def fail(*args, **kwargs):
        raise PermissionError("403 Forbidden")

    monkeypatch.setattr(Api, "create_commit", fail)
    model, _ = pair()
    with pytest.raises(CheckpointError, match=r"'someone/model': PermissionError: 403 Forbidden\. .*hf auth login"):
        model.push_to_hub("someone/model")


def test_a_repository_of_another_kind_is_told(hub):
    (hub.root / "someone/other").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        VADDModel.from_pretrained("someone/other")
    (hub.root / "someone/other/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match=r"another architecture .*'bert'"):
        VADDModel.from_pretrained("someone/other")


@pytest.mark.parametrize(
    "source", [Path("someone/model"), "/nowhere/at/all", "./model", "../model", "a/b/c", "", "a b", "~/model", "a//b"]
)
def test_what_can_be_no_repository_is_not_asked_for(hub, source):
    with pytest.raises(CheckpointError, match=r"no folder .*save_pretrained"):
        VADDModel.from_pretrained(source)
    assert hub.calls == []


def test_a_file_in_the_place_of_a_folder_is_told(hub, tmp_path):
    pair()[0].save_pretrained("model")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is a file: pass the folder"):
        VADDModel.from_pretrained("model/model.safetensors")


def test_without_the_package_the_remedy_is_named_and_folders_are_read(hub, monkeypatch):
    model, _ = pair()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"no folder 'someone/model' here, .*pip install 'vadd\[hub\]'"):
        VADDModel.from_pretrained("someone/model")
    with pytest.raises(ConfigError, match=r"pip install 'vadd\[hub\]'"):
        model.push_to_hub("someone/model")
    assert_same_model(VADDModel.from_pretrained(model.save_pretrained("model")), model)
