"""Presets, the starting points of runs, each with its lab record."""

from pathlib import Path

from experiments.config import (
    AccuracyConfig,
    CompareConfig,
    Config,
    DataConfig,
    LatencyConfig,
    LaunchConfig,
    RepairConfig,
    SearchConfig,
    SpaceConfig,
    SubnetConfig,
    SupernetConfig,
)

STRIDES_8 = (1, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1)
STRIDES_32 = (1, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
STRIDES_32_COARSE = (2, 1, 2, 1, 1, 1, 2, 1, 1, 1, 1, 1, 1, 1)

DIGITS = Config(
    preset='digits',
    run=Path('runs/digits'),
    data=DataConfig(name='digits', crop_padding=1),
    space=SpaceConfig(base_multiplier=0.25, levels=8, strides=STRIDES_8),
    latency=LatencyConfig(networks=40, batch=32, attempts=1),
    accuracy=AccuracyConfig(trainings=8, epochs=1.0, from_supernet=False, seeds=(0, 1, 2)),
    supernet=SupernetConfig(
        epochs=16, batch=64, learning_rate=0.4, warmup_epochs=1, recalibration_images=320
    ),
    search=SearchConfig(greedy_images=144),
    repair=RepairConfig(rounds=8),
    subnet=SubnetConfig(
        epochs=20, batch=64, learning_rate=1.0, warmup_epochs=4, label_smoothing=0, mixup=0, seeds=(0, 1, 2)
    ),
    launch=LaunchConfig(save_every=400),
)
"""Question: does the whole pipeline run in minutes where nothing but packages can be downloaded, and is its
network better than uniform and greedy ones of the same measured latency? Command: `scripts/quickstart`.
Hardware: two cores of an AMD EPYC with AVX-512. Expected: under 4 minutes, joint before both. Obtained: 183 s
(ten runs), and over thirty seeds joint 96.5 +- 0.1, uniform 92.7 +- 0.2, greedy 95.9 +- 0.2 % (`docs/results`,
which says how many networks are worth timing and training, too).
Recipe (rates are those of the batch): with 1 epoch of warm-up and 0.1, six trainings of the uniform network spread
by 2.5 points about 91.2 %, some hardly starting; with 4 epochs and 0.2, by 1.1 about 93.7; with 4 and 0.3, by 1.8
about 92.2. A network of joint search reached 95.4, 96.8 and 96.9 with 4 epochs and 0.1, 0.2 and 0.3.
Depth: with nine sites in place of 14, networks near 50 % of the base network's FLOPs differ by 0.6 points, near 30
% by 0.5, trainings of one by 1.1 and 0.9: too easy to tell methods apart.
Trainings of candidates: before, of 20 random networks near 60 % of FLOPs, a quarter of the epochs ranked the mean
accuracy of three whole trainings at 0.47 and 0.45 (loss 0.55 and 0.46), half at 0.38 and 0.40 (loss 0.41 and 0.45),
one whole training (itself in the mean) at 0.61 to 0.70 (loss 0.72 to 0.82). So candidates are trained whole, with
the final seeds.
"""
FASHION_MNIST = Config(
    preset='fashion_mnist',
    run=Path('runs/fashion_mnist'),
    data=DataConfig(name='fashion_mnist', crop_padding=2, flip=True),
    space=SpaceConfig(base_multiplier=0.25, strides=STRIDES_32),
    supernet=SupernetConfig(epochs=20, batch=128, learning_rate=0.2, warmup_epochs=1),
    subnet=SubnetConfig(epochs=40, batch=128, learning_rate=0.2, mixup=0),
)
"""A middle size, for a machine with a GPU or an evening. Not run yet."""
CIFAR10 = Config(
    preset='cifar10',
    run=Path('runs/cifar10'),
    data=DataConfig(name='cifar10', crop_padding=4, flip=True),
    space=SpaceConfig(base_multiplier=0.5, strides=STRIDES_32),
    supernet=SupernetConfig(epochs=40, batch=128, learning_rate=0.2, warmup_epochs=2),
    subnet=SubnetConfig(epochs=100, batch=128, learning_rate=0.2),
)
"""The easy cross-check: its configurations differ little. Not run yet."""
CIFAR10_MOBILENET_V2 = Config(
    preset='cifar10_mobilenet_v2',
    run=Path('runs/cifar10_mobilenet_v2'),
    data=DataConfig(name='cifar10', crop_padding=4, flip=True),
    space=SpaceConfig(network='mobilenet_v2', base_multiplier=0.5, levels=8),
    latency=LatencyConfig(batch=1),
    supernet=SupernetConfig(epochs=30, batch=128, learning_rate=0.2, warmup_epochs=2),
    subnet=SubnetConfig(epochs=60, batch=128, learning_rate=0.2, warmup_epochs=2, mixup=0),
)
"""Residual streams and inner widths at half size, strides fitted to 32x32. Not run at this size yet. Small, does it run
from start to export? `python -m experiments.quickstart cifar10_mobilenet_v2` with 3,000 images, 0.35 of the usual
widths at most, 4 epochs of the supernet and of a network, LiteRT in int8, a budget of 70 %, and three candidates, two
cores of an AMD EPYC beside other work: joint 31.2 (it took uniform's network, the best of the three), uniform 31.2,
greedy 27.5 %; `network.int8.tflite` 31.1 %. Three candidates and one seed show no more than that it runs.
"""
CIFAR10_RESNET20 = Config(
    preset='cifar10_resnet20',
    run=Path('runs/cifar10_resnet20'),
    data=DataConfig(name='cifar10', crop_padding=4, flip=True),
    space=SpaceConfig(network='resnet20', levels=8, divisor=4),
    latency=LatencyConfig(batch=1),
    supernet=SupernetConfig(epochs=30, batch=128, learning_rate=0.2, warmup_epochs=2),
    subnet=SubnetConfig(epochs=60, batch=128, learning_rate=0.2, warmup_epochs=2, mixup=0),
)
"""Basic blocks of dense 3x3 convolutions. Not run at this size yet. Small, does it run from start to export? `python -m
experiments.quickstart cifar10_resnet20` with 3,000 images, 3 epochs of the supernet, 5 of a network, base widths at
most, ONNX Runtime, a budget of 70 %, and three candidates: 518 s on two cores of an AMD EPYC beside other work; joint
38.1, uniform 33.6, greedy 41.4 %; `network.int8.tflite` 38.0 %. Three candidates and one seed show no more than that it
runs.
"""
TINY_IMAGENET100 = Config(
    preset='tiny_imagenet100',
    run=Path('runs/tiny_imagenet100'),
    data=DataConfig(name='tiny_imagenet100', crop_padding=4, flip=True),
    space=SpaceConfig(base_multiplier=0.25, levels=8, strides=STRIDES_32_COARSE),
    latency=LatencyConfig(networks=150, batch=32, attempts=2),
    supernet=SupernetConfig(
        epochs=6,
        batch=128,
        learning_rate=0.8,
        warmup_epochs=1.5,
        weight_decay=1e-4,
        recalibration_images=512,
    ),
    accuracy=AccuracyConfig(trainings=12),
    search=SearchConfig(greedy_images=1000),
    subnet=SubnetConfig(
        epochs=8,
        batch=64,
        learning_rate=0.8,
        warmup_epochs=2,
        weight_decay=1e-4,
        label_smoothing=0,
        mixup=0,
    ),
    compare=CompareConfig(
        budgets=(0.4, 0.6),
        methods=('joint', 'rewards', 'adaptive', 'greedy', 'uniform', 'flops', 'random_trained'),
    ),
)
"""Question: is joint search better than greedy, and than random search with as many trainings, where configurations
differ? Command: `python -m experiments.compare_methods tiny_imagenet100`, with the options and the results in
`docs/results/README.md`. Hardware: two cores of an AMD EPYC with AVX-512, a minute a final network.
Expected: 4 % over greedy. Obtained: see there.
Recipe: eight epochs of the uniform network at 60 % end at 12.2 % of validation images with batches of 128 and a rate
of 0.2 (warm-up 0.5 epochs, decay 1e-5), as before; with batches of 64 and one epoch of warm-up at 12.5, 16.1 and 15.0 %
with 0.4, 0.8 and 1.6, with batches of 32 at 15.2 and 16.7 % with 0.4 and 0.8; with batches of 64, two epochs of
warm-up and a decay of 1e-4 at 17.6 and 18.7 % with 0.8 and 1.6, with 5e-4 at 16.8 and 16.5 %. With 1.6 a narrow
network's three seeds end at losses of 3.38, 3.52 and 3.70, with 0.8 at 3.53, 3.53 and 3.57.
"""
IMAGENET2012 = Config(
    preset='imagenet2012',
    run=Path('runs/imagenet2012'),
    data=DataConfig(name='imagenet2012', image_size=224, validation=0.01, flip=True),
    latency=LatencyConfig(networks=600),
)
"""The publication's recipe; what it costs is computed in `docs/scaling.md`. Not run yet."""

PRESETS = {
    'digits': ('A quarter-width network on scikit-learn digits: minutes on two cores.', DIGITS),
    'fashion_mnist': ('A quarter-width network on Fashion-MNIST.', FASHION_MNIST),
    'cifar10': ('A half-width network on CIFAR-10.', CIFAR10),
    'cifar10_mobilenet_v2': ('A half-width MobileNet v2 on CIFAR-10.', CIFAR10_MOBILENET_V2),
    'cifar10_resnet20': ('ResNet-20 on CIFAR-10.', CIFAR10_RESNET20),
    'tiny_imagenet100': (
        'A quarter-width network on 100 classes at 32x32, sized so that methods can be compared on two cores.',
        TINY_IMAGENET100,
    ),
    'imagenet2012': (
        "The publication's recipe: 20 epochs of supernet, 200 of the final network.",
        IMAGENET2012,
    ),
}
