"""What a run is: `RunSpec`, everything that changes a result, and the presets that differ by its values only.

Belongs here: values and their validation. Not here: code paths per profile; there are none. Paper section 3 and
appendix (set-up); the laptop values come from measurements logged in DECISIONS.md.
"""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields, replace

from uvlm_core.conversations import TASKS, AttributeBias
from uvlm_core.distortion import SIDES, Distortion
from uvlm_core.smart_watch import ATTRIBUTES, HOURS, WORLD_VERSION

ARCHITECTURES = ("SigLIP-VQ", "VQ-VQ", "SigLIP-SigLIP", "VQ-SigLIP")  # understanding input - generation output
REGIMES = ("understanding", "generation", "unified")
TUNINGS = ("full", "lora", "frozen")
OPTIMIZERS = ("muon", "adamw")
FEATURE_LOSSES = ("cosine", "mse")
PRECISIONS = ("fp32", "bf16")
COUNTED = ("understanding", "generation", "all")  # rows that fill a step
_CHOICES = {"architecture": ARCHITECTURES, "regime": REGIMES, "tuning": TUNINGS, "optimizer": OPTIMIZERS,
            "batch_counts": COUNTED, "feature_loss": FEATURE_LOSSES, "hours": HOURS, "precision": PRECISIONS}
_LEAST = {"seed": 0, "image_size": 32, "images": 1, "vqa_examples": 0, "caption_examples": 0, "generation_examples": 0,
          "turns": 1, "fewest_turns": 0, "test_watches": 1, "generated_watches": 2, "probe_watches": 0, "lora_rank": 1,
          "lora_alpha": 1, "batch_size": 1, "threads": 1}
_MOST = {"seed": 2**32 - 1, "image_size": 1024, "turns": len(ATTRIBUTES)}  # numpy's seeds, `render`, a question each


@dataclass(frozen=True)
class RunSpec:
    """One training run as a value. Two equal specs give the same metrics, bit for bit, on one machine."""

    # the arm
    architecture: str = "VQ-VQ"
    regime: str = "unified"
    seed: int = 0
    # the data: all counts are of training rows; a vqa row is one conversation about one image
    world: int = WORLD_VERSION
    image_size: int = 64  # px
    images: int = 14000  # the pool of training images that all rows and all seeds draw from
    vqa_examples: int = 9400
    caption_examples: int = 600
    generation_examples: int = 14000
    turns: int = 5  # questions per vqa row, at most
    fewest_turns: int = 0  # as many are drawn as from here to `turns`, as the paper's 1 to 4; 0: always `turns`
    mention_rate: float = 0.8  # of each attribute but the time in captions and requests; the paper has 0.5
    biases: tuple[AttributeBias, ...] = ()
    distortions: tuple[Distortion, ...] = ()  # of what the LM reads, at most one a side
    shuffled_requests: bool = False  # control: every generation request is paired with another row's image
    shuffled_attributes: tuple[str, ...] = ()  # control: what requests say of these is another row's watch's
    pictures: str = ""  # instead of watches: "stamps", "watches" as files, or a caption file (`pictures.py`)
    picture_folder: str = ""  # of a caption file's pictures
    sam_pictures: bool = False  # whether LLaVA rows about SAM's pictures are read (the authors leave them out)
    hours: int = 12  # 13: the authors' hours 0..12, of which 0 and 12 look the same (pitfall 10)
    # the networks: a shipped name, a local folder or a hub id
    language_model: str = "pretrained/language_model"
    tokenizer: str = "pretrained/tokenizer"
    semantic_encoder: str = "pretrained/siglip"
    vq_tokenizer: str = "pretrained/vq"
    reader: str = "pretrained/reader"  # of VQ output's pixels; "" for none
    feature_reader: str = "pretrained/siglip_reader"  # of `semantic_encoder`'s features; "" for none
    feature_decoder: str = "pretrained/siglip_decoder"  # the same
    shared_adapter: bool = True  # the paper's assignment where input and output space are one; pitfall 2
    adapter_positions: bool = True  # learned embeddings of row and column on image slots; the paper has none
    inception: str = ""  # a file of torch-fidelity's Inception v3, for FID; "" for none
    # the training
    tuning: str = "full"
    precision: str = "fp32"  # of the language model; "bf16" computes the rest of a step in it, too
    activation_checkpointing: bool = False  # less memory, about a third more time, the same numbers
    lora_rank: int = 128
    lora_alpha: int = 256
    optimizer: str = "muon"
    learning_rate: float = 0.01  # of the language model (Muon: of its matrices)
    momentum: float = 0.9  # of Muon; AdamW has its own
    adapter_learning_rate: float = 2e-3  # of adapters and head; with Muon also of embeddings and norms
    weight_decay: float = 0.0
    warmup: float = 0.03  # fraction of the steps
    image_loss_weight: float = 1.0  # alpha of VQ output; the paper has 0.2
    feature_loss_weight: float = 5.0  # alpha of SigLIP output; the paper has 1
    feature_loss: str = "cosine"  # of SigLIP output; "mse" is the other one
    feature_dropout: float = 0.5  # of SigLIP output: share of images to draw of which no feature is read back
    padding_image: bool = False  # the authors' padding image in every step (pitfall 3)
    batch_size: int = 8  # rows per step, of all processes together
    batch_counts: str = "understanding"  # rows that this counts; the other task's come beside them, in proportion
    threads: int = 1
    # the scores
    fractions: tuple[float, ...] = (0.02, 0.035, 0.06, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0)  # at which it is scored
    test_watches: int = 500
    generated_watches: int = 200
    probe_watches: int = 0  # of the test watches, whose image tokens are probed at the end (`probing.py`)

    def __post_init__(self):
        for field in fields(self):
            value, kind = getattr(self, field.name), field.type
            if kind is float and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif field.name in _PARTS:
                kind = _PARTS[field.name]
                if not (isinstance(value, tuple | list) and all(isinstance(part, kind) for part in value)):
                    raise ValueError(f"{field.name} {value!r} is not a tuple of {kind.__name__}.")
                object.__setattr__(self, field.name, tuple(value))
            elif field.name == "fractions":
                if not (isinstance(value, tuple | list) and value and all(type(part) in (int, float) for part in value)
                        and value[0] > 0 and list(value) == sorted(set(value)) and value[-1] == 1):
                    raise ValueError(f"fractions {value!r} is not a tuple of rising numbers above 0 that ends with 1.")
                object.__setattr__(self, "fractions", tuple(map(float, value)))
            elif type(value) is not kind:
                raise ValueError(f"{field.name} {value!r} is not {_A[kind]}.")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(map(str, allowed))}.")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)!r} is below {least}.")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise ValueError(f"{name} {getattr(self, name)!r} is above {most}.")
        for name in ("learning_rate", "adapter_learning_rate", "image_loss_weight", "feature_loss_weight"):
            if not 0 < getattr(self, name) <= 10:
                raise ValueError(f"{name} {getattr(self, name)!r} is not above 0 and at most 10.")
        for name in ("momentum", "weight_decay", "warmup", "feature_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)!r} is not from 0 to below 1.")
        if not 0 <= self.mention_rate <= 1:
            raise ValueError(f"mention_rate {self.mention_rate!r} is not from 0 to 1.")
        if self.world != WORLD_VERSION:
            raise ValueError(f"world {self.world!r} is not {WORLD_VERSION}, the version this code draws.")
        sides = [distortion.side for distortion in self.distortions]
        if len(set(sides)) < len(sides):
            raise ValueError(f"distortions {self.distortions!r} are not at most one a side.")
        for distortion in self.distortions:
            space = self.architecture.split("-")[SIDES.index(distortion.side)]
            if distortion.family == "permutation" and space != "VQ":
                raise ValueError(f"distortion 'permutation' of the {distortion.side} side needs a space of codes, and "
                                 f"{space} of {self.architecture} has none.")
        if self.fewest_turns > self.turns:
            raise ValueError(f"fewest_turns {self.fewest_turns!r} is above turns, {self.turns}.")
        for name in self.shuffled_attributes:
            if name not in ATTRIBUTES or self.shuffled_attributes.count(name) > 1:
                raise ValueError(f"shuffled_attributes {self.shuffled_attributes!r} are not different names out of "
                                 f"{', '.join(ATTRIBUTES)}.")
        if ("weather_corner" in self.shuffled_attributes) != ("battery_corner" in self.shuffled_attributes):
            raise ValueError(f"shuffled_attributes {self.shuffled_attributes!r} have one corner without the other; "
                             f"both things of a watch would stand in one.")
        if self.probe_watches and not 10 <= self.probe_watches <= self.test_watches:
            raise ValueError(f"probe_watches {self.probe_watches!r} is neither 0 nor from 10 to test_watches, "
                             f"{self.test_watches}.")
        if self.rows == 0:
            raise ValueError(f"A run of regime {self.regime!r} has no training rows; give it at least one.")
        if self.pictures and (self.biases or self.shuffled_attributes or self.probe_watches):
            raise ValueError(f"The pictures {self.pictures!r} have no attributes that are known: biases, "
                             "shuffled_attributes and probe_watches are of watches only.")
        most = max(self.vqa_examples, self.caption_examples, self.generation_examples)
        if most > self.images and not self.pictures:
            raise ValueError(f"A run of {most} rows of one task needs as many images, but images is {self.images}.")

    @property
    def understands(self) -> bool:
        """Whether the arm is trained on questions and captions."""
        return self.regime in ("understanding", "unified")

    @property
    def generates(self) -> bool:
        """Whether the arm is trained on generation requests."""
        return self.regime in ("generation", "unified")

    @property
    def understanding_rows(self) -> int:
        """Questions' and captions' rows that this arm sees."""
        return (self.vqa_examples + self.caption_examples) * self.understands

    @property
    def generation_rows(self) -> int:
        """Requests that this arm sees."""
        return self.generation_examples * self.generates

    @property
    def rows(self) -> int:
        """Training rows that this arm sees."""
        return self.understanding_rows + self.generation_rows

    @property
    def alpha(self) -> float:
        """What the image loss weighs beside the text loss, in the kind of output that the architecture has."""
        return self.image_loss_weight if self.architecture.endswith("VQ") else self.feature_loss_weight

    @property
    def steps(self) -> int:
        """Optimiser steps. Set by the rows of one task that the spec has, whether or not the arm sees them, so that the
        arms of one comparison take the same number; with batch_counts "all" by all rows that the arm sees."""
        understanding, generation = self.vqa_examples + self.caption_examples, self.generation_examples
        rows = {"understanding": understanding or generation, "generation": generation or understanding,
                "all": self.rows}[self.batch_counts]
        return math.ceil(rows / self.batch_size)

    def canonical(self) -> "RunSpec":
        """The run that carries this one out: what an arm of one task does not see is left out of it.

        Architectures that have a task's space in common share its run, and so do arms that differ in the other task's
        rows, because they would train the same weights on the same steps (shown by a test).
        """
        kinds = self.architecture.split("-")
        changes = {"distortions": [each for each in self.distortions if each.changes and (
            self.understands if each.side == "understanding" else self.generates or self.padding_image)],
            "biases": [replace(bias, tasks=seen) for bias in self.biases
                       if bias.rate < 1 and (seen := self._seen(bias))],
            "shuffled_attributes": self.shuffled_attributes if self.generates else (),
            "probe_watches": self.probe_watches if self.understands else 0}
        if self.generates and kinds[1] == "SigLIP":
            changes["image_loss_weight"] = _DEFAULTS["image_loss_weight"]
        else:
            changes |= {name: _BEFORE[name] for name in ("feature_dropout", "feature_loss_weight")}
            changes["feature_loss"] = _DEFAULTS["feature_loss"]
        if self.padding_image:  # every arm sees both sides
            return self.vary(**changes)
        if self.batch_counts == "all" and self.regime != "unified":
            changes["batch_counts"] = self.regime
        counts = changes.get("batch_counts", self.batch_counts)
        if self.regime == "understanding":
            changes |= {"architecture": f"{kinds[0]}-{kinds[0]}", "shared_adapter": True, "shuffled_requests": False,
                        "image_loss_weight": _DEFAULTS["image_loss_weight"]}
            if counts == "understanding":
                changes["generation_examples"] = 0
        elif self.regime == "generation":
            # two adapters of one kind start apart, and with a distortion of the width none is shared
            if kinds[0] != kinds[1] and not any(each.family == "width" for each in changes["distortions"]):
                changes |= {"architecture": f"{kinds[1]}-{kinds[1]}", "shared_adapter": True}
            if counts == "generation":
                changes |= {"vqa_examples": 0, "caption_examples": 0}
        elif counts == "generation" and self.generation_examples == self.vqa_examples + self.caption_examples:
            changes["batch_counts"] = "understanding"  # as many steps
        return self.vary(**changes)

    def _seen(self, bias: AttributeBias) -> tuple[str, ...]:
        """The tasks of a bias that this arm is trained on, in one order."""
        return tuple(task for task in TASKS if task in bias.tasks and (
            self.generates if task == "generation" else self.understands))

    def cost(self) -> float:
        """What the run costs relative to others, for the order of a grid and its ETA: rows, to which scoring adds."""
        return self.rows + 10.0 * len(self.fractions) * (self.test_watches * self.understands
                                                      + self.generated_watches * self.generates) / 50

    @property
    def networks(self) -> tuple[str, ...]:
        """The frozen networks that the result depends on."""
        names = {self.vq_tokenizer if "VQ" in self.architecture else "",
                 self.semantic_encoder if "SigLIP" in self.architecture else ""}
        if self.generates:
            names |= ({self.reader, self.inception} if self.architecture.endswith("VQ")
                      else {self.feature_reader, self.feature_decoder})
        return (self.language_model, self.tokenizer, *sorted(names - {""}))

    def to_dict(self) -> dict:
        """The spec as plain JSON values; `RunSpec.from_dict` reads it back.

        What came after the first records is left out where it says what runs did before it came (`_BEFORE`), so that
        they keep their names.
        """
        values = json.loads(json.dumps(asdict(self)))  # with lists for tuples
        return {name: value for name, value in values.items() if name not in _BEFORE or value != _BEFORE[name]}

    @classmethod
    def from_dict(cls, values: dict) -> "RunSpec":
        """Read a spec as `to_dict` writes it, or a part of one; an unknown name is refused by name."""
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise ValueError(f"{name!r} is not a field of a run; the fields are {', '.join(known)}.")
        values = dict(values)
        if set(known) - values.keys() <= _BEFORE.keys():  # a whole dictionary, perhaps of an earlier record
            values = _BEFORE | values
        for name, kind in _PARTS.items():
            if isinstance(values.get(name), tuple | list):
                values[name] = tuple(_read_part(kind, part) for part in values[name])
        return cls(**values)

    def vary(self, **changes) -> "RunSpec":
        """This spec with some values changed; unknown names are refused by name."""
        return self.from_dict({field.name: getattr(self, field.name) for field in fields(self)} | changes)


def _read_part(kind: type, value):
    """A bias or a distortion as it is or as `to_dict` writes it."""
    if isinstance(value, kind) or kind is str:
        return value
    names = {field.name: field.default is MISSING for field in fields(kind)}
    needed = {name for name, must in names.items() if must}
    if not (isinstance(value, dict) and needed <= value.keys() <= names.keys()):
        raise ValueError(f"{value!r} is not {kind.__name__} as a dictionary of {', '.join(names)}; "
                         f"{' and '.join(sorted(needed))} must be there.")
    return kind(**value)


_PARTS = {"biases": AttributeBias, "distortions": Distortion, "shuffled_attributes": str}
_BEFORE = {  # what specs without the field say
    "activation_checkpointing": False, "distortions": [], "feature_dropout": 0.0, "feature_loss_weight": 1.0,
    "fewest_turns": 0, "inception": "", "picture_folder": "", "pictures": "", "precision": "fp32", "probe_watches": 0,
    "sam_pictures": False, "shuffled_attributes": []}
_DEFAULTS = {field.name: field.default for field in fields(RunSpec)}
_A = {int: "an integer", float: "a number", str: "a text", bool: "True or False"}


@dataclass(frozen=True)
class Profile:
    """A named scale: the base spec of its runs, and how many."""

    name: str
    spec: RunSpec
    seeds: int
    scaling_rows: int  # the base number of rows of either task where their numbers are varied
    scaling_seeds: int  # there
    scaled: tuple[str, ...]  # the architectures of data scaling; the paper has SigLIP-VQ
    matched: tuple[str, ...]  # those whose arms are matched by every rule
    alignment_rows: int  # rows of either task where spaces are distorted
    alignment_seeds: int  # there
    distorted: tuple[str, ...]  # the architectures there
    doses: dict[str, tuple[float, ...]]  # family of distortion -> doses
    transfer_rows: tuple[int, int]  # of understanding and of generation, where an attribute is rare in one of them
    transfer_seeds: int  # there
    transferred: tuple[str, ...]  # the architectures there
    rates: dict[str, tuple[float, ...]]  # rare attribute (`experiments.RARE`) -> its shares of the rows
    firm_rates: tuple[float, ...]  # those at which there are controls, and for `experiments.FIRM` every seed
    picture_spec: RunSpec  # of runs about captioned pictures
    picture_seeds: int  # there
    pictured: tuple[str, ...]  # the architectures there


_LAPTOP = RunSpec()
_SMOLLM = replace(  # a real language model that was trained on text, with the laptop's encoders
    _LAPTOP, language_model="cache/smollm2", tokenizer="cache/smollm2", adapter_positions=False, tuning="lora",
    lora_rank=16, lora_alpha=32, optimizer="adamw", learning_rate=5e-4, adapter_learning_rate=1e-3,
    image_loss_weight=0.2, feature_loss_weight=1.0, feature_dropout=0.0)
_PAPER = replace(  # section 3 and appendix: Vicuna-7B on three GPUs
    _LAPTOP, image_size=224, images=180_000, vqa_examples=60_000, caption_examples=60_000, generation_examples=60_000,
    turns=4, fewest_turns=1, mention_rate=0.5, language_model="lmsys/vicuna-7b-v1.5", tokenizer="lmsys/vicuna-7b-v1.5",
    semantic_encoder="google/siglip-base-patch16-224", vq_tokenizer="FoundationVision/LlamaGen/vq_ds16_c2i.pt",
    reader="", feature_reader="", feature_decoder="", adapter_positions=False, tuning="lora", precision="bf16",
    activation_checkpointing=True, optimizer="adamw", learning_rate=2e-4, adapter_learning_rate=1e-4,
    image_loss_weight=0.2, feature_loss_weight=1.0, feature_dropout=0.0, batch_size=393, batch_counts="all", threads=8,
    fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), test_watches=200, generated_watches=200)
# captioned pictures: no row of questions; each of the 673 training stamps four times (more, and it is known by heart)
_PICTURES = {"vqa_examples": 0, "caption_examples": 2700, "generation_examples": 2700, "reader": "",
             "feature_reader": "", "fractions": (0.25, 0.5, 1.0)}
_STAMPS = _PICTURES | {"pictures": "stamps", "vq_tokenizer": "pretrained/stamps_vq",
                       "semantic_encoder": "pretrained/stamps_siglip", "feature_decoder": ""}
PROFILES = {
    # shows that everything works, in seconds; its numbers mean nothing
    "smoke": Profile("smoke", replace(_LAPTOP, images=160, vqa_examples=128, caption_examples=32,
                                      generation_examples=160, batch_size=16, fractions=(0.5, 1.0),
                                      test_watches=24, generated_watches=16),
                     seeds=1, scaling_rows=48, scaling_seeds=1, scaled=("SigLIP-VQ",), matched=("SigLIP-VQ",),
                     alignment_rows=48, alignment_seeds=1, distorted=("VQ-VQ",),
                     doses={"affine": (1.0,)}, transfer_rows=(48, 48), transfer_seeds=1, transferred=("VQ-VQ",),
                     rates={"weather": (0.0,)}, firm_rates=(0.0,),
                     picture_spec=replace(_LAPTOP, **_PICTURES | {
                         "pictures": "watches", "caption_examples": 48, "generation_examples": 48, "fractions": (1.0,),
                         "test_watches": 24, "generated_watches": 16}), picture_seeds=1, pictured=("VQ-VQ",)),
    # two CPU cores, minutes per run
    "laptop": Profile("laptop", _LAPTOP, seeds=4, scaling_rows=1000, scaling_seeds=2,
                      scaled=("SigLIP-VQ", "VQ-VQ"), matched=ARCHITECTURES, alignment_rows=1600, alignment_seeds=3,
                      distorted=("VQ-VQ", "SigLIP-SigLIP"),
                      doses={"rotation": (0.5, 1.0), "scaling": (1.0, 2.0), "shift": (1.0, 3.0),
                             "affine": (0.25, 0.5, 0.75, 1.0), "authors": (0.1, 0.2, 0.3), "residual": (0.5, 0.95),
                             "warp": (5.0, 20.0), "permutation": (0.5, 1.0), "width": (0.5, 2.0)},
                      transfer_rows=(5000, 7000), transfer_seeds=3,
                      transferred=("VQ-VQ", "SigLIP-VQ", "SigLIP-SigLIP"),
                      rates=dict.fromkeys(("weather", "battery", "corners", "time"), (0.0, 0.003, 0.01, 0.03, 0.1)),
                      firm_rates=(0.03, 0.1),
                      picture_spec=replace(_LAPTOP, **_STAMPS), picture_seeds=3, pictured=("SigLIP-VQ", "VQ-VQ")),
    # one GPU, or a CPU and patience
    "smollm": Profile("smollm", _SMOLLM, seeds=1, scaling_rows=1000, scaling_seeds=1, scaled=("SigLIP-VQ",),
                      matched=("SigLIP-VQ",), alignment_rows=1600, alignment_seeds=1, distorted=("VQ-VQ",),
                      doses={"affine": (0.5, 1.0), "authors": (0.1, 0.2, 0.3)}, transfer_rows=(5000, 7000),
                      transfer_seeds=1, transferred=("SigLIP-VQ",), rates={"weather": (0.0, 0.03)},
                      firm_rates=(0.03,), picture_spec=replace(_SMOLLM, **_STAMPS), picture_seeds=1,
                      pictured=("SigLIP-VQ",)),
    # the paper's: GPUs of 80 GB
    "paper": Profile("paper", _PAPER, seeds=3, scaling_rows=60_000, scaling_seeds=1, scaled=("SigLIP-VQ", "VQ-VQ"),
                     matched=("SigLIP-VQ", "VQ-VQ"), alignment_rows=60_000, alignment_seeds=1,
                     distorted=("VQ-VQ", "SigLIP-SigLIP"),
                     doses={"rotation": (1.0,), "shift": (1.0,), "affine": (0.5, 1.0), "authors": (0.1, 0.2, 0.3)},
                     transfer_rows=(120_000, 60_000), transfer_seeds=1, transferred=("SigLIP-VQ", "VQ-VQ"),
                     rates={"weather": (0.0, 0.01), "battery": (0.0, 0.01)}, firm_rates=(0.0,),
                     picture_spec=replace(_PAPER, **_PICTURES, pictures="stamps"), picture_seeds=1,
                     pictured=("SigLIP-VQ", "VQ-VQ", "SigLIP-SigLIP")),
}


def profile(name: str) -> Profile:
    """The profile called `name`; an unknown one is refused with the names that exist."""
    if name not in PROFILES:
        raise ValueError(f"profile {name!r} is not one of {', '.join(PROFILES)}.")
    return PROFILES[name]
