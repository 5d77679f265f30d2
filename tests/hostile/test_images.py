"""Image files of every kind and state: read as they are meant, or refused by name before training."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jcw import data
from jcw.data import pictures, splits
from tests.hostile import attacks

# Few images are enough here, so few that a part may lack a class.
pytestmark = pytest.mark.filterwarnings('ignore:no (training|validation|test) image of:UserWarning')

GREY = np.tile(np.linspace(0, 255, 12).astype(np.uint8), (10, 1))  # 10 high, 12 wide


def write(root: Path, count: int = 12, classes=('ant', 'bee'), extension: str = 'png') -> list[Path]:
    paths = []
    for index in range(count):
        folder = root / 'train' / classes[index % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(index).integers(0, 256, (10, 12, 3)).astype(np.uint8)
        paths.append(folder / f'{index:02d}.{extension}')
        Image.fromarray(noise).save(paths[-1])
    return paths


def load(root: Path, size: int | None = None, **about) -> data.Dataset:
    return data.load(str(root), image_size=size, validation=0.2, **about)


def bomb(pixels_a_side: int) -> bytes:
    """Return a PNG whose header claims a square of so many pixels; it has few bytes."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack('>I', len(content)) + name + content + struct.pack('>I', zlib.crc32(name + content))
        )

    head = struct.pack('>IIBBBBB', pixels_a_side, pixels_a_side, 8, 0, 0, 0, 0)
    content = [chunk(b'IHDR', head), chunk(b'IDAT', zlib.compress(bytes(1000))), chunk(b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(content)


POSTSCRIPT = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 10\n%%EndComments\n{1 1} loop\n'


def with_text(png: bytes, size: int) -> bytes:
    """Put a text of so many zeros into a PNG, in which it takes a thousandth."""
    content = b'key\0\0' + zlib.compress(bytes(size), 9)
    chunk = (
        struct.pack('>I', len(content)) + b'zTXt' + content + struct.pack('>I', zlib.crc32(b'zTXt' + content))
    )
    return png[:33] + chunk + png[33:]


def endless_frame() -> bytes:
    """Return a GIF whose only frame claims 65535 x 65535 pixels."""
    content = bytearray(encoded(Image.fromarray(GREY), 'GIF'))
    at = content.index(b'\x2c')
    content[at + 5 : at + 9] = b'\xff' * 4
    return bytes(content)


@pytest.mark.parametrize('size', [None, 8], ids=['in memory', 'streamed'])
@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda path: (path.unlink(), os.mkfifo(path)), 'no regular file'),
        (lambda path: (path.unlink(), path.mkdir()), 'no regular file'),
        (lambda path: (path.unlink(), path.symlink_to('/dev/zero')), 'no regular file'),
        (lambda path: (path.unlink(), path.symlink_to('nowhere')), 'No such file'),
        (lambda path: path.write_bytes(b''), 'cannot identify'),
        (lambda path: path.write_text('notes of mine'), 'cannot identify'),
        (lambda path: path.write_bytes(bomb(9000)), '81000000 pixels, more than'),
        (lambda path: path.write_bytes(bomb(40000)), 'pixels'),
        (lambda path: path.write_bytes(POSTSCRIPT), 'a program in PostScript, which is not run'),
        (lambda path: path.write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(100)), 'no pixels'),
        (lambda path: path.write_bytes(with_text(path.read_bytes(), 2**27)), 'too large'),
        (lambda path: path.write_bytes(endless_frame()), 'pixels'),
        (lambda path: (path.unlink(), path.symlink_to('..')), 'no regular file'),
    ],
    ids=[
        *('fifo', 'folder', 'device', 'dangling link', 'empty', 'text', 'bomb', 'great bomb'),
        *('postscript', 'table', 'great text', 'great frame', 'link upwards'),
    ],
)
def test_a_file_that_is_no_image_is_named_before_training(tmp_path, size, spoil, message):
    path = write(tmp_path)[5]
    spoil(path)
    with pytest.raises(ValueError, match=f'1 of .* files are not images .*05.png .*{message}'):
        load(tmp_path, size)


@pytest.mark.parametrize('size', [None, 8], ids=['in memory', 'streamed'])
@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda root: (root / 'train' / 'cat').symlink_to('cat'), 'train/cat is a link that leads nowhere'),
        (
            lambda root: (root / 'train' / 'cat').symlink_to('/no/disk'),
            'train/cat is a link that leads nowhere',
        ),
        (lambda root: (root / 'test').symlink_to('/no/disk'), 'test is no folder'),
        (lambda root: (root / 'test').write_text('notes'), 'test is no folder'),
        (
            lambda root: os.rename(root / 'train' / 'ant', os.fsencode(root / 'train') + b'/caf\xe9'),
            'not in UTF-8',
        ),
        (
            lambda root: os.rename(root / 'train/ant/00.png', os.fsencode(root / 'train/ant') + b'/\xe9'),
            'UTF-8',
        ),
        (
            lambda root: (root / 'train' / 'cat').symlink_to('.'),
            r'files are not images .*cat/\w+ \(no regular file',
        ),
    ],
    ids=[
        'loop',
        'lost class',
        'lost test',
        'test a file',
        'name of a class',
        'name of a file',
        'folder in itself',
    ],
)
def test_a_folder_that_is_not_whole_is_refused_by_name(tmp_path, size, spoil, message):
    """A class on a disk that is not there would be left out without a word, and test images drawn from the others."""
    write(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, size)


AS_NOBODY = """
import os
from PIL import Image
from jcw import data
Image.init()
if os.getuid() == 0:
    os.setuid(65534)  # root may read all
for name in ('file', 'folder'):
    try:
        data.load(name, image_size=8)
    except ValueError as error:
        print(error)
"""


def test_what_may_not_be_read_is_refused_by_name(tmp_path):
    tmp_path.chmod(0o755)
    write(tmp_path / 'file')[0].chmod(0)
    locked = write(tmp_path / 'folder')[0].parent
    locked.chmod(0)
    paths = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
    command = [sys.executable, '-c', AS_NOBODY]
    done = subprocess.run(command, cwd=tmp_path, env=paths, capture_output=True, text=True, check=True)
    locked.chmod(0o755)
    file, folder = done.stdout.splitlines()
    assert 'file/train/ant/00.png ([Errno 13] Permission denied' in file
    assert folder == 'folder/train/ant cannot be read: Permission denied'


def test_images_that_would_fill_memory_are_refused_before_one_is_decoded(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(os, 'sysconf', lambda name: {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 5}[name])
    with pytest.raises(ValueError, match=r'12 images of 10x12 take .* too much for .*--data.image-size'):
        load(tmp_path)
    monkeypatch.setattr(os, 'sysconf', lambda name: {'SC_PAGE_SIZE': 4096, 'SC_PHYS_PAGES': 6}[name])
    assert load(tmp_path).input_shape == (10, 12, 3)


def test_many_bad_files_are_counted_and_the_first_named(tmp_path):
    for path in write(tmp_path)[:7]:
        path.write_bytes(b'x')
    with pytest.raises(ValueError, match=r'7 of 10 files .* and 4 more; remove them|of .* and \d more'):
        load(tmp_path, 8)


@pytest.mark.parametrize('size', [None, 8], ids=['in memory', 'streamed'])
def test_damage_behind_the_header_is_named_when_it_is_met(tmp_path, size):
    for path in write(tmp_path, extension='jpg'):
        path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(ValueError, match=r'\d\d\.jpg.* not an image that can be read: .*truncated'):
        load(tmp_path, size)


def test_damage_met_while_training_streams_names_the_file(tmp_path):
    paths = write(tmp_path)
    train = load(tmp_path, 8).train  # whole as training begins
    for path in paths:
        path.write_bytes(path.read_bytes()[:120])
    with data.Batches(train, 2, seed=0, threads=2) as batches, pytest.raises(Exception, match=r'\d\d\.png'):
        batches(0)
    for path in paths:
        path.unlink()
    with pytest.raises(ValueError, match=r'\d\d\.png: .*No such file'):
        train.take(slice(1))


def test_sizes_and_colours_that_differ_are_refused_with_the_way_out(tmp_path):
    paths = write(tmp_path)
    Image.fromarray(GREY).save(paths[3])
    with pytest.raises(
        ValueError, match=r'found 2: .*10x12 in colour.*03.png is 10x12 in grey.*--data.image-size'
    ):
        load(tmp_path)
    Image.fromarray(GREY.T).convert('RGB').save(paths[3])
    with pytest.raises(ValueError, match=r'03.png is 12x10 in colour.*--data.image-size'):
        load(tmp_path)
    assert load(tmp_path, 8).input_shape == (8, 8, 3)


def encoded(image: Image.Image, kind: str, **about) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **about)
    return file.getvalue()


def seen(content: bytes) -> np.ndarray:
    return np.asarray(pictures.open_picture(content))


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_sixteen_bits_are_scaled_not_cut_off(kind):
    deep = Image.fromarray(GREY.astype(np.uint16) * 257)
    np.testing.assert_array_equal(seen(encoded(deep, kind)), GREY)


def test_floats_are_scaled_from_one_and_refused_beyond():
    np.testing.assert_array_equal(
        seen(encoded(Image.fromarray((GREY / 255).astype(np.float32)), 'TIFF')), GREY
    )
    for wrong in (GREY.astype(np.float32), np.full((4, 4), np.nan, np.float32), -GREY.astype(np.float32)):
        with pytest.raises(ValueError, match='where 0 to 1 are expected'):
            seen(encoded(Image.fromarray(wrong), 'TIFF'))


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('size', [None, 8], ids=['in memory', 'streamed'])
def test_images_stand_upright_as_their_camera_meant(tmp_path, orientation, size):
    """Against the table of the EXIF standard, written as operations of arrays."""
    turned = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.T,
        lambda a: np.rot90(a, -1),
        lambda a: a[::-1, ::-1].T,
        lambda a: np.rot90(a),
    ][orientation - 1]
    stored = (GREY.astype(int) * np.linspace(0.2, 1, 10)[:, None]).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(seen(encoded(Image.fromarray(stored), 'PNG', exif=exif)), turned(stored))
    for path in write(tmp_path, 6):
        Image.fromarray(stored).save(path, exif=exif)
    shape = load(tmp_path, size).input_shape
    assert shape == ((8, 8, 3) if size else (*turned(stored).shape, 1))


@pytest.mark.parametrize('mode', ['LA', 'RGBA', 'P', 'RGB key'])
def test_what_is_transparent_is_white(mode):
    alpha = Image.fromarray(np.where(np.arange(12) < 6, 0, 255)[None].repeat(10, 0).astype(np.uint8))
    black = Image.fromarray(np.zeros((10, 12), np.uint8))
    if mode == 'P':
        index = Image.fromarray((np.arange(12) >= 6)[None].repeat(10, 0).astype(np.uint8), 'L').convert('P')
        index.putpalette([9, 9, 9, 0, 0, 0])
        content = encoded(index, 'PNG', transparency=0)
    elif mode == 'RGB key':
        pixels = np.zeros((10, 12, 3), np.uint8)
        pixels[:, :6] = (1, 2, 3)
        content = encoded(Image.fromarray(pixels), 'PNG', transparency=(1, 2, 3))
    else:
        image = black.convert(mode)
        image.putalpha(alpha)
        content = encoded(image, 'PNG')
    pixels = seen(content)
    assert pixels.ndim == (2 if mode == 'LA' else 3)
    assert (pixels[:, :6] == 255).all()
    assert (pixels[:, 6:] == 0).all()


@pytest.mark.parametrize('count', [40, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_damaged_image_is_an_image_or_a_value_error(count):
    rng, outcomes = np.random.default_rng(0), {'an image': 0, 'refused': 0}
    noise = Image.fromarray(rng.integers(0, 256, (32, 40, 3)).astype(np.uint8))
    forms = [encoded(noise, kind) for kind in ('PNG', 'JPEG', 'TIFF', 'GIF', 'BMP', 'WEBP', 'PPM')]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Pillow warns of damaged metadata
        for number in range(count):
            content = attacks.damaged(forms[number % len(forms)], rng)
            try:
                image = pictures.open_picture(content, 8)
            except ValueError:
                outcomes['refused'] += 1
                continue
            assert image.mode in ('L', 'RGB')
            outcomes['an image'] += 1
    print(f'{count} damaged images: {outcomes}')
    assert min(outcomes.values()) > 0


def test_one_training_image_is_too_few(tmp_path):
    write(tmp_path, 1)
    with pytest.raises(ValueError, match='1 images cannot be split: 1 set aside leave none for training'):
        load(tmp_path)
    with pytest.raises(ValueError, match='limit must be positive, got 0'):
        data.load('digits', limit=0)


@pytest.mark.parametrize('fraction', [0.05, 0.1, 0.35])
def test_every_class_keeps_its_share_of_the_validation_images_and_of_any_beginning(fraction):
    counts = (400, 37, 100, 3, 1)
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), counts))
    for seed in range(20):
        held, rest = splits.split(labels, fraction, seed)
        assert sorted([*held, *rest]) == list(range(len(labels)))
        assert len(held) == round(fraction * len(labels))
        share = np.bincount(labels[held], minlength=5)
        assert (np.abs(share - np.multiply(counts, fraction)) <= 2).all()
        assert share[4] == 0  # the only one of its class is for training
        begun = np.bincount(labels[rest[: len(rest) // 2]], minlength=5)
        assert (np.abs(begun[:4] - np.bincount(labels[rest], minlength=5)[:4] / 2) <= 2).all()
    assert not np.array_equal(splits.split(labels, fraction, 0)[0], splits.split(labels, fraction, 1)[0])


def test_classes_that_a_part_lacks_are_named(tmp_path):
    write(tmp_path, 12, ('ant', 'bee', 'cat'))
    (tmp_path / 'test' / 'ant').mkdir(parents=True)
    (tmp_path / 'train' / 'ant' / '00.png').rename(tmp_path / 'test' / 'ant' / '00.png')
    with pytest.warns(UserWarning, match='no test image of bee, cat'):
        load(tmp_path)
    (tmp_path / 'test' / 'dog').mkdir()
    with pytest.raises(ValueError, match='test holds dog, of which there is no training image'):
        load(tmp_path)
    (tmp_path / 'train' / 'elk').mkdir()
    with pytest.raises(ValueError, match='train holds no image of elk: remove or fill the folder'):
        load(tmp_path)
