"""Bounds and distances of a model of images, in one table each."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vadd import RecognitionGuide, VADDModel
from vadd.errors import ConfigError
from vadd.evaluation import diagnose_latent
from vadd.metrics import (
    ImageClassifier,
    ImageFeatures,
    InceptionFeatures,
    frechet_distance,
    kernel_distance,
    load_image_classifier,
    prdc,
    save_image_classifier,
    train_image_classifier,
)
from vadd.registry import describe

sys.path.insert(0, str(Path(__file__).resolve().parent))
import runs  # noqa: E402
from image_data import Data, Preset, rows_of  # noqa: E402

CLASSIFIER_SEED = 0  # whatever the run's: distances compare in the features of one classifier alone
LEAST_SIDE = 4
LEAST_CLASSES = 2
FID_SAMPLES = 50_000  # of the protocol that published values follow
UNPRINTED = ("steps", "images_per_second")  # of a row of distances
MOST_COMPARED = 5000  # rows of which neighbours are sought, whose number is squared


def evaluate(
    model: VADDModel, guide: RecognitionGuide, data: Data, preset: Preset, args: argparse.Namespace
) -> dict[str, Any]:
    """Every bound, every distance and what the latent carries."""
    rows = {key: x.to(model.null_latent.device) for key, x in rows_of(data.test, preset.num_rows, args).items()}
    report: dict[str, Any] = {"bounds": runs.bounds(model, guide, rows, preset, args.seed)[0]}
    if model.has_latent:
        options: dict[str, Any] = {"num_latents": max(2, preset.num_latents), "rows_per_call": preset.rows_per_call}
        found = diagnose_latent(model, guide, **rows, **options, seed=args.seed)
        report["latent"] = runs.latent_figures(found, rows["x_0"].shape[1])
    return report | {"distances": distances(model, data, preset, args)}


def why_no_classifier(data: Data) -> str | None:
    """What keeps a classifier from being trained; None if nothing does."""
    if data.classified is None:
        return data.unclassified
    if min(data.test.image_shape[:2]) < LEAST_SIDE:
        return f"the classifier reads images from {LEAST_SIDE}x{LEAST_SIDE} on"
    if data.num_classes < LEAST_CLASSES:
        return f"the classifier tells at least {LEAST_CLASSES} classes apart, and there is one"
    return None


def network_of_features(data: Data, preset: Preset, args: argparse.Namespace) -> tuple[ImageFeatures | None, str]:
    """The network that distances are measured by, and its description.

    Raises:
        DataError: if the weights of the FID's network are missing.
        CheckpointError: if there is no classifier in the folder that ``--classifier`` names.
        ConfigError: if a classifier that was kept reads other images.
    """
    images = data.test
    if args.fid:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return InceptionFeatures(images.image_shape, images.num_levels, device=device), "Inception features"
    if folder := args.classifier:
        classifier, notes = load_image_classifier(folder)
        return _of_these_images(classifier, folder, data), _description(f"the classifier in {folder}", notes)
    if data.classified is None or why_no_classifier(data):
        return None, f"none: {why_no_classifier(data)}"
    train, test = data.classified
    kind = "-mirrored" * data.mirrored
    folder = args.out / f"classifier-{data.name}-{preset.classifier_epochs}-{CLASSIFIER_SEED}-{len(train)}{kind}"
    if not (folder / "classifier.json").exists():
        _train_classifier(folder, data, preset.classifier_epochs)
    classifier, notes = load_image_classifier(folder)
    notes |= {"num_train": len(train), "num_test": len(test), "data": data.classified_kind}
    return _of_these_images(classifier, folder, data), _description("a small classifier", notes)


def _train_classifier(folder: Path, data: Data, epochs: int) -> None:
    """Train the classifier of a data set and keep it; the same one for the runs of every seed."""
    assert data.classified is not None
    train, test = data.classified
    assert train.labels is not None
    assert test.labels is not None
    options = {"epochs": epochs, "seed": CLASSIFIER_SEED, "mirrored": data.mirrored}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokens, labels, shape = train.tokens.to(device), train.labels.to(device), (train.image_shape, train.num_levels)
    classifier = train_image_classifier(tokens, labels, *shape, num_classes=data.num_classes, **options).cpu()
    notes = {"data": data.classified_kind or data.name, "num_train": len(train), **options, "num_test": len(test)}
    save_image_classifier(classifier, folder, notes=notes | {"accuracy": classifier.accuracy(test.tokens, test.labels)})


def _of_these_images(classifier: ImageClassifier, folder: Path, data: Data) -> ImageClassifier:
    """The classifier, if it reads images like those of the data set."""
    kind, wanted = ((tuple(part.image_shape), part.num_levels) for part in (classifier, data.test))
    if kind != wanted:
        raise ConfigError(
            f"the classifier in {folder} reads images of shape {kind[0]} and {kind[1]} levels, expected {wanted[0]} "
            f"and {wanted[1]}, those of {data.name}: train one on such images with benchmarks/train_classifier.py."
        )
    return classifier


def _description(name: str, notes: dict[str, Any]) -> str:
    """Of a classifier, as far as the notes beside it tell."""
    parts = [f"features of {name}"]
    if num_train := notes.get("num_train"):
        parts[0] += f" trained on {num_train} training images" + (f" of {notes['data']}" if notes.get("data") else "")
    if "accuracy" in notes and "num_test" in notes:
        parts.append(f"right for {notes['accuracy']:.1%} of {notes['num_test']} test images")
    return ", ".join(parts) + "; no FID"


def distances(model: VADDModel, data: Data, preset: Preset, args: argparse.Namespace) -> dict[str, Any]:
    """Distances of samples from test images by number of steps, beside those of training images.

    FID is measured against all training images, those held out included, as published ones are.
    """
    network, description = network_of_features(data, preset, args)
    if network is None:
        return {"features": description, "rows": []}
    real, other = data.test.tokens[: preset.num_samples], data.train.tokens[: preset.num_samples]
    if args.fid:
        real, other = torch.cat([data.train.tokens, data.validation.tokens]), data.test.tokens
    reference = network.features(real)
    table = [{"steps": None, **_compare(network, reference, network.features(other))}]
    for steps in preset.steps:
        start = time.perf_counter()
        samples = draw(model, preset.num_samples, steps, preset, args)
        seconds = time.perf_counter() - start
        figures = _compare(network, reference, network.features(samples.cpu()))
        table.append({"steps": steps, **figures, "images_per_second": preset.num_samples / seconds})
    return {
        "features": description,
        "against": f"{len(real)} {'training' if args.fid else 'test'} images; "
        f"steps null: {len(other)} real images of the other set",
        "rows": table,
    }


def draw(
    model: VADDModel, num_samples: int, steps: int, preset: Preset, args: argparse.Namespace, **options: Any
) -> Tensor:
    """Samples; of a conditional model the classes take turns."""
    if args.conditional:
        num_classes = describe(model.denoiser)["arguments"]["num_classes"]  # that it was built with
        labels = torch.arange(num_samples, device=model.null_latent.device) % num_classes
        options |= {"condition": labels, "guidance": args.guidance}
    options |= {"batch_size": 4 * preset.rows_per_call, "progress": not args.quiet}
    return model.sample(num_samples, num_steps=steps, seed=args.seed, **options)


def _compare(network: ImageFeatures, real: Tensor, fake: Tensor) -> dict[str, float]:
    names = [network.frechet_name, network.kernel_name]
    if isinstance(network, InceptionFeatures) and min(len(real), len(fake)) < FID_SAMPLES:
        names = ["Fréchet distance in Inception features", "kernel distance in Inception features"]
    overlap = prdc(real[:MOST_COMPARED], fake[:MOST_COMPARED], k=min(5, len(real) - 1, len(fake) - 1))
    return {
        names[0]: frechet_distance(real, fake),
        names[1]: kernel_distance(real, fake),
        **overlap._asdict(),
    }


def print_tables(report: dict[str, Any]) -> None:
    """Bounds and distances, a line each."""
    runs.print_bounds(report)
    rows = report["distances"]["rows"]
    print(f"\ndistances: {report['distances']['features']}")
    if rows:
        # Fewer real images than samples are no FID, so that the rows may differ; the samples' names come first.
        names = dict.fromkeys(name for row in reversed(rows) for name in row if name not in UNPRINTED)
        short = [name.split(" distance")[0] for name in names]
        print(f"{'steps':<8}" + "".join(f"{name:>12}" for name in short))
        for row in rows:
            print(
                f"{row['steps'] or 'real':<8}"
                + "".join(f"{row[name]:>12.3f}" if name in row else " " * 12 for name in names)
            )
