"""The examples on images: smoke runs on the real images, resumption, and what is said where there are none."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch

from vadd import RecognitionGuide, VADDModel
from vadd.backbones import DiscretizedLogisticHead
from vadd.data import make_image_tokens
from vadd.errors import DataError
from vadd.metrics import ImageClassifier, save_image_classifier
from vadd.training import read_metrics

from .scripts import module_of

pytest.importorskip("matplotlib")
pytest.importorskip("torchvision")

PICTURES = {"samples.png", "curves.png", "latents.png", "interpolation.png", "traversal.png"}
METRIC = "Fréchet distance in classifier features"


@pytest.fixture(scope="module")
def mnist():
    return module_of("binarized_mnist_svi")


@pytest.fixture(scope="module")
def cifar10():
    return module_of("cifar10_svi")


def smoke(module, out, *given):
    torch.set_num_threads(1)
    return module.main(["--preset", "smoke", "--quiet", "--out", str(out), *map(str, given)])


def folder_in(out):
    return next(path for path in out.iterdir() if not path.name.startswith("classifier-"))


@pytest.fixture(scope="module")
def mnist_run(mnist, data_root, tmp_path_factory):
    """One run of the default recipe, for all tests that read what it left."""
    out = tmp_path_factory.mktemp("mnist")
    smoke(mnist, out, "--data-root", data_root)
    return folder_in(out)


def check_report(report, num_pixels):
    """What every report must hold, of an untrained model whose pixels are nearly uniform."""
    rows = {row["name"]: row for row in report["bounds"]}
    assert list(rows)[-1] == "DELBO, the published metric"
    assert {f"finite-step, T={steps}" for steps in (1, 2, num_pixels)} <= set(rows)
    assert {"marginal", "continuous", "one jump, 25% masked"} <= set(rows)
    # One jump from everything masked is what one step does; both name their samplers.
    assert all("ancestral sampling" in rows[f"finite-step, T={steps}"]["bounds"] for steps in (1, 2))
    for row in rows.values():
        share = 0.25 if "25%" in row["name"] else 0.5 if "50%" in row["name"] else 0.75 if "75%" in row["name"] else 1
        assert row["bits_per_dim"] * 0.6931471805599453 * num_pixels * share == pytest.approx(row["nats"], rel=1e-6)
    distances = report["distances"]["rows"]
    assert [row["steps"] for row in distances] == [None, 1, 2]
    assert all(row["images_per_second"] > 0 for row in distances[1:])
    assert METRIC in distances[0]
    assert "no FID" in report["distances"]["features"]
    assert report["is_finished"]
    assert report["training"]["flops_per_update"] > 0


def test_binarized_mnist_leaves_report_pictures_and_a_model(mnist_run):
    report = json.loads((mnist_run / "report.json").read_text())["results"]
    check_report(report, 1024)
    assert "of which 240 are border" in report["unit"]
    assert next(row["bounds"] for row in report["bounds"] if row["name"].startswith("DELBO")) is None
    assert set(PICTURES) <= {path.name for path in mnist_run.iterdir()}
    assert all((mnist_run / name).stat().st_size > 5000 for name in PICTURES)
    # Untrained: binary pixels at a bit each, and far from digits.
    assert report["bounds"][0]["bits_per_dim"] == pytest.approx(1, abs=0.1)
    real, *fake = (row[METRIC] for row in report["distances"]["rows"])
    assert all(distance > 2 * real for distance in fake)

    model = VADDModel.from_pretrained(mnist_run / "model")
    guide = RecognitionGuide.from_pretrained(mnist_run / "model", model=model)
    assert guide.latent_shape == model.latent_shape == (4,)
    assert model.gate is not None
    assert model.sample(2, num_steps=2, seed=0).shape == (2, 1024)


def test_cifar10_runs_on_classes_and_without_a_latent(cifar10, data_root, tmp_path):
    given = ("--data-root", data_root, "--baseline", "mdm", "--backbone", "patch-dit", "--conditional")
    report = smoke(cifar10, tmp_path, *given, "--guidance", 1.5)
    check_report(report, 3072)
    assert report["model"] == "mdm"
    # Without a latent the published metric is a bound.
    assert report["bounds"][-1]["bounds"] == "ancestral sampling in infinitely many steps, with no latent"
    folder = folder_in(tmp_path)
    assert not (folder / "latents.png").exists()
    assert (folder / "samples.png").exists()


@pytest.mark.parametrize("recipe", [["--recipe", "default"], ["--recipe", "paper"], ["--baseline", "mdm"]])
@pytest.mark.parametrize("backbone", ["unet", "patch-dit"])
@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu-30min", "paper"])
def test_every_preset_builds_every_model(mnist, cifar10, recipe, backbone, preset):
    for example, shape, num_levels in ((mnist, (32, 32), 2), (cifar10, (32, 32, 3), 256)):
        args = example.parse(["--preset", preset, "--backbone", backbone, *recipe])
        data = SimpleNamespace(train=SimpleNamespace(image_shape=shape, num_levels=num_levels))
        with torch.device("meta"):
            model, guide = example.images.build(data, example.PRESETS[preset], args)
        assert model.has_latent == ("mdm" not in recipe)
        assert bool(list(guide.parameters())) == model.has_latent


def test_the_head_for_ordinal_values_can_be_chosen(cifar10):
    args = cifar10.parse(["--head", "logistic", "--recipe", "paper"])
    preset, noise = cifar10.PRESETS["smoke"], make_image_tokens(torch.zeros(1, 32, 32, 3).long(), num_levels=256)
    data = module_of("image_data").Data("noise", noise, noise, noise, None, "")
    model, guide = module_of("images").build(data, preset, args)
    assert isinstance(model.denoiser.head, DiscretizedLogisticHead)
    assert guide.latent_shape == model.latent_shape == (4,)


def test_the_statically_binarized_images_are_trained_on(mnist, data_root, tmp_path):
    args = mnist.parse(["--protocol", "static", "--data-root", str(data_root), "--out", str(tmp_path)])
    data = mnist.load(args, mnist.PRESETS["smoke"])
    assert data.train.image_shape == (28, 28)
    assert data.train.labels is None
    assert data.classified is not None
    assert data.classified_kind == "MNIST thresholded at 0.5"
    with pytest.raises(SystemExit, match="needs labels"):
        mnist.main(["--protocol", "static", "--preset", "smoke", "--conditional", "--data-root", str(data_root)])


@pytest.mark.parametrize("is_damaged", [False, True])
def test_why_no_distances_are_measured_is_said_before_training(
    mnist, data_root, tmp_path, monkeypatch, capsys, is_damaged
):
    root, images = tmp_path / "data", mnist.images
    root.mkdir()
    (root / "binarized_mnist").symlink_to(data_root / "binarized_mnist")
    if is_damaged:
        (root / "MNIST" / "raw").mkdir(parents=True)
        for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            (root / "MNIST" / "raw" / f"{part}-ubyte.gz").write_bytes(b"no image")
    message = "ubyte.gz is damaged or not the original" if is_damaged else f"no MNIST in {root}"

    def train(data, *_):
        said = capsys.readouterr().err
        assert "no distances will be measured: the classifier learns from MNIST's labelled images." in said
        assert message in said
        found = images.image_results.distances(None, data, mnist.PRESETS["smoke"], mnist.parse([]))
        assert found["rows"] == []
        assert message in found["features"]
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "train", train)
    with pytest.raises(KeyboardInterrupt):
        smoke(mnist, tmp_path / "out", "--protocol", "static", "--no-download", "--data-root", root)


def test_distances_of_one_kind_of_images_in_features_learned_from_another_say_so(mnist, tmp_path):
    results, data, preset = mnist.images.image_results, noise_of(2), mnist.PRESETS["smoke"]
    args = mnist.parse(["--out", str(tmp_path)])
    assert "100 training images, right" in results.network_of_features(data, preset, args)[1]
    other = dataclasses.replace(data, classified_kind="thresholded MNIST")
    assert "100 training images of thresholded MNIST, right" in results.network_of_features(other, preset, args)[1]
    narrow = noise_of(2, side=2)
    assert results.network_of_features(narrow, preset, args) == (None, "none: the classifier reads images from 4x4 on")
    one = noise_of(1)
    assert results.network_of_features(one, preset, args)[1].startswith("none: the classifier tells at least 2 classes")


def test_runs_of_every_seed_are_measured_by_the_same_classifier(mnist, tmp_path):
    results, data, preset = mnist.images.image_results, noise_of(2), mnist.PRESETS["smoke"]
    weights = []
    for seed in (0, 1):
        for out in (tmp_path / "shared", tmp_path / str(seed)):
            args = mnist.parse(["--seed", str(seed), "--out", str(out)])
            weights.append(results.network_of_features(data, preset, args)[0].head.weight)
            assert [path.name for path in out.iterdir()] == ["classifier-noise-1-0-100"]
    assert all(torch.equal(weights[0], other) for other in weights)


def test_distances_are_measured_by_a_classifier_that_was_kept(mnist, tmp_path, monkeypatch):
    images, data, preset = mnist.images, noise_of(2), mnist.PRESETS["smoke"]
    classifier = ImageClassifier((8, 8), 2, num_classes=2, width=8)
    notes = {"data": "mnist", "num_train": 60, "accuracy": 0.5, "num_test": 10}
    kept = save_image_classifier(classifier, tmp_path / "kept", notes=notes)
    without = dataclasses.replace(data, classified=None)
    given = ["--preset", "smoke", "--out", str(tmp_path / "out")]
    args = mnist.parse([*given, "--classifier", str(kept)])
    network, description = images.image_results.network_of_features(without, preset, args)
    assert torch.equal(network.head.weight, classifier.head.weight)
    assert description == (
        f"features of the classifier in {kept} trained on 60 training images of mnist, right for 50.0% of 10 test "
        "images; no FID"
    )
    # It judges what is trained, and another one may judge the same run.
    monkeypatch.setattr(images, "_run", lambda *_: {})
    images.run(without, preset, mnist.parse(given))
    images.run(without, preset, args)
    bare = save_image_classifier(classifier, tmp_path / "bare")
    assert images.image_results.network_of_features(data, preset, mnist.parse(["--classifier", str(bare)]))[1] == (
        f"features of the classifier in {bare}; no FID"
    )


def test_a_classifier_that_does_not_fit_is_told_before_training(mnist, tmp_path):
    images, data, preset = mnist.images, noise_of(2), mnist.PRESETS["smoke"]
    other = save_image_classifier(ImageClassifier((8, 9), 2, num_classes=2, width=8), tmp_path / "other")
    for folder, options, message in (
        (tmp_path / "none", [], f"^error: no classifier in {tmp_path / 'none'}: classifier.json is missing"),
        (other, [], r"reads images of shape \(8, 9\) and 2 levels, expected \(8, 8\) and 2, those of noise"),
        (other, ["--fid"], "^error: --fid and --classifier name two"),
    ):
        args = mnist.parse(["--preset", "smoke", "--out", str(tmp_path / "out"), "--classifier", str(folder), *options])
        with pytest.raises(SystemExit, match=message):
            images.run(data, preset, args)
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_where_its_time_was_up(mnist, data_root, tmp_path, monkeypatch, capsys):
    images = module_of("images")
    for name in ("evaluate", "print_tables"):  # training alone is meant here
        monkeypatch.setattr(images.image_results, name, lambda *_: {})
    monkeypatch.setattr(images.image_pictures, "write_pictures", lambda *_: None)
    given = ("--data-root", data_root, "--recipe", "paper")
    first = smoke(mnist, tmp_path, *given, "--minutes", 1e-9)
    assert (first["updates"], first["is_finished"]) == (1, False)
    assert "time is up at update 1 of 6" in capsys.readouterr().err
    second = smoke(mnist, tmp_path, *given)
    assert (second["updates"], second["is_finished"]) == (6, True)
    halves = VADDModel.from_pretrained(folder_in(tmp_path) / "model").state_dict()
    smoke(mnist, tmp_path / "whole", *given)
    whole = VADDModel.from_pretrained(folder_in(tmp_path / "whole") / "model").state_dict()
    assert all(torch.equal(halves[name], whole[name]) for name in whole)
    assert read_metrics(folder_in(tmp_path) / "training")["kl"]["step"][-1] == 6


def test_missing_weights_for_the_fid_are_told_before_training(mnist, data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^error: (the weights of the FID|FID needs)"):
        smoke(mnist, tmp_path / "out", "--data-root", data_root, "--fid")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [("binarized_mnist_svi",), ("binarized_mnist_svi", "static"), ("cifar10_svi",)])
def test_without_images_one_message_says_what_to_do(given, tmp_path):
    name, *protocol = given
    options = [
        "--data-root",
        str(tmp_path / "none"),
        "--preset",
        "smoke",
        "--no-download",
        *(["--protocol", *protocol] * len(protocol)),
    ]
    with pytest.raises(SystemExit) as ended:
        module_of(name).main(options)
    message = str(ended.value)
    assert message.startswith("error: no ")
    assert str(tmp_path / "none") in message
    assert "--data-root FOLDER" in message
    assert "--no-download" in message


def test_a_tenth_of_the_rows_has_no_label_and_every_image_is_among_them():
    data = module_of("image_data")
    pixels = torch.arange(5)[:, None, None].expand(5, 4, 4)
    rows = data.SomeWithoutLabel(make_image_tokens(pixels, torch.arange(5), num_levels=5).dataset(with_labels=True), 10)
    items = rows.__getitems__(list(range(len(rows))))
    assert len(items) == 50
    unlabelled = [int(item["x_0"][0]) for item in items if int(item["condition"]) == 10]
    assert unlabelled == list(range(5))
    labelled = [item for item in items if int(item["condition"]) != 10]
    assert all(int(item["condition"]) == int(item["x_0"][0]) for item in labelled)


def test_the_nearest_training_image_is_found_in_every_part(monkeypatch):
    pictures, data = module_of("image_pictures"), module_of("image_data")
    train = make_image_tokens(torch.randint(0, 256, (9, 4, 4)), num_levels=256, dtype=torch.uint8)
    monkeypatch.setattr(pictures, "CHUNK", 4)
    samples = train.tokens[[8, 0, 5]].long().clamp(1, 254) + 1
    for is_mirrored in (False, True):
        whole = data.Data("noise", train, train, train, None, "", is_mirrored)
        assert pictures.nearest_training_images(samples, whole).equal(train.tokens[[8, 0, 5]].long())
    flipped = train.tokens[[7, 2]].long().reshape(2, 4, 4).flip(2).flatten(1)
    assert pictures.nearest_training_images(flipped, whole).equal(flipped)


def test_images_of_any_number_of_channels_can_be_looked_at():
    pictures, data = module_of("image_pictures"), module_of("image_data")
    for shape, shown in (((4, 5), (4, 5)), ((4, 5, 1), (4, 5, 1)), ((4, 5, 3), (4, 5, 3)), ((4, 5, 2), (4, 10))):
        images = make_image_tokens(torch.randint(0, 3, (7, *shape)), num_levels=3)
        seen = pictures.to_images(images.tokens, data.Data("noise", images, images, images, None, ""))
        assert seen.shape == (7, *shown)
    assert seen[:, :, 5:].equal(images.tokens.reshape(7, 4, 5, 2)[..., 1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--conditional", "--guidance", "-1"], "--guidance must be a number"),
        (["--conditional", "--guidance", "nan"], "--guidance must be a number"),
        (["--guidance", "2"], "--guidance needs --conditional"),
        (["--num-updates", "0"], "num_updates"),
        (["--minutes", "nan"], "minutes"),
    ],
)
def test_what_is_wrong_with_the_options_is_one_message_and_takes_nothing(mnist, data_root, tmp_path, given, message):
    args = mnist.parse(["--preset", "smoke", "--out", str(tmp_path), *given])
    image_data = module_of("image_data")
    noise = make_image_tokens(torch.zeros(3, 8, 8).long(), torch.arange(3), num_levels=2)
    data = image_data.Data("noise", noise, noise, noise, None, "")
    args.again = True
    kept = mnist.images.run_folder(data, mnist.PRESETS["smoke"], args) / "kept"
    kept.parent.mkdir(parents=True)
    kept.touch()
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        mnist.images.run(data, mnist.PRESETS["smoke"], args)
    assert kept.exists()


def test_a_fid_is_one_of_fifty_thousand_samples(mnist, monkeypatch):
    results = mnist.images.image_results

    class Stub(results.InceptionFeatures):
        def __init__(self):
            pass

    few = torch.randn(20, 2)
    assert {name for name in results._compare(Stub(), few, few) if "Inception" in name}
    monkeypatch.setattr(results, "FID_SAMPLES", 20)
    assert "FID" in results._compare(Stub(), few, few)


def test_real_images_too_few_for_a_fid_are_told_apart_from_samples_in_one_table(mnist, monkeypatch, capsys):
    results, few = mnist.images.image_results, noise_of(2, num=20)

    class Stub(results.InceptionFeatures):
        def __init__(self):
            pass

        def features(self, tokens):
            return tokens[:, :3].double()

    data = dataclasses.replace(few, test=few.test.select(slice(10)))
    preset = dataclasses.replace(mnist.PRESETS["smoke"], num_samples=40, steps=(1, 2))
    monkeypatch.setattr(results, "FID_SAMPLES", 40)
    monkeypatch.setattr(results, "network_of_features", lambda *_: (Stub(), "Inception features"))
    monkeypatch.setattr(results, "draw", lambda *_, **__: torch.randint(0, 2, (40, 64)))
    found = results.distances(None, data, preset, mnist.parse(["--fid"]))
    real, *samples = found["rows"]
    assert "FID" not in real
    assert all("FID" in row for row in samples)
    report = {"is_finished": True, "model": "mdm", "data": "noise", "updates": 1, "unit": "nats", "bounds": []}
    results.print_tables({**report, "distances": found})
    head, *lines = capsys.readouterr().out.splitlines()[-4:]
    assert head.split() == ["steps", "FID", "KID", "precision", "recall", "density", "coverage", "Fréchet", "kernel"]
    assert [len(line.split()) for line in lines] == [7, 7, 7]
    assert lines[0].split()[-2:] == [f"{real[name]:.3f}" for name in list(real)[1:3]]
    assert lines[1].split()[1] == f"{samples[0]['FID']:.3f}"


def noise_of(num_classes, num=100, side=8):
    """A data set of binary noise with labels of so many classes."""
    labels = torch.arange(num) % num_classes
    noise = make_image_tokens(torch.randint(0, 2, (num, side, side)), labels, num_levels=2)
    return module_of("image_data").Data("noise", noise, noise, noise, (noise, noise), "nats per image")


@pytest.mark.parametrize("num_classes", [3, 47])
def test_a_data_set_may_have_any_number_of_classes(mnist, tmp_path, monkeypatch, num_classes):
    images, preset = mnist.images, mnist.PRESETS["smoke"]
    given = ["--preset", "smoke", "--baseline", "mdm", "--conditional", "--num-updates", "2", "--quiet"]
    args, data = mnist.parse([*given, "--out", str(tmp_path)]), noise_of(num_classes)
    model = images.train(data, preset, args, tmp_path / "run").model
    classifier, _ = images.image_results.network_of_features(data, preset, args)
    assert data.num_classes == classifier.num_classes == num_classes
    drawn = []
    monkeypatch.setattr(VADDModel, "sample", lambda _, num, *, condition, **options: drawn.append(condition))
    images.image_results.draw(model, 100, 1, preset, args)
    assert drawn[0].unique().tolist() == list(range(num_classes))


def test_the_number_of_classes_is_that_of_all_labels():
    data = noise_of(5)
    few, none = data.train.select([0, 1]), make_image_tokens(torch.zeros(2, 8, 8).long(), num_levels=2)
    make = module_of("image_data").Data
    assert make("noise", few, few, data.test, None, "").num_classes == 5
    assert make("noise", none, none, none, (few, data.test), "").num_classes == 5
    assert make("noise", none, none, none, None, "").num_classes == 0
    assert make("noise", few, few, few, None, "", num_classes=7).num_classes == 7


def test_images_that_do_not_fit_together_are_no_data_set():
    data, make = noise_of(5), module_of("image_data").Data
    none = make_image_tokens(torch.zeros(2, 8, 8).long(), num_levels=2)
    grey = make_image_tokens(torch.zeros(2, 8, 8).long(), torch.arange(2), num_levels=3)
    negative = make_image_tokens(torch.zeros(2, 8, 8).long(), torch.arange(2) - 1, num_levels=2)
    with pytest.raises(DataError, match=r"labels must lie in \[0, 4\), got values from 0 to 4 in train"):
        dataclasses.replace(data, num_classes=4)
    with pytest.raises(DataError, match=r"got values from -1 to 0 in test"):
        make("noise", data.train, data.train, negative, None, "")
    with pytest.raises(
        DataError, match=r"expected images of shape \(8, 8\) and 2 levels, .* and 3 in classified, test"
    ):
        make("noise", data.train, data.train, data.train, (data.train, grey), "")
    with pytest.raises(DataError, match="classified, train needs labels"):
        make("noise", data.train, data.train, data.train, (none, data.train), "")


def test_conditional_runs_need_labels_of_all_images(mnist, tmp_path):
    data = noise_of(3)
    none = make_image_tokens(torch.zeros(2, 8, 8).long(), num_levels=2)
    args = mnist.parse(["--preset", "smoke", "--conditional", "--out", str(tmp_path / "out")])
    mixed = module_of("image_data").Data("noise", data.train, none, none, None, "")
    with pytest.raises(SystemExit, match="needs labels, and validation, test images of noise have none"):
        mnist.images.run(mixed, mnist.PRESETS["smoke"], args)
    assert not (tmp_path / "out").exists()
