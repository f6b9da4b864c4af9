"""Everything a user can set, in one page: the sections of the configuration with their bounds and defaults.

Light to import (no NumPy, no TensorFlow): the DAG builds its trigger form from it.
"""

from __future__ import annotations

import unicodedata
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from mlapp.address import fault, usable, usable_source
from mlapp.schema_cloud import Cloud, Images, Placement, Registration
from mlapp.schema_policy import Vetting
from mlapp.search_space import Dimension
from mlapp.section import Section

Architecture = Literal["cnn3", "convnet", "deepnet", "poolnet"]
Trainer = Literal["train", "distill", "baseline"]
IdxName = Literal["train-images", "train-labels", "t10k-images", "t10k-labels"]
NAME = r"^[a-z][a-z0-9_]{0,39}$"  # of a data set or a model: it becomes a folder's


def label(name: str) -> str:
    """The name of a class in Unicode's form C, if it fits a file, a line and a table; a ValueError says why not."""
    name = unicodedata.normalize("NFC", name)
    if not 0 < len(name) <= LONGEST_LABEL or not name.isprintable() or name != name.strip() or "|" in name:
        raise ValueError(f"{name[:40]!r} is no class's name: give 1 to {LONGEST_LABEL} printable characters, no |")
    return name


Label = Annotated[str, AfterValidator(label)]
LONGEST_LABEL = 100
# Where somebody may have written a secret in place of its name: no error quotes these.
UNQUOTED = frozenset({"signing", "private_key", "wandb_secret"})
# The name of the model where none is set: the data's own, but for data whose name a shipped champion has.
OWN_NAMES = {"fashion_mnist": "my_fashion_mnist"}
File = Annotated[str, AfterValidator(usable)]  # a path or URI
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Storage(Section):
    """Where each kind of file lives: local folders here, three buckets and a registry prefix in the cloud."""

    raw: File = Field("data/raw", description="raw area: the source files as extracted")
    processed: File = Field("data/processed", description="processed area: reports and training-ready splits")
    models: File = Field("models", description="models area: intermediate models and checkpoints")
    experiments: File = Field("experiments", description="one dated folder a run: resolved config and summary")
    registry: File = Field("production_models", description="vetted bundles and the pointer to the champion")


class Tracking(Section):
    """Weights & Biases and TensorBoard; changing this computes nothing again."""

    wandb: Literal["auto", "offline", "online", "off"] = Field(
        "auto",
        description="Weights & Biases; auto: online if it has a key (WANDB_API_KEY, ~/.netrc or wandb_secret), "
        "else offline, in files that `wandb sync` can send later",
    )
    project: str = Field("mlapp", pattern=r"^[\w. -]{1,100}$", description="project in Weights & Biases")
    entity: str | None = Field(
        None, pattern=r"^[\w-]{1,64}$", description="user or team in Weights & Biases; unset: the key's own"
    )
    group: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}$",
        description="the run's folder in the experiments area, and its group in Weights & Biases; "
        "unset: the day and the name of the run",
    )
    wandb_secret: str | None = Field(
        None,
        pattern=r"^projects/[^/]+/secrets/[A-Za-z0-9_-]+(/versions/([0-9]+|latest))?$",
        description="name of the secret in Secret Manager that holds the W&B key, where neither WANDB_API_KEY nor "
        "~/.netrc does; each stage fetches it with its own credentials",
    )
    tensorboard: bool = Field(True, description="write each stage's curves as TensorBoard event files")
    patience_s: float = Field(
        5.0,
        ge=0,
        le=60,
        description="most seconds that a finished stage waits for Weights & Biases; three times as long after the last",
    )
    max_file_bytes: int = Field(
        10_000_000,
        ge=0,
        description="model files up to this size are handed to Weights & Biases, larger ones by address",
    )

    @field_validator("wandb", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        """YAML takes ``off`` for false."""
        return "off" if value is False else value


class Data(Section):
    """Which data set, and where it comes from."""

    name: str = Field(
        "fashion_mnist",
        pattern=NAME,
        description="name of the data set; fashion_mnist stands for those exact 70,000 images, so give another source "
        "another name",
    )
    source: Annotated[str, AfterValidator(usable_source)] | None = Field(
        None,
        description="folder of four IDX files or of class folders, local, gs:// or http(s)://; "
        "unset: Fashion-MNIST from an installed system data set, the official URLs, or Debian's package",
    )
    sha256: dict[IdxName, Sha256] = Field(
        default_factory=dict,
        description="SHA-256 of decompressed IDX files by name (train-images, train-labels, t10k-images, t10k-labels); "
        "Fashion-MNIST's own are known and cannot be changed",
    )
    classes: tuple[Label, ...] | None = Field(
        None,
        min_length=2,
        max_length=256,
        description="names of the classes in label order; "
        "unset: Fashion-MNIST's own, the sorted names of the class folders, or 0, 1, 2 …",
    )
    max_decoded_bytes: int = Field(
        4 * 2**30, ge=2**10, description="refuse a source file that is larger than so many bytes once decompressed"
    )
    image_size: int = Field(28, ge=8, le=512, description="pixels a side that images from class folders are resized to")
    background: Literal["white", "black"] = Field(
        "white", description="what shows where pictures from class folders are transparent: white or black"
    )
    allow_private_addresses: bool = Field(
        False,
        description="follow an http(s) source's redirects to loopback, private and link-local addresses too; the "
        "address of data.source itself may always be private, but link-local only with this",
    )


class Quality(Section):
    """What the validation of raw data tolerates."""

    min_class_count: int = Field(10, ge=1, description="least images of every class in the training files")
    max_duplicates: float = Field(
        0.01, ge=0, le=1, description="most exact duplicates within one split, as a share of its images"
    )
    max_leaked: float = Field(
        0.01,
        ge=0,
        le=1,
        description="most test images that also stand in the training files, as a share of the test set",
    )
    max_constant: float = Field(0.001, ge=0, le=1, description="most one-valued images, as a share of a split")


class Transform(Section):
    """How raw data becomes training-ready splits."""

    seed: int = Field(0, ge=0, lt=2**31, description="seed of the split")
    validation_fraction: float = Field(
        1 / 12, gt=0, lt=0.5, description="share of the training files held out for every choice that is made"
    )
    test_fraction: float = Field(
        1 / 7, gt=0, lt=0.5, description="share held out for the final report, where the source has no test set"
    )
    limit: int | None = Field(
        None, ge=100, description="use at most so many training and test images each, stratified; for trying things out"
    )


class Optimization(Section):
    """What every gradient-based stage shares."""

    epochs: int = Field(8, ge=1, le=1000, description="passes over the training split")
    batch_size: int = Field(
        128,
        ge=8,
        le=65536,
        description="images a step, over all devices together; must divide by their number; halved where an epoch "
        "would have under 7 steps",
    )
    scaling: Literal["none", "linear"] = Field(
        "none",
        description="with several devices: none: batch_size is split over them, and the result does not depend on how "
        "many there are; linear: batch_size and learning_rate are multiplied by their number (Goyal et al., 2017)",
    )
    towers: int = Field(
        2,
        ge=1,
        le=64,
        description="parts of each batch that are worked at side by side; batch normalisation sees one part at a time",
    )
    optimizer: Literal["muon", "adam"] = Field(
        "muon", description="muon: orthogonalised steps for convolutions' kernels, plain ones for the rest"
    )
    learning_rate: float = Field(
        0.05,
        gt=0,
        le=1,
        description="peak learning rate; muon's is the share of its norm that a step changes a kernel by (adam: 0.01)",
    )
    schedule: Literal["constant", "one_cycle", "plateau"] = Field(
        "one_cycle",
        description="one_cycle: linear warm-up, then linear to zero; plateau: ×0.2 after 3 epochs without progress",
    )
    warmup: float = Field(0.15, ge=0, lt=1, description="share of the steps spent warming up (one_cycle)")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="probability mass spread over the other classes")
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay (AdamW) of kernels")
    augmentation: Literal["none", "light", "strong", "reference"] = Field(
        "light",
        description="light: flip, shift by one pixel; strong: cutout of 9 pixels besides; "
        "reference: the tutorials' rotation 15°, shift, shear and zoom 15 %, flip, nearest fill",
    )
    flip: bool | None = Field(
        None,
        description="show mirror images in training: true or false; unset: as the augmentation does for Fashion-MNIST, "
        "whose classes look the same mirrored, and never for other data, where left and right may differ",
    )
    patience: int = Field(10, ge=1, description="stop after so many epochs without a better validation loss")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of initial weights, order and augmentation")


class Network(Section):
    """A network's shape."""

    architecture: Architecture = Field(
        "convnet",
        description="convnet: the default; deepnet: deeper, for long trainings; poolnet: for the smallest budgets; "
        "cnn3: the tutorials' reference CNN",
    )
    depth: int = Field(1, ge=0, le=20, description="residual convolutions at a network's end (not of cnn3)")


class Training(Optimization, Network):
    """The teacher network."""

    width: float = Field(1.0, gt=0, le=8, description="multiplier of every layer's channels")
    both_sides: bool = Field(
        False,
        description="once trained with an augmentation that mirrors, answer with the mean over an image and its mirror "
        "image: more accurate, twice the latency",
    )


class Distillation(Optimization, Network):
    """The students that learn from the teacher."""

    widths: tuple[Annotated[float, Field(gt=0, le=8)], ...] = Field(
        (0.5, 0.25), min_length=1, max_length=8, description="one student for each width, as a multiplier of channels"
    )
    max_bytes: int | None = Field(
        None, ge=1000, description="narrow a student until its int8 model has at most so many bytes; unset: as it is"
    )
    sparsity: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of filters that leave in the second half of the epochs, in rounds with more distillation; "
        "max_bytes is what is left of a student that begins wider",
    )
    temperature: float = Field(2.0, ge=1, le=50, description="softening of teacher and student logits")
    alpha: float = Field(0.7, ge=0, le=1, description="weight of the teacher's soft labels against the hard ones")

    @model_validator(mode="after")
    def _room_to_prune(self) -> Self:
        if self.sparsity and self.epochs < 2:
            raise ValueError("sparsity needs at least 2 epochs: one before filters leave, one after")
        return self


class Pruning(Optimization):
    """Removing weights or whole filters from the best student, then fine-tuning with the teacher."""

    method: Literal["filters", "weights"] = Field(
        "filters", description="filters: rebuild narrower layers; weights: zero single weights (tfmot), same shapes"
    )
    sparsities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.3, 0.5), min_length=1, max_length=8, description="shares of filters or weights to remove, each tried"
    )
    rounds: int = Field(
        3, ge=1, le=20, description="filters: remove them in so many rounds, each followed by fine-tuning"
    )
    tolerance: float = Field(
        0.01,
        ge=0,
        le=1,
        description="keep the sparsest that loses at most so much of the student's validation accuracy",
    )
    temperature: float = Field(2.0, ge=1, le=50, description="softening of teacher and student logits")
    alpha: float = Field(0.7, ge=0, le=1, description="weight of the teacher's soft labels against the hard ones")


class Devices(Section):
    """Training on several GPUs of a machine, and on several machines (TF_CONFIG); no result depends on these."""

    beside_the_result: ClassVar[bool] = True

    gpus: int | None = Field(None, ge=1, le=64, description="use at most so many GPUs of each machine; unset: all")
    start_timeout: float = Field(
        900.0, ge=1, le=86400, description="seconds that a worker waits for all others to come up"
    )
    lost_timeout: float = Field(
        60.0, ge=5, le=3600, description="seconds without a sign of life after which a worker counts as lost"
    )


class Baseline(Section):
    """Boosted trees on pooled pixels and gradients, the classical model to compare the networks with."""

    rounds: int = Field(100, ge=1, le=10_000, description="most boosting rounds; each adds one tree a class")
    patience: int = Field(20, ge=5, description="stop after so many rounds without a better validation loss")
    learning_rate: float = Field(0.3, gt=0, le=1, description="share of each tree's answer that is taken")
    max_depth: int = Field(6, ge=1, le=12, description="most splits from a tree's root to a leaf")
    max_bin: int = Field(32, ge=4, le=256, description="steps that each feature is told apart in; cost grows with them")
    min_child_weight: float = Field(1.0, ge=0, le=1000, description="least sum of Hessians in a leaf")
    subsample: float = Field(1.0, ge=0.1, le=1, description="share of the images that each round learns from")
    column_sample: float = Field(0.2, ge=0.01, le=1, description="share of the features that each split may use")
    l2: float = Field(1.0, ge=0, le=1000, description="L2 penalty on the leaves' values")
    pixel_grid: int = Field(14, ge=1, le=64, description="cells a side that pixels are pooled to")
    gradient_grids: tuple[Annotated[int, Field(ge=1, le=32)], ...] = Field(
        (4, 7), max_length=4, description="cells a side that gradients are averaged in, for each grid; [] for none"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the samples of images and features")


class Export(Section):
    """Conversion to LiteRT, and how it is measured."""

    representative_images: int = Field(500, ge=10, le=10000, description="training images that set the int8 ranges")
    latency_runs: int = Field(200, ge=20, le=10000, description="timed single-image inferences on one thread")


class Selection(Section):
    """Which candidate becomes the challenger, decided on validation only."""

    prefer: Literal["smallest", "most_accurate"] = Field(
        "smallest", description="which of the models that keep to all bounds below wins"
    )
    max_accuracy_drop: float = Field(
        0.01, ge=0, le=1, description="loss of validation accuracy against the teacher that is accepted"
    )
    max_bytes: int = Field(150_000, ge=1000, description="byte budget of the model file")
    max_latency_us: float = Field(5000.0, gt=0, description="budget for one image on one thread, in microseconds")
    precision: Literal["int8", "float32", "any"] = Field("int8", description="which exported models may be chosen")


class Promotion(Section):
    """How a promoted model is filed."""

    name: str | None = Field(
        None,
        pattern=NAME,
        description="name of the model in the registry; unset: data.name, and my_fashion_mnist for the built-in "
        "Fashion-MNIST, so that a model meets the shipped champion (fashion_mnist) only where it is named",
    )
    approval: bool = Field(False, description="ask a person in Airflow before a model is promoted")
    approval_hours: float = Field(
        24.0, gt=0, le=72, description="hours to wait for a reply; no reply counts as a rejection"
    )
    unattended: bool = Field(
        False,
        description="with approval: promote without asking under `make run` and `airflow dags test`, where nobody can "
        "be asked; false: the model is held",
    )
    starter_may_approve: bool = Field(
        True,
        description="with approval: whether the person who started a run, or announced its data, may approve its "
        "model; false: that counts as a rejection, as does any approval where starter or approver is unknown",
    )


def key_place(value: str) -> str:
    """Where keys are; a ValueError that quotes nothing for what may be the key itself."""
    if "-----" in value or fault(value):
        raise ValueError("it names no file: give the path of the file that holds the key, or projects/P/secrets/S")
    return value


class Signing(Section):
    """Signatures of bundles, with elliptic-curve keys in PEM files."""

    beside_the_result: ClassVar[bool] = True

    private_key: Annotated[str, AfterValidator(key_place)] | None = Field(
        None,
        min_length=1,
        description="key that signs what is promoted: a file that nobody else may read, or projects/P/secrets/S in "
        "Secret Manager, which is never written to a disk; unset: none",
    )
    public_key: Annotated[str, AfterValidator(key_place)] | None = Field(
        None,
        min_length=1,
        description="file, URI or secret with the public keys, one PEM block each, that sign what is trusted: bundles "
        "and the lines of the history; unset: nothing need be signed",
    )


class Tuning(Section):
    """The search for good settings, before a trainer is given them."""

    trials: int = Field(0, ge=0, le=1000, description="settings to try in a search; 0: none, they stay as they are")
    trainers: tuple[Trainer, ...] = Field(
        ("train",), max_length=3, description="whose settings are searched: train (the teacher), distill, baseline"
    )
    epochs: int | None = Field(
        None, ge=1, le=1000, description="most epochs of a trial; unset: as many as the trainer's (trees: always those)"
    )
    grace_period: float = Field(
        0.25, gt=0, le=1, description="share of its epochs that every trial gets before it may be stopped early"
    )
    reduction_factor: float = Field(
        3.0, ge=1.1, le=10, description="one of so many trials goes on at each rung of successive halving (ASHA)"
    )
    concurrency: int | None = Field(
        None, ge=1, le=256, description="trials at work at once; unset: what processors and free memory allow"
    )
    cpus_per_trial: int = Field(1, ge=1, le=256, description="processors of a trial")
    memory_per_trial_mb: int = Field(
        1500, ge=100, le=1_000_000, description="memory that a trial is taken to need, in MB"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the search")
    space: Annotated[
        dict[str, Dimension], WithJsonSchema({"type": "object", "additionalProperties": {"type": "object"}})
    ] = Field(
        default_factory=dict,
        description="what to search instead of the trainer's own search space, by field of its settings: "
        "{kind: real or whole, low, high, log} or {kind: choice, of: [...]}",
    )


class Config(BaseSettings):
    """The whole configuration of a run."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="MLAPP_",
        env_nested_delimiter="__",
        case_sensitive=True,  # or a section of the wrong case is dropped where another layer sets the right one
        allow_inf_nan=False,
    )

    storage: Storage = Storage()
    tracking: Tracking = Tracking()
    data: Data = Data()
    quality: Quality = Quality()
    transform: Transform = Transform()
    training: Training = Training()
    distillation: Distillation = Distillation()
    pruning: Pruning = Pruning()
    devices: Devices = Devices()
    baseline: Baseline = Baseline()
    export: Export = Export()
    selection: Selection = Selection()
    vetting: Vetting = Vetting()
    promotion: Promotion = Promotion()
    signing: Signing = Signing()
    tuning: Tuning = Tuning()
    cloud: Cloud = Cloud()
    placement: Placement = Placement()
    images: Images = Images()
    registration: Registration = Registration()

    @model_validator(mode="after")
    def _name_the_model(self) -> Self:
        """Settle promotion.name, so that everything that reads a configuration finds the same one."""
        if self.promotion.name is None:
            named = self.promotion.model_copy(update={"name": OWN_NAMES.get(self.data.name, self.data.name)})
            object.__setattr__(self, "promotion", named)
        return self

    @property
    def model_name(self) -> str:
        """The name of the model in the registry."""
        assert self.promotion.name
        return self.promotion.name

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `mlapp.config.load` has layered: it asks the sources itself, to know where each value is from."""
        return (init_settings,)
