"""A set in the form of tensorflow-datasets, written and read without TensorFlow: the first pixel names the image."""

from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds


class TinyScans(tfds.core.GeneratorBasedBuilder):
    """80 images of 8x8, of ten classes."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                'image': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
                'label': tfds.features.ClassLabel(num_classes=10),
            }
        )
        return tfds.core.DatasetInfo(builder=self, description='Made up.', features=features)

    def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(range(60)), 'test': self._generate_examples(range(60, 80))}

    def _generate_examples(self, numbers):
        for number in numbers:
            image = np.random.default_rng(number).integers(0, 256, (8, 8, 1), np.uint8)
            image[0, 0, 0] = number
            yield number, {'image': image, 'label': number % 10}


def prepare(folder: Path) -> Path:
    builder = TinyScans(data_dir=folder, file_format='array_record')
    builder.download_and_prepare()
    return Path(builder.data_dir)
