"""FCN-32s, 16s and 8s on CamVid's road scenes, from random weights: the gain from finer feature maps; U-Net beside."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxcnn as cnn
from experiments.common import machine, main, percent, save, table
from jaxcnn import segmentation
from jaxcnn.data.datasets.camvid import load_segmentation
from jaxcnn.data.preprocess import to_float
from jaxcnn.models.fcn import fcn
from jaxcnn.models.unet import resnet_unet


def fcn_camvid(
    data: str = "camvid", data_dir: Path | None = None, examples: int | None = None,
    strides: tuple[int, ...] = (32, 16, 8), unet: bool = False, backbone: str = "resnet18", width: int = 32,
    units: int = 256, filters: tuple[int, ...] = (128, 64, 32, 16, 16),
    epochs: int = 40, batch_size: int = 4, crop: tuple[int, int] = (128, 160), lr: float = 2e-3,
    weight_decay: float = 0.05, power: float = 0.5, dice: float = 0.0, enlarge: bool = False, seed: int = 0,
    picture: Path | None = None, full: bool = False,
) -> None:  # fmt: skip
    """Trains networks with the same backbone for the same number of steps and evaluates them on the test split.

    Args:
      data: camvid, or the path of a folder in that form.
      data_dir: where camvid lies.
      examples: number of images of each split; all when not given.
      strides: which FCNs to train: 32 is FCN-32s; none without a number.
      unet: train a U-Net on the backbone, too.
      backbone: a name in `jaxcnn.models.fcn.BACKBONES`.
      width: filters of the backbone's first stage.
      units: filters of fc6 and fc7 in a VGG backbone.
      filters: those of U-Net's five stages on the right.
      epochs: passes over the training images for each network.
      batch_size: images a step.
      crop: height and width of the window that is cropped from each image after scaling it by 0.6 to 1.6. Half of the
        pixels take half of the time. Tests use whole images.
      lr: AdamW's peak learning rate: warmup over three tenths of the steps, then decay to 0.
      weight_decay: weight decay of the kernels.
      power: exponent of the class weights by median frequency: 1 for the full weights, 0 for none.
      dice: factor of the Dice loss, which is added to the cross-entropy; 0 for none.
      enlarge: the networks see each image at twice its size, so that their maps are twice as fine (four times the
        time).
      seed: of weights, order and augmentation.
      picture: file for some test images with the networks' masks.
      full: ResNet-34 of width 64, whole images, 400 epochs (needs an accelerator).
    """
    if full:
        backbone, width, epochs, batch_size, crop = "resnet34", 64, 400, 8, (180, 240)
    train, test = (load_segmentation(data, split, data_dir) for split in ("train", "test"))
    if examples is not None:
        train, test = train.take(slice(examples)), test.take(slice(examples))
    classes, batch_size = train.classes, min(batch_size, len(train))
    weights = segmentation.median_frequency(train.labels, len(classes), power)

    @cnn.losses.per_example
    def loss(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        found = segmentation.cross_entropy(outputs, labels, weights)
        return found + dice * segmentation.dice(outputs, labels) if dice else found

    augment = cnn.data.compose(
        segmentation.flip, segmentation.scaled_crop(0.6, 1.6, crop), cnn.data.colour(0.3, 0.3, 0.3)
    )
    values = cnn.data.Preprocess.of(train.inputs)

    def preprocess(images: jax.Array) -> jax.Array:
        """Normalizes to zero mean and unit variance, at any size."""
        return (to_float(images) - jnp.array(values.mean)) / jnp.array(values.std)

    steps = epochs * (len(train) // batch_size)
    shown = np.unique(np.linspace(0, len(test) - 1, 6).round().astype(int)[1:-1])
    masks = {"image": test.inputs[shown], "truth": test.labels[shown]}
    networks = {f"FCN-{stride}s": fcn(stride, len(classes), backbone, width=width, units=units) for stride in strides}
    if unet:
        networks["U-Net"] = resnet_unet(backbone, len(classes), width=width, filters=filters)
    if enlarge:
        networks = {f"{name}, enlarged": enlarged(model) for name, model in networks.items()}
    rows = []
    for name, model in networks.items():
        optimizer = cnn.train.make_optimizer("adam", lr, "onecycle", steps, weight_decay)
        run = cnn.train.fit(
            model,
            train,
            cnn.train.Objective(loss, metrics={}, augment=augment, preprocess=preprocess),
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            seed=seed,
            show=False,
        )
        evaluate = cnn.train.make_evaluate(
            model,
            cnn.train.Objective(loss, metrics=segmentation.measures(classes), preprocess=preprocess),
            batch_size=batch_size,
        )
        found = evaluate(run.params, run.model_state, test, keep=False).metrics
        each = [found[f"iou_{one}"] for one in classes]
        rows.append([name, percent(found["mean_iou"]), percent(found["pixel_accuracy"]),
                     *[f"{100 * v:.1f}" for v in each], f"{run.result['seconds']:.0f}"])  # fmt: skip
        print("  ".join(rows[-1]), flush=True)
        masks[name] = np.asarray(jax.jit(run.outputs)(test.inputs[shown])).argmax(-1)
    print(f"\n{data}, {len(train)} training images, {len(test)} test images; {backbone} of width {width}, from random "
          f"weights, {steps:,} steps of {batch_size} each ({machine()})")  # fmt: skip
    print(table(["network", "mean IoU", "pixel accuracy", *classes, "seconds"], rows))
    if picture is not None:
        save(segmentation.figure(masks, classes), picture)


def enlarged(model: cnn.Layer) -> cnn.Layer:
    """The network on images of twice their size; each pixel's outputs are the mean of the four that it became."""
    return cnn.network(
        lambda net, x: net.shrink(net.model(net.enlarge(x))),
        enlarge=cnn.upsample(2, "bilinear"), model=model, shrink=cnn.avg_pool(2),
    )  # fmt: skip


if __name__ == "__main__":
    main(fcn_camvid)
