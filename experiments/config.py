"""What a run is made of: typed settings."""

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Suppress


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Images."""

    name: str = 'digits'
    """'digits', a tensorflow-datasets name, a prepared directory, or a folder of images."""
    data_dir: str | None = None
    """Where tensorflow-datasets finds prepared sets."""
    validation: float = 0.1
    """Fraction of the training images set aside for the search."""
    limit: int | None = None
    """Use this many training images only."""
    image_size: int | None = None
    """Side that images of any shape are brought to; given, they are decoded as training needs them (extra grain)."""
    threads: int = 16
    """With `image_size`: threads that decode ahead of the step."""
    crop_padding: int = 0
    """Pixels of padding for random crops."""
    flip: bool = False
    """Mirror half of the training images."""


@dataclasses.dataclass(frozen=True)
class SpaceConfig:
    """The network, and the widths to choose from, as multiples of its usual ones."""

    network: str = 'mobilenet_v1'
    """Of the zoo (docs/networks.md), or `FILE.py:function` (docs/own_network.md)."""
    base_multiplier: float = 1.0
    min_multiplier: float = 0.2
    max_multiplier: float = 1.5
    levels: int = 14
    divisor: int = 8
    strides: tuple[int, ...] | None = None
    """Of the network's stages; by default the published ones, the earliest left out for images below 224x224."""
    drop_blocks: bool = False
    """Let widths inside residual branches be 0, which drops the branch: depth is searched, too."""


@dataclasses.dataclass(frozen=True)
class LatencyConfig:
    """How the device is timed."""

    runtime: Literal['xla', 'onnx', 'litert', 'command'] = 'xla'
    command: str | None = None
    """For runtime 'command': the program that times a network (docs/latency.md)."""
    command_format: Literal['none', 'onnx', 'tflite', 'int8'] = 'none'
    """For runtime 'command': the file of the network that the program is given; int8 is LiteRT in whole numbers."""
    device: str = 'unnamed'
    """For runtime 'command': the device in full, for the record."""
    networks: int = 250
    """Networks to time for the table."""
    batch: int = 8
    """Images per call."""
    dtype: Literal['float32', 'bfloat16', 'int8'] = 'float32'
    """That networks are computed in: bfloat16 by runtime 'xla', int8 by 'litert'; by 'command' as its program does."""
    attempts: int = 3
    """Times that a network whose calls disagree, or that failed, is timed in one start, at most."""
    calls: int | None = None
    """Timed calls of a visit to a network at most; by default 10, from 0.5 to 1 ms a call on fewer, 5 at least."""
    visits: int | None = None
    """Visits to a network, at most; by default 8. Fewer calls and visits suit a slow device."""
    time_limit: float = 60.0
    """For runtime 'command': seconds that an answer may take."""
    niceness: int = 0
    """Of the timing process: -10 lets it go before others where the system allows."""
    load_seconds: float = 0.0
    """Call the reference network for so long before timing begins: sustained load instead of bursts."""
    cores: tuple[int, ...] | None = (0,)
    """CPU cores the timing process is pinned to, unless XLA times an accelerator; none for no pinning."""
    compile_cores: tuple[int, ...] = (1,)
    """CPU cores on which the next networks are compiled meanwhile; none, or on an accelerator, in turn."""


@dataclasses.dataclass(frozen=True)
class SupernetConfig:
    """Training of the supernet."""

    epochs: float = 20
    batch: int = 512
    learning_rate: float = 0.1
    """Peak, per 256 images of batch."""
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 1e-5
    label_smoothing: float = 0.0
    mutation: Literal['site', 'example'] = 'site'
    """Whether one site is mutated for a whole step, each in its turn, or one of each example's own."""
    distillation: bool = True
    """Whether the smallest and the mutated network learn from the largest; if not, from the labels."""
    accumulate: int = 1
    """Parts in which a device takes its share of the batch, for less memory; each has batch statistics of its own."""
    clip_norm: float | None = None
    """Greatest norm of the gradient."""
    half_life: float = 0.25
    """Of a reward's weight in the width statistics, as a fraction of the run."""
    adaptive: bool = False
    """Narrow the draws to what can still win at the budget (AOWS), by the accuracy table where there is one."""
    adaptive_warmup: float = 0.4
    """With `adaptive`: fraction of the run with even draws."""
    hottest: float = 2.0
    """With `adaptive`: temperature after that, in units of the field's effects."""
    coldest: float = 0.2
    """With `adaptive`: temperature at the end."""
    floor: float = 0.1
    """With `adaptive`: share of draws that stay even."""
    refreshes: int = 50
    """With `adaptive`: how often in the run the draws follow the statistics."""
    start: str | None = None
    """Begin with a trained network instead of from scratch: an orbax checkpoint, or `own` for the variables that the
    function of `space.network` returns (docs/own_network.md). Recorded by what it holds."""
    recalibration_images: int = 2000
    """Training images from which batch statistics of a subnet are re-estimated."""


@dataclasses.dataclass(frozen=True)
class AccuracyConfig:
    """Short trainings of single networks, to which the accuracy field is fitted (docs/accuracy.md)."""

    trainings: int = 16
    """Networks to train; 0 to trust the supernet's rewards alone."""
    epochs: float = 0.25
    """Length of each, as a part of the final network's epochs."""
    from_supernet: bool = True
    """Start from the supernet's weights instead of from scratch; with `subnet.from_start` from that."""
    seeds: tuple[int, ...] = (0,)
    """Trainings of each; where they are as long as the final ones, these are the same and done once."""
    measure: Literal['accuracy', 'loss'] = 'loss'
    """What of their validation is fitted."""
    budgets: tuple[float, ...] = ()
    """Budgets that share them, as fractions of the base network's latency; by default the search's alone."""


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """What the found network may cost."""

    budget: float = 0.6
    """As a fraction of the base network's predicted latency."""
    budget_ms: float | None = None
    """In milliseconds per call; takes the place of `budget`."""
    also: tuple[str, ...] = ()
    """Budgets on other devices: `runs/phone:2.5` names the run that has the device's table, and ms per call."""
    multiple: int = 1
    """Widths are multiples of it."""
    least_width: int = 0
    """Channels that every site has at least; above 0 no block is dropped."""
    parameters: int | None = None
    """At most."""
    peak_kib: float | None = None
    """Memory, KiB, that the numbers which one operation reads and writes for an image take at most."""
    file_kib: float | None = None
    """Greatest size, KiB, of the LiteRT file: of network.int8.tflite where `latency.dtype` is int8."""
    frontier: int = 100
    """Budgets of the frontier."""
    ridge: float = 10.0
    """Draws' worth of shrinkage of the unaries."""
    greedy_images: int = 2000
    """Validation images that greedy's losses are taken on."""
    greedy_per_ms: bool = True
    """Whether greedy divides the rise in loss by the milliseconds saved."""


@dataclasses.dataclass(frozen=True)
class RepairConfig:
    """Timing of what the search found, until the measured latency holds the budget."""

    candidates: int = 4
    """Networks of joint search timed in a round."""
    rounds: int = 12
    """At most, should better candidates be left; 0 keeps the optimum of the table as it is."""
    confidence: float = 1.96
    """Standard errors above the measured latency that must be within the budget, too."""


@dataclasses.dataclass(frozen=True)
class SubnetConfig:
    """Training of a found network."""

    epochs: float = 200
    batch: int = 512
    learning_rate: float = 0.1
    """Peak, per 256 images of batch."""
    warmup_epochs: float = 5.0
    momentum: float = 0.9
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    mixup: float = 0.2
    accumulate: int = 1
    """Parts in which a device takes its share of the batch."""
    clip_norm: float | None = None
    """Greatest norm of the gradient."""
    from_supernet: bool = False
    """Start from the supernet's weights instead of from scratch."""
    from_start: bool = False
    """Start from the network of `supernet.start`, the most important channels of each site, as it came."""
    seeds: tuple[int, ...] = (0,)
    """Trainings of each found network; the first is the one that is exported."""
    ema: float = 0.0
    """Decay, per step, of an average of the weights that takes their place at the end; 0 for none."""


Method = Literal[
    *('joint', 'rewards', 'adaptive', 'greedy', 'uniform'),
    *('random', 'random_trained', 'flops', 'other_table'),
]


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """The forms in which the network ships, besides the two that jax reads (docs/deploy.md)."""

    weights: Literal['float32', 'bfloat16', 'int8'] = 'float32'
    """In which kernels are stored; nothing is computed in it."""
    onnx: bool = False
    """Also write network.onnx, for any batch size."""
    litert: bool = False
    """Also write network.tflite."""
    int8: bool = False
    """Also write network.int8.tflite, which computes in whole numbers, and test it."""
    batch: int = 1
    """Images per call of the LiteRT files."""
    calibration_images: int = 500
    """Training images from which the ranges of activations are taken for int8."""


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """What `compare_methods` compares."""

    budgets: tuple[float, ...] = (0.25, 0.4, 0.6)
    """As fractions of the base network's predicted latency."""
    methods: tuple[Method, ...] = (
        'joint',
        'rewards',
        'greedy',
        'uniform',
        'random',
        'random_trained',
        'flops',
    )
    """Joint search; the same by the supernet's rewards alone, also after adaptive narrowing; the baselines; and joint
    search by another cost, FLOPs or another table."""
    other_table: Path | None = None
    """For 'other_table': the run folder of that latency table."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the trainings of each network found."""


@dataclasses.dataclass(frozen=True)
class LaunchConfig:
    """How training is started and saved; it may change from one start to the next (docs/scaling.md)."""

    distributed: bool = False
    """One of several processes, which find each other by themselves: on a TPU slice, under SLURM or Open MPI."""
    coordinator: str | None = None
    """Address and port of process 0, where processes cannot find each other."""
    num_processes: int | None = None
    """With `coordinator`: how many there are."""
    process_id: int | None = None
    """With `coordinator`: which one this is, from 0."""
    trainers: int | None = None
    """Processes that train small networks side by side on a CPU, each on its share of the cores; by default as many as
    there are cores, at most 4, where memory allows; 1 for none."""
    save_every: int | None = None
    """Steps between checkpoints; by default an epoch, but at least 100."""
    keep: int = 2
    """How many of the last checkpoints are kept."""
    keep_best: int = 0
    """How many checkpoints of greatest validation accuracy are kept besides; 0 saves their evaluation."""
    hang_seconds: float | None = None
    """End the process if no step finishes for so long; by default 600 in a run of several processes, else never."""


@dataclasses.dataclass(frozen=True)
class RankingConfig:
    """What `ranking_study` looks at."""

    random: int = 200
    """Configurations whose score is set against the supernet's validation loss."""
    standalone: int = 24
    """Of these, how many are trained alone."""
    seeds: tuple[int, ...] = (0, 1)
    """Of these trainings; their accuracies are averaged."""


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What the report compares with."""

    base: bool = False
    """Whether the base network is trained and timed, too, by the recipe of the found ones."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A run."""

    preset: Suppress[str] = 'digits'
    """What its settings began from; the first word of the command line."""
    run: Path = Path('runs/digits')
    """Folder for everything it makes; give another one for other settings."""
    seed: int = 0
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()
    latency: LatencyConfig = LatencyConfig()
    supernet: SupernetConfig = SupernetConfig()
    accuracy: AccuracyConfig = AccuracyConfig()
    search: SearchConfig = SearchConfig()
    repair: RepairConfig = RepairConfig()
    subnet: SubnetConfig = SubnetConfig()
    report: ReportConfig = ReportConfig()
    export: ExportConfig = ExportConfig()
    compare: CompareConfig = CompareConfig()
    ranking: RankingConfig = RankingConfig()
    launch: LaunchConfig = LaunchConfig()
