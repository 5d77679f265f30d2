"""The preset for images of one's own: settings that follow from how many there are, and how large."""

import math
import re
from pathlib import Path

from experiments.config import (
    AccuracyConfig,
    Config,
    DataConfig,
    LatencyConfig,
    RepairConfig,
    ReportConfig,
    SearchConfig,
    SpaceConfig,
    SubnetConfig,
    SupernetConfig,
)
from jcw import data

FEW = 3
"""Validation images that every class should have."""
MANY = 20_000
"""Training images from which one seed tells as much as three of fewer."""


def own(settings: DataConfig) -> Config:
    """Return settings for a set: sized by its images, for budgets of one image a call.

    | setting | rule |
    |---|---|
    | base multiplier | 0.25 below a side of 48, 0.5 below 128, else 1 |
    | strides | the published ones, the earliest left out for small images |
    | validation | a tenth, or more, up to a quarter, so that every class has three images |
    | batch | a power of two, about a fortieth of the training images, from 16 to 256 |
    | epochs of the supernet | 20 for 1300 images and more; for fewer, more, with the root of the number, to 100 |
    | epochs of a found network | twice as many |
    | short trainings | whole ones of sets below 5,000 images, else a quarter as long, from the supernet |

    Raises:
      ValueError: there is no such set.
    """
    about = data.outline(settings.name, settings.data_dir, image_size=settings.image_size)
    validation = min(max(settings.validation, FEW / max(about.fewest, 1)), 0.25)
    images = max(round(about.training * (1 - validation)), 1)
    images = images if settings.limit is None else min(images, settings.limit)
    side = min(about.image_shape[:2])
    batch = min(max(2 ** round(math.log2(images / 40)), 16), 256, images)
    epochs = min(max(round(20 * (1300 / images) ** 0.5), 20), 100)
    return Config(
        preset='own',
        run=Path('runs') / _folder_name(settings.name),
        data=DataConfig(
            name=settings.name,
            validation=round(validation, 3),
            crop_padding=0 if settings.image_size else side // 8,
        ),
        space=SpaceConfig(base_multiplier=0.25 if side < 48 else 0.5 if side < 128 else 1.0, levels=8),
        latency=LatencyConfig(networks=180, batch=1, attempts=2),
        supernet=SupernetConfig(
            epochs=epochs,
            batch=batch,
            learning_rate=0.4,
            warmup_epochs=1,
            recalibration_images=min(2000, images),
        ),
        accuracy=AccuracyConfig(trainings=14, epochs=1.0, from_supernet=False)
        if images < 5000
        else AccuracyConfig(trainings=14),
        search=SearchConfig(greedy_images=min(2000, max(about.training - images, 1))),
        repair=RepairConfig(rounds=6),
        subnet=SubnetConfig(
            epochs=2 * epochs,
            batch=batch,
            learning_rate=0.4,
            warmup_epochs=2,
            label_smoothing=0 if images < MANY else 0.1,
            mixup=0,
            seeds=(0, 1, 2) if images < MANY else (0,),
        ),
        report=ReportConfig(base=True),
    )


def _folder_name(name: str) -> str:
    return re.sub(r'[^\w.-]+', '_', Path(name).resolve().name if '/' in name else name) or 'own'
