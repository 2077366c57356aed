"""One training run as a value: `RunSpec`, in four parts (paper section 3 and appendix).

Belongs here: every setting that changes a result, its validation, and the settings that cannot
affect an arm. Not here: the values of a profile (`profiles.py`), the runs of a study (`studies/`).

The default of every field is the paper's value. The default of a new field must leave earlier runs
unchanged: then their dictionaries do not contain the field, and their keys stay the same.
"""

import json
import math
from dataclasses import MISSING, asdict, dataclass, field, fields, replace

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import TASKS, AttributeBias
from uvlm_core.data.smart_watch import HOURS, WORLD_VERSION
from uvlm_core.models.distortion import Distortion
from uvlm_core.models.kinds import FEATURE_LOSSES, KINDS, OUTPUTS, kinds_of, output_of
from uvlm_core.training.stages import Stage

# the paper's: kind of the understanding space - kind of the generation space
ARCHITECTURES = ("SigLIP-VQ", "VQ-VQ", "SigLIP-SigLIP", "VQ-SigLIP")
REGIMES = ("understanding", "generation", "unified")
TUNINGS = ("full", "lora", "frozen")
OPTIMIZERS = ("muon", "adamw")
PRECISIONS = ("fp32", "bf16")
COUNTED = ("understanding", "generation", "all")  # the rows that `batch_size` counts
_CHOICES = {
    "regime": REGIMES,
    "tuning": TUNINGS,
    "optimizer": OPTIMIZERS,
    "batch_counts": COUNTED,
    "feature_loss": FEATURE_LOSSES,
    "hours": HOURS,
    "precision": PRECISIONS,
}
_LEAST = {
    "seed": 0,
    "image_size": 32,
    "images": 1,
    "vqa_examples": 0,
    "caption_examples": 0,
    "generation_examples": 0,
    "text_examples": 0,
    "turns": 1,
    "fewest_turns": 0,
    "test_watches": 1,
    "generated_watches": 2,
    "probe_watches": 0,
    "shown_watches": 0,
    "gradient_rows": 0,
    "lora_rank": 1,
    "lora_alpha": 1,
    "batch_size": 1,
    "threads": 1,
}
# the largest seed of numpy, the largest image of the renderer, one question per attribute
_MOST = {"seed": 2**32 - 1, "image_size": 1024, "turns": len(ATTRIBUTES)}
_RATES = ("learning_rate", "adapter_learning_rate", "image_loss_weight", "feature_loss_weight")
_SHARES = ("momentum", "weight_decay", "warmup", "feature_dropout")
_LISTS = {
    "biases": AttributeBias,
    "distortions": Distortion,
    "stages": Stage,
    "shuffled_attributes": str,
    "fractions": float,
}
_ONE_STAGE = Stage(understanding=1, generation=1, text=1)
_TYPE_NAMES = {int: "an integer", float: "a number", str: "a text", bool: "True or False"}


class _Part:
    """The base of all parts, which checks each field.

    ValueError names the value and the range.
    """

    def __post_init__(self):
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in _LISTS:
                value = _read_list(each.name, value)
            elif each.type is float and type(value) is int:
                value = float(value)
            elif type(value) is not each.type:
                raise ValueError(f"{each.name} {value!r} is not {_TYPE_NAMES[each.type]}.")
            _check(each.name, value)
            object.__setattr__(self, each.name, value)

    def deviations(self) -> dict:
        """Return the fields that differ from the paper's values, as JSON values by name."""
        values = json.loads(json.dumps(asdict(self)))  # tuples become lists
        return {
            each.name: values[each.name]
            for each in fields(self)
            if getattr(self, each.name) != each.default
        }


@dataclass(frozen=True)
class DataSpec(_Part):
    """The training rows; counts are in rows, and a vqa row is one conversation about one image.

    ValueError for values out of range or in conflict.
    """

    world: int = WORLD_VERSION
    image_size: int = 224  # px
    images: int = 180_000  # size of the pool that all rows and all seeds draw from
    vqa_examples: int = 60_000
    caption_examples: int = 60_000
    generation_examples: int = 60_000
    text_examples: int = 0  # conversations in words, without an image
    turns: int = 4  # most questions per vqa row
    fewest_turns: int = 1  # fewest questions per vqa row; 0: always `turns`
    mention_rate: float = 0.5  # probability of each attribute but the time, in captions, requests
    hours: int = 12  # 13: the authors' hours 0..12, where 0 and 12 look the same (pitfall 10)
    biases: tuple[AttributeBias, ...] = ()
    shuffled_requests: bool = False  # control: every request is paired with another row's image
    wordless_requests: bool = False  # control: every request has the same words, and its own image
    edit_requests: bool = False  # every request shows a watch and asks to change it (`edits.py`)
    shuffled_attributes: tuple[str, ...] = ()  # control: requests name another row's values
    pictures: str = ""  # instead of watches: "stamps", "watches" as files, or a caption file
    picture_folder: str = ""  # the folder of a caption file's pictures
    sam_pictures: bool = False  # read LLaVA rows about SAM's pictures; the authors leave them out

    def __post_init__(self):
        super().__post_init__()
        if self.fewest_turns > self.turns:
            raise ValueError(f"fewest_turns {self.fewest_turns!r} is above turns, {self.turns}.")
        for name in self.shuffled_attributes:
            if name not in ATTRIBUTES or self.shuffled_attributes.count(name) > 1:
                raise ValueError(
                    f"shuffled_attributes {self.shuffled_attributes!r} are not "
                    f"different "
                    f"names out of {', '.join(ATTRIBUTES)}."
                )
        rivals = {ATTRIBUTES[name].excludes for name in self.shuffled_attributes} - {""}
        if not rivals <= set(self.shuffled_attributes):
            raise ValueError(
                f"shuffled_attributes {self.shuffled_attributes!r} have one corner "
                f"without the other; weather and battery would stand in the same one."
            )
        if self.pictures and (self.biases or self.shuffled_attributes):
            raise ValueError(
                f"The pictures {self.pictures!r} have no known attributes: biases and "
                f"shuffled_attributes are of watches only."
            )
        if self.pictures and self.wordless_requests:
            raise ValueError(
                f"The pictures {self.pictures!r} are requested by their captions: "
                "wordless_requests are of watches only."
            )
        if self.edit_requests:
            told = [bias for bias in self.biases if "generation" in bias.tasks]
            if self.pictures or self.wordless_requests or self.shuffled_attributes or told:
                raise ValueError(
                    "edit_requests True is of watches only, and changes one attribute each: leave "
                    "out pictures, wordless_requests, shuffled_attributes and biases of generation."
                )
        if self.pictures and self.text_examples:
            raise ValueError(
                f"The pictures {self.pictures!r} have no known attributes: text_examples "
                f"{self.text_examples!r} are about watches only."
            )
        most = max(
            self.vqa_examples, self.caption_examples, self.generation_examples, self.text_examples
        )
        if most > self.images and not self.pictures:
            raise ValueError(
                f"A run of {most} rows of one task needs as many images, but images "
                f"is {self.images}."
            )


@dataclass(frozen=True)
class ModelSpec(_Part):
    """The image spaces and the networks, each a shipped name, a local folder or a hub id.

    ValueError for values out of range or in conflict.
    """

    architecture: str = "VQ-VQ"  # understanding input - generation output
    language_model: str = "lmsys/vicuna-7b-v1.5"
    random_language_model: bool = False  # it starts from random weights of its configuration
    tokenizer: str = "lmsys/vicuna-7b-v1.5"
    semantic_encoder: str = "google/siglip-base-patch16-224"
    vq_tokenizer: str = "FoundationVision/LlamaGen/vq_ds16_c2i.pt"
    shared_adapter: bool = True  # if both sides have the same space (pitfall 2)
    adapter_positions: bool = False  # learned embeddings of row and column on image slots
    distortions: tuple[Distortion, ...] = ()  # of the LM's image inputs, at most one per side

    def __post_init__(self):
        super().__post_init__()
        kinds_of(self.architecture)
        sides = [distortion.side for distortion in self.distortions]
        if len(set(sides)) < len(sides):
            raise ValueError(f"distortions {self.distortions!r} are not at most one a side.")
        for distortion in self.distortions:
            kind = getattr(self, distortion.side)
            if distortion.family == "permutation" and KINDS[kind].output != "codes":
                raise ValueError(
                    f"distortion 'permutation' of the {distortion.side} side needs a space of "
                    f"codes, and {kind} of {self.architecture} has none."
                )

    @property
    def understanding(self) -> str:
        """The kind of space in which images are understood."""
        return kinds_of(self.architecture)[0]

    @property
    def generation(self) -> str:
        """The kind of space in which images are generated."""
        return kinds_of(self.architecture)[1]


@dataclass(frozen=True)
class TrainingSpec(_Part):
    """The settings of training; ValueError for values out of range."""

    regime: str = "unified"
    seed: int = 0
    tuning: str = "lora"
    precision: str = "bf16"  # of the language model; with "bf16", of the rest of a step too
    activation_checkpointing: bool = True  # less memory, about a third more time, same results
    lora_rank: int = 128
    lora_alpha: int = 256
    optimizer: str = "adamw"
    learning_rate: float = 2e-4  # of the language model (Muon: of its matrices)
    momentum: float = 0.9  # of Muon; AdamW keeps its defaults
    adapter_learning_rate: float = 1e-4  # of adapters, head; with Muon also of embeddings, norms
    weight_decay: float = 0.0
    warmup: float = 0.03  # fraction of the steps
    image_loss_weight: float = 0.2  # alpha, the weight of the image loss, if the output is codes
    feature_loss_weight: float = 1.0  # alpha, if the output is features
    feature_loss: str = "cosine"  # if the output is continuous, one of FEATURE_LOSSES
    feature_dropout: float = 0.0  # share of images whose generated features are not read back
    padding_image: bool = False  # the authors' padding image in every step (pitfall 3)
    batch_size: int = 393  # rows per step, over all processes
    stages: tuple[Stage, ...] = ()  # (): one stage of one epoch of all rows
    batch_counts: str = "all"  # the rows that `batch_size` counts; others are added in proportion
    threads: int = 8


@dataclass(frozen=True)
class ScoringSpec(_Part):
    """When and on how many examples a model is scored, and the networks that read its images.

    An empty name stands for no network. ValueError for values out of range or in conflict.
    """

    # of the training; rising, ending with 1
    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    test_watches: int = 200
    generated_watches: int = 200
    probe_watches: int = 0  # test watches whose image tokens are probed at the end
    shown_watches: int = 0  # generated watches that the record keeps as pictures
    gradient_rows: int = 0  # held-out rows of each task whose gradients are compared; 0: none
    reader: str = ""  # of generated pixels
    feature_reader: str = ""  # of generated features of the semantic encoder
    feature_decoder: str = ""  # from these features to pixels
    inception: str = ""  # file of torch-fidelity's Inception v3, for FID

    def __post_init__(self):
        super().__post_init__()
        if self.probe_watches and not 10 <= self.probe_watches <= self.test_watches:
            raise ValueError(
                f"probe_watches {self.probe_watches!r} is neither 0 nor from 10 to "
                f"test_watches, {self.test_watches}."
            )
        if self.shown_watches > self.generated_watches:
            raise ValueError(
                f"shown_watches {self.shown_watches!r} is above generated_watches, "
                f"{self.generated_watches}."
            )


@dataclass(frozen=True)
class RunSpec:
    """One training run as a value.

    On one machine, equal specs give the same metrics bit for bit. Settings are read by part
    (`spec.training.seed`) and changed by name (`spec.vary(seed=3)`); names are unique over all
    parts. ValueError for a run without training rows and for parts in conflict.
    """

    data: DataSpec = field(default_factory=DataSpec)
    model: ModelSpec = field(default_factory=ModelSpec)
    training: TrainingSpec = field(default_factory=TrainingSpec)
    scoring: ScoringSpec = field(default_factory=ScoringSpec)

    def __post_init__(self):
        for each in fields(self):
            if not isinstance(getattr(self, each.name), each.type):
                raise ValueError(
                    f"{each.name} {getattr(self, each.name)!r} is not a {each.type.__name__}."
                )
        if self.rows == 0:
            raise ValueError(
                f"A run of regime {self.training.regime!r} has no training rows; "
                f"give it at least one."
            )
        if self.model.random_language_model and self.training.tuning != "full":
            raise ValueError(
                f"random_language_model True needs tuning 'full', because random weights have to "
                f"be trained; tuning is {self.training.tuning!r}."
            )
        if self.data.edit_requests and self.training.regime == "generation":
            raise ValueError(
                "edit_requests True reads watches, which regime 'generation' does not; take "
                "'unified'."
            )
        if self.data.pictures and self.scoring.probe_watches:
            raise ValueError(
                f"The pictures {self.data.pictures!r} have no known attributes: "
                f"probe_watches {self.scoring.probe_watches!r} is of watches only."
            )
        self._check_gradient_rows()

    def _check_gradient_rows(self) -> None:
        """Raise a ValueError if gradients are to be compared that the run does not have."""
        regime, tuning = self.training.regime, self.training.tuning
        frozen = any(stage.freeze for stage in self.training.stages)
        for wrong, needed in (
            (regime != "unified", f"regime 'unified', not {regime!r}"),
            (self.data.pictures, f"watches, not the pictures {self.data.pictures!r}"),
            (tuning == "frozen", f"a language model that learns, not tuning {tuning!r}"),
            (frozen, "a language model that learns, not a stage with freeze True"),
        ):
            if self.scoring.gradient_rows and wrong:
                raise ValueError(f"gradient_rows {self.scoring.gradient_rows!r} needs {needed}.")

    def __str__(self) -> str:
        names = {
            "architecture": self.model.architecture,
            "regime": self.training.regime,
            "seed": self.training.seed,
        }
        return ", ".join(f"{name} {value}" for name, value in names.items())

    @property
    def understands(self) -> bool:
        """Whether the arm is trained on questions and captions."""
        return self.training.regime in ("understanding", "unified")

    @property
    def generates(self) -> bool:
        """Whether the arm is trained on generation requests."""
        return self.training.regime in ("generation", "unified")

    @property
    def understanding_rows(self) -> int:
        """The number of rows of questions and captions that this arm sees."""
        return (self.data.vqa_examples + self.data.caption_examples) * self.understands

    @property
    def generation_rows(self) -> int:
        """The number of generation requests that this arm sees."""
        return self.data.generation_examples * self.generates

    @property
    def rows_of_kinds(self) -> dict[str, int]:
        """The rows that this arm has, of each kind of row that a stage counts (`Stage`)."""
        return {
            "understanding": self.understanding_rows,
            "generation": self.generation_rows,
            "text": self.data.text_examples,
        }

    @property
    def rows(self) -> int:
        """The number of training rows that this arm sees, each as often as it sees it."""
        return sum(sum(stage.seen(self.rows_of_kinds).values()) for stage, _ in self.schedule())

    @property
    def alpha(self) -> float:
        """The weight of the image loss relative to the text loss, for the kind of output."""
        return getattr(self.training, output_of(self.model.architecture).weight)

    @property
    def steps(self) -> int:
        """The number of optimiser steps, of all stages together."""
        return sum(steps for _, steps in self.schedule())

    def schedule(self) -> list[tuple[Stage, int]]:
        """Return the stages in which this arm sees rows, each with its number of steps.

        With batch_counts "all", the steps follow from all rows that the arm sees in the stage.
        Otherwise they follow from the spec's rows of one side, whether or not the arm sees them.
        The arms of one comparison then take the same number of steps.
        """
        return [
            (stage, self._steps_of(stage))
            for stage in self.training.stages or (_ONE_STAGE,)
            if any(stage.seen(self.rows_of_kinds).values())
        ]

    def _steps_of(self, stage: Stage) -> int:
        own = self.rows_of_kinds
        every = own | {
            "understanding": self.data.vqa_examples + self.data.caption_examples,
            "generation": self.data.generation_examples,
        }
        understanding, generation, text = stage.seen(every).values()
        rows = {
            "understanding": understanding or generation or text,
            "generation": generation or understanding or text,
            "all": sum(stage.seen(own).values()),
        }[self.training.batch_counts]
        return math.ceil(rows / self.training.batch_size)

    def canonical(self) -> "RunSpec":
        """Return the spec with the paper's values for all settings that cannot affect this arm.

        Equal canonical specs share one run. Architectures with a common space thus share its
        single-task arm. Arms that differ only in the other task's rows are one run too: they train
        the same weights on the same steps (tested).
        """
        spec = self.vary(
            distortions=[
                each for each in self.model.distortions if each.changes and self._sees(each.side)
            ],
            biases=[
                replace(bias, tasks=seen)
                for bias in self.data.biases
                if bias.rate < 1 and (seen := self._seen_tasks(bias))
            ],
            stages=self._seen_stages(),
        )
        spec = spec._merged()
        return spec.vary(**{name: DEFAULTS[name] for name in spec._unseen()})

    def _seen_stages(self) -> list[Stage]:
        """Return the stages without what this arm does not see; [] for one epoch of all rows."""
        none = {kind: 0.0 for kind, count in self.rows_of_kinds.items() if not count}
        stages = []
        for stage, steps in self.schedule():
            bare = replace(stage, **none)
            # rows that are not seen may set the number of steps
            stages.append(bare if self._steps_of(bare) == steps else stage)
        plain = [replace(stage, **none) for stage in stages] == [replace(_ONE_STAGE, **none)]
        return [] if plain and self.steps == self._steps_of(_ONE_STAGE) else stages

    def _merged(self) -> "RunSpec":
        """Return the same run with one common architecture, row counts and `batch_counts`."""
        regime, counts = self.training.regime, self.training.batch_counts
        if self.training.padding_image:  # every arm sees both sides
            return self
        changes = {}
        # in several stages, and beside text, the other task's rows may set the number of steps
        one_stage = not self.training.stages and not self.data.text_examples
        if one_stage and counts == "all" and regime != "unified":
            changes["batch_counts"] = counts = regime
        kinds = self.model.understanding, self.model.generation
        one_adapter = {"shared_adapter": DEFAULTS["shared_adapter"]}
        if regime == "understanding":
            changes |= {"architecture": f"{kinds[0]}-{kinds[0]}", **one_adapter}
            if one_stage and counts == "understanding":
                changes["generation_examples"] = 0
        elif regime == "generation":
            # two adapters of one kind start with different weights, and a distortion of the
            # width rules out a shared adapter
            widths = [each for each in self.model.distortions if each.family == "width"]
            if kinds[0] != kinds[1] and not widths:
                changes |= {"architecture": f"{kinds[1]}-{kinds[1]}", **one_adapter}
            if one_stage and counts == "generation":
                changes |= {"vqa_examples": 0, "caption_examples": 0}
        elif (
            one_stage and self.understanding_rows == self.generation_rows and counts == "generation"
        ):
            changes["batch_counts"] = "understanding"  # the same number of steps
        return self.vary(**changes)

    def _unseen(self) -> list[str]:
        """Return the fields that cannot affect this arm's result."""
        data, training = self.data, self.training
        kinds = self.model.understanding, self.model.generation
        own, used = (), {KINDS[kind].network for kind in kinds}
        if self.generates:
            output = OUTPUTS[KINDS[self.model.generation].output]
            own = (*output.settings, *output.scorers)
        unseen = [
            name
            for output in OUTPUTS.values()
            for name in (*output.settings, *output.scorers)
            if name not in own
        ]
        unseen += [kind.network for kind in KINDS.values() if kind.network not in used]
        for names, seen in (
            (_REQUESTS, self.generates),
            (("shown_watches",), self.generates and not data.pictures),
            (("turns", "fewest_turns", "probe_watches"), self.understands),
            (
                ("text_examples",),
                not training.stages or any(stage.text for stage in training.stages),
            ),
            (("picture_folder", "sam_pictures"), data.pictures),
            (("lora_rank", "lora_alpha"), training.tuning == "lora"),
            (("momentum",), training.optimizer == "muon"),
            # an image that is drawn at once is not read back
            (("feature_dropout",), training.feature_loss != "image_flow"),
        ):
            unseen += () if seen else names
        return unseen

    def _sees(self, side: str) -> bool:
        """Return whether the arm reads images of a side of the model."""
        if side == "understanding":
            return self.understands
        return self.generates or self.training.padding_image

    def _seen_tasks(self, bias: AttributeBias) -> tuple[str, ...]:
        """Return the tasks of a bias that this arm is trained on, in a fixed order."""
        return tuple(
            task
            for task in TASKS
            if task in bias.tasks and (self.generates if task == "generation" else self.understands)
        )

    def cost(self) -> float:
        """Return the relative cost of the run in rows, for the order and the ETA of a grid."""
        asked = (
            self.scoring.test_watches * self.understands
            + self.scoring.generated_watches * self.generates
        )
        return self.rows + 10.0 * len(self.scoring.fractions) * asked / 50

    @property
    def networks(self) -> tuple[str, ...]:
        """The names of the pretrained networks that the result depends on."""
        values, unseen = self.flat(), self._unseen()
        encoders = [kind.network for kind in KINDS.values()]
        readers = ("reader", "feature_reader", "feature_decoder", "inception")
        names = {values[name] for name in (*encoders, *readers) if name not in unseen}
        return (self.model.language_model, self.model.tokenizer, *sorted(names - {""}))

    @property
    def captioned(self) -> tuple[str, str, bool] | None:
        """The arguments of `data.pictures.load_pictures` for this run; None for watches."""
        if not self.data.pictures:
            return None
        return self.data.pictures, self.data.picture_folder, self.data.sam_pictures

    def to_dict(self) -> dict:
        """Return the deviations from the paper by part, as JSON values; inverse of `from_dict`."""
        found = {each.name: getattr(self, each.name).deviations() for each in fields(self)}
        return {part: values for part, values in found.items() if values}

    @classmethod
    def from_dict(cls, values: dict) -> "RunSpec":
        """Build a spec from what `to_dict` returns; missing settings get the paper's values.

        ValueError for unknown names.
        """
        parts = {each.name: each.type for each in fields(cls)}
        if not isinstance(values, dict):
            raise ValueError(f"{values!r} is not a dictionary of the parts {', '.join(parts)}.")
        for part, given in values.items():
            if part not in parts:
                raise ValueError(
                    f"{part!r} is not a part of a run; the parts are {', '.join(parts)}."
                )
            names = [each.name for each in fields(parts[part])]
            if not isinstance(given, dict):
                raise ValueError(f"{part} {given!r} is not a dictionary of {', '.join(names)}.")
            for name in given:
                if name not in names:
                    raise ValueError(
                        f"{name!r} is not a field of {part}; the fields are {', '.join(names)}."
                    )
        return cls(**{part: parts[part](**given) for part, given in values.items()})

    def vary(self, **changes) -> "RunSpec":
        """Return a copy with some settings changed by name; ValueError for an unknown name."""
        for name in changes:
            if name not in PART_OF:
                raise ValueError(
                    f"{name!r} is not a field of a run; the fields are {', '.join(PART_OF)}."
                )
        parts = {}
        for name, value in changes.items():
            parts.setdefault(PART_OF[name], {})[name] = value
        return replace(
            self, **{part: replace(getattr(self, part), **own) for part, own in parts.items()}
        )

    def flat(self) -> dict:
        """Return every setting by its name."""
        return {name: getattr(getattr(self, part), name) for name, part in PART_OF.items()}


_REQUESTS = ("shuffled_requests", "wordless_requests", "edit_requests", "shuffled_attributes")
_FIELDS = [(part.name, each) for part in fields(RunSpec) for each in fields(part.type)]
PART_OF = {each.name: part for part, each in _FIELDS}  # field -> its part
DEFAULTS = {each.name: each.default for _, each in _FIELDS}  # the paper's values


def _read_list(name: str, value) -> tuple:
    """Return the value of a list field as a tuple, given its items or what `to_dict` returns."""
    kind = _LISTS[name]
    if name == "fractions":
        if not (
            isinstance(value, tuple | list)
            and value
            and all(type(each) in (int, float) for each in value)
            and value[0] > 0
            and list(value) == sorted(set(value))
            and value[-1] == 1
        ):
            raise ValueError(
                f"fractions {value!r} is not a tuple of rising numbers above 0 that ends with 1."
            )
        return tuple(map(float, value))
    if isinstance(value, tuple | list) and kind is not str:
        value = tuple(_read_item(kind, each) if isinstance(each, dict) else each for each in value)
    if not (isinstance(value, tuple | list) and all(isinstance(each, kind) for each in value)):
        raise ValueError(f"{name} {value!r} is not a tuple of {kind.__name__}.")
    return tuple(value)


def _read_item(kind: type, values: dict):
    """Build a bias, a distortion or a stage from what `to_dict` returns."""
    names = {each.name: each.default is MISSING for each in fields(kind)}
    needed = {name for name, must in names.items() if must}
    if not needed <= values.keys() <= names.keys():
        words = f"; {' and '.join(sorted(needed))} must be there" * bool(needed)
        raise ValueError(
            f"{values!r} is not {kind.__name__} as a dictionary of {', '.join(names)}{words}."
        )
    return kind(**values)


def _check(name: str, value) -> None:
    """Raise a ValueError for a value outside the field's choices or range."""
    if name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(map(str, _CHOICES[name]))}.")
    if name in _LEAST and value < _LEAST[name]:
        raise ValueError(f"{name} {value!r} is below {_LEAST[name]}.")
    if name in _MOST and value > _MOST[name]:
        raise ValueError(f"{name} {value!r} is above {_MOST[name]}.")
    if name in _RATES and not 0 < value <= 10:
        raise ValueError(f"{name} {value!r} is not above 0 and at most 10.")
    if name in _SHARES and not 0 <= value < 1:
        raise ValueError(f"{name} {value!r} is not from 0 to below 1.")
    if name == "mention_rate" and not 0 <= value <= 1:
        raise ValueError(f"mention_rate {value!r} is not from 0 to 1.")
    if name == "world" and value != WORLD_VERSION:
        raise ValueError(f"world {value!r} is not {WORLD_VERSION}, the version this code draws.")
