"""The numbers that the project promises, measured here and now as ratios: `make bench`, or with
`--quick` a rough look.

Both sides of a ratio run in turn, in one process on one thread, and their medians are compared, so
that a machine that is slow or busy slows both. A missed target is printed, not an error: only
unequal results end with exit status 1.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from joblib.externals.loky import ProcessPoolExecutor
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import DRAW_WATCH, make_conversations
from uvlm_core.data.smart_watch import POOL_STREAM, render, render_batch, sample_watches
from uvlm_core.data.tokens import Processor, collate, padding_share
from uvlm_core.environment import variable
from uvlm_core.explore.playground import Playground
from uvlm_core.models.decoding import ROWS_A_CALL, answer, generate_images
from uvlm_core.models.encoders import LatentEncoder, SiglipEncoder, VQEncoder, cached_features
from uvlm_core.models.heads import SAMPLERS
from uvlm_core.models.unified import build_model
from uvlm_core.places import resolve
from uvlm_core.runs.backends import open_backend
from uvlm_core.runs.carry_out import execute_run, execute_stack
from uvlm_core.runs.grid import run_grid
from uvlm_core.runs.store import RunStore
from uvlm_core.scoring import probing
from uvlm_core.scoring.alignment import representations
from uvlm_core.studies.base import load_study, sized
from uvlm_core.training.loop import Steps, make_optimizer
from uvlm_core.training.pool import training_rows
from uvlm_core.training.profiles import profile


@dataclass(frozen=True)
class Line:
    """One line of the table; `good` says of a ratio whether the target is met, None where there is
    no target."""

    name: str
    ours: str
    alternative: str
    ratio: str
    target: str = ""
    good: bool | None = None


def seconds(action: Callable[[], object]) -> float:
    """How long an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def medians(repeats: int, *actions: Callable[[], object]) -> list[float]:
    """Median seconds of each action, run in turn `repeats` times after one round that warms up."""
    rounds = [[seconds(action) for action in actions] for _ in range(repeats + 1)][1:]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


class Laptop:
    """What a laptop run is made of: its networks, and one step of its unified arm."""

    def __init__(self, quick: bool):
        self.repeats = 2 if quick else 3
        # enough for a typical step; the counts keep the profile's proportions
        images = 400 if quick else 1000
        self.spec = profile("laptop").spec.vary(
            images=images,
            vqa_examples=images * 16 // 20,
            caption_examples=images * 3 // 20,
            generation_examples=images * 19 // 20,
            batch_size=16 if quick else 64,
        )
        torch.manual_seed(0)
        self.encoder = VQEncoder.load(self.spec.model.vq_tokenizer)
        self.processor = Processor.load(
            self.spec.model.tokenizer, self.encoder.tokens, self.encoder.tokens
        )
        self.watches = sample_watches(POOL_STREAM, images)
        self.images = render_batch(self.watches[:128], self.spec.data.image_size)
        rng = np.random.default_rng(0)
        # their values cost nothing
        codes = rng.integers(self.encoder.codes, size=(images, self.encoder.tokens))
        rows = training_rows(self.spec, self.processor, self.watches)
        self.steps = Steps(self.spec, self.processor, *rows, codes, codes)
        self.model = build_model(
            resolve(self.spec.model.language_model),
            self.encoder,
            self.encoder,
            seed=0,
            image_in_id=self.processor.image_in,
            image_out_id=self.processor.image_out,
            shared_adapter=self.spec.model.shared_adapter,
            adapter_positions=self.spec.model.adapter_positions,
            image_loss_weight=self.spec.alpha,
        )


def training_step(laptop: Laptop) -> list[Line]:
    """Forward and backward of a unified step, against a bare Llama's on the same rows as one padded
    batch."""
    buckets = laptop.steps[0]["buckets"]
    (padded,) = collate(
        laptop.steps.rows(0),
        laptop.steps.images_in,
        laptop.steps.images_out,
        laptop.processor.pad,
        fill=0.0,
    )
    bare = AutoModelForCausalLM.from_pretrained(
        resolve(laptop.spec.model.language_model), dtype=torch.float32
    )
    ids, labels = padded["input_ids"], padded["labels"]
    tight = [(bucket["input_ids"], bucket["labels"]) for bucket in buckets]

    def ours():
        laptop.model.train()(buckets=buckets).loss.backward()

    def bare_padded():
        bare.train()(input_ids=ids, labels=labels, use_cache=False).loss.backward()

    def bare_bucketed():
        sum(bare.train()(input_ids=i, labels=j, use_cache=False).loss for i, j in tight).backward()

    mine, usual, same = medians(laptop.repeats, ours, bare_padded, bare_bucketed)
    tokens = sum(len(row.ids) for row in laptop.steps.rows(0))
    shares = (
        padding_share(buckets, laptop.processor.pad),
        padding_share([padded], laptop.processor.pad),
    )
    return [
        Line(
            f"training step, {tokens} real tokens, against a bare Llama's padded batch",
            f"{mine:.2f} s",
            f"{usual:.2f} s",
            f"{mine / usual:.2f}",
            "<= 1.10",
            mine <= 1.10 * usual,
        ),
        Line(
            "the same against the bare Llama in our buckets",
            f"{mine:.2f} s",
            f"{same:.2f} s",
            f"{mine / same:.2f}",
        ),
        Line(
            "padding, buckets against one batch",
            f"{shares[0]:.1%}",
            f"{shares[1]:.1%}",
            f"{shares[0] / shares[1]:.2f}",
            "< 5 %",
            shares[0] < 0.05,
        ),
    ]


def optimizers(laptop: Laptop) -> list[Line]:
    """A whole training step with Muon against one with AdamW."""
    buckets, model = laptop.steps[0]["buckets"], laptop.model.train()
    both = [
        make_optimizer(
            model, laptop.spec.vary(optimizer=name, learning_rate=1e-6, adapter_learning_rate=1e-6)
        )
        for name in ("muon", "adamw")
    ]

    def step(optimizer):
        model(buckets=buckets).loss.backward()
        optimizer.step()
        model.zero_grad()

    muon, adamw = medians(
        laptop.repeats, *(lambda optimizer=optimizer: step(optimizer) for optimizer in both)
    )
    return [
        Line(
            "training step with Muon against AdamW",
            f"{muon:.2f} s",
            f"{adamw:.2f} s",
            f"{muon / adamw:.2f}",
            "<= 1.25",
            muon <= 1.25 * adamw,
        )
    ]


def image_generation(laptop: Laptop, alone: int) -> tuple[list[Line], bool]:
    """Images a second in batches with the cache, against one by one without; and whether they are
    equal."""
    requests = make_conversations(laptop.watches[:ROWS_A_CALL], "generation", 0)
    found = []

    def batched():
        found.append(generate_images(laptop.model, laptop.processor, requests).tokens)

    def one_by_one():
        found.append(
            generate_images(
                laptop.model, laptop.processor, requests[:alone], batch_size=1, cached=False
            ).tokens
        )

    fast, slow = medians(2, batched, one_by_one)
    fast, slow = ROWS_A_CALL / fast, alone / slow
    equal = all((tokens[:alone] == found[0][:alone]).all() for tokens in found)
    return [
        Line(
            f"images a second, {ROWS_A_CALL} at once and cached against one by one and uncached",
            f"{fast:.1f}",
            f"{slow:.2f}",
            f"{fast / slow:.0f}",
            ">= 20",
            fast >= 20 * slow,
        ),
        Line(f"the {alone} images of both ways are equal", str(equal), "", "", "True", equal),
    ], equal


def heads(laptop: Laptop) -> list[Line]:
    """A training step and a drawing with heads that sample latents, against regression."""
    latents = LatentEncoder.load(laptop.spec.model.vq_tokenizer)
    count = len(laptop.watches)
    table = np.random.default_rng(0).standard_normal((count, latents.tokens, latents.width))
    requests = make_conversations(laptop.watches[:ROWS_A_CALL], "generation", 0)
    actions = []
    for loss in ("cosine", *SAMPLERS):
        spec = laptop.spec.vary(architecture="VQ-Latent", feature_loss=loss)
        rows = training_rows(spec, laptop.processor, laptop.watches)
        codes = laptop.steps.images_in
        steps = Steps(spec, laptop.processor, *rows, codes, table.astype(np.float32))
        model = build_model(
            resolve(spec.model.language_model),
            laptop.encoder,
            latents,
            seed=0,
            image_in_id=laptop.processor.image_in,
            image_out_id=laptop.processor.image_out,
            shared_adapter=False,
            adapter_positions=True,
            feature_loss=loss,
            images=laptop.images,
        )
        buckets = steps[0]["buckets"]
        actions += [
            lambda model=model, buckets=buckets: model.train()(buckets=buckets).loss.backward(),
            lambda model=model: generate_images(model, laptop.processor, requests),
        ]
    step, drawing, *sampled = medians(laptop.repeats, *actions)
    lines = []
    for number, loss in enumerate(SAMPLERS):
        for what, ours, usual, most in (
            ("training step", sampled[2 * number], step, 1.25),
            (f"drawing of {ROWS_A_CALL} images", sampled[2 * number + 1], drawing, 3.0),
        ):
            lines.append(
                Line(
                    f"{what} with the loss {loss} against regression",
                    f"{ours:.2f} s",
                    f"{usual:.2f} s",
                    f"{ours / usual:.2f}",
                    f"<= {most:g}",
                    ours <= most * usual,
                )
            )
    return lines


def questions(laptop: Laptop, alone: int) -> tuple[list[Line], bool]:
    """Questions a second in batches with the cache, against one by one without; and whether the
    answers are equal."""
    talks = make_conversations(laptop.watches[:ROWS_A_CALL], "vqa", 0, turns=(5, 5))
    codes = laptop.encoder.encode(laptop.images[:ROWS_A_CALL])
    found = []

    def batched():
        found.append(answer(laptop.model, laptop.processor, talks, codes))

    def one_by_one():
        some = talks[:alone]
        found.append(
            answer(laptop.model, laptop.processor, some, codes, batch_size=1, cached=False)
        )

    fast, slow = medians(2, batched, one_by_one)
    fast, slow = 5 * ROWS_A_CALL / fast, 5 * alone / slow
    equal = all(answers[:alone] == found[0][:alone] for answers in found)
    return [
        Line(
            f"questions a second, {ROWS_A_CALL} talks of 5 at once and cached against one by one",
            f"{fast:.0f}",
            f"{slow:.1f}",
            f"{fast / slow:.0f}",
            ">= 20",
            fast >= 20 * slow,
        ),
        Line(f"the {alone} answers of both ways are equal", str(equal), "", "", "True", equal),
    ], equal


def rendering(laptop: Laptop) -> list[Line]:
    """Watches rendered and stored a second: many into one array, against each into a PNG."""
    some, size = laptop.watches[:256], laptop.spec.data.image_size
    with tempfile.TemporaryDirectory() as folder:

        def together():
            np.save(Path(folder) / "watches.npy", render_batch(some, size))

        def one_by_one():
            for number, watch in enumerate(some):
                (image,) = render_batch([watch], size)
                Image.fromarray(image).save(Path(folder) / f"{number}.png")

        fast, slow = medians(3, together, one_by_one)
    return [
        Line(
            "watches rendered and stored a second, in one array against a PNG each",
            f"{len(some) / fast:.0f}",
            f"{len(some) / slow:.0f}",
            f"{slow / fast:.1f}",
            ">= 10",
            slow >= 10 * fast,
        )
    ]


def feature_cache(laptop: Laptop) -> list[Line]:
    """Codes and features of a step's images from the cache, against the encoder on every step."""
    size, images = min(64, len(laptop.images)), laptop.images
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("UVLM_CACHE")
        os.environ["UVLM_CACHE"] = folder
        try:
            siglip = SiglipEncoder.load(laptop.spec.model.semantic_encoder)
            table, wide = (
                cached_features(
                    encoder, "benchmark", len(images), lambda start, stop: images[start:stop]
                )
                for encoder in (laptop.encoder, siglip)
            )
        finally:
            os.environ.pop("UVLM_CACHE")
            os.environ |= {} if before is None else {"UVLM_CACHE": before}
        cached, encoded = medians(
            3,
            lambda: table[rng.permutation(len(images))[:size]],
            lambda: laptop.encoder.encode(images[:size]),
        )
        with_render, reading = medians(
            3,
            lambda: siglip.encode(render_batch(laptop.watches[:size])),
            lambda: np.asarray(wide[rng.permutation(len(images))[:size]]),
        )
    minutes = with_render / size * 20_000 / 60
    return [
        Line(
            f"codes of {size} images, cached against encoded",
            f"{cached * 1e3:.2f} ms",
            f"{encoded * 1e3:.0f} ms",
            f"1 : {encoded / cached:.0f}",
        ),
        Line(
            f"SigLIP features of {size} images, cached against drawn and encoded",
            f"{reading * 1e3:.2f} ms",
            f"{with_render * 1e3:.0f} ms",
            f"1 : {with_render / reading:.0f}",
        ),
        Line(
            "the same for 20,000 watches, once, on one thread",
            f"{minutes:.1f} min",
            "",
            "",
            "<= 3 min",
            minutes <= 3,
        ),
    ]


def probes(laptop: Laptop) -> list[Line]:
    """Probes of a model's places, and one place's against scikit-learn's logistic regressions of
    the same labels."""
    watches = laptop.watches[: laptop.spec.scoring.test_watches]
    tokens = laptop.encoder.encode(render_batch(watches, laptop.spec.data.image_size))
    states = representations(
        laptop.model, laptop.processor, make_conversations(watches, "vqa", 0), tokens
    )
    pooled = states["adapter"].mean(1)
    labels, combinations = probing.probe_labels(watches), probing.combinations_of(watches)
    every = [*labels.values(), *probing.random_labels(labels, combinations, 0).values()]
    folds = GroupKFold(probing.FOLDS, shuffle=True, random_state=0)

    def logistic():
        for values in every:
            cross_val_score(
                make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
                pooled,
                values,
                groups=combinations,
                cv=folds,
            )

    whole = seconds(lambda: probing.probe_places(states, watches, by_token=True))
    mine, usual = medians(1, lambda: probing.probe(pooled, watches), logistic)
    return [
        Line(
            f"probes of {len(states)} places of a model: mean, each token, all; "
            f"{len(watches)} watches",
            f"{whole:.0f} s",
            "",
            "",
            "<= 60 s",
            whole <= 60,
        ),
        Line(
            "probes of one place and their controls, against a logistic regression of each",
            f"{mine * 1e3:.0f} ms",
            f"{usual * 1e3:.0f} ms",
            f"1 : {usual / mine:.0f}",
        ),
    ]


@dataclass(frozen=True)
class Work:
    """A run that is nothing but work, always the same amount."""

    seed: int
    rounds: int
    architecture: str = "VQ-VQ"
    regime: str = "unified"
    networks = ()

    def to_dict(self) -> dict:
        return asdict(self)


def toil(rounds: int) -> None:
    """Work for one thread: matrices of a small Llama's size."""
    torch.set_num_threads(1)
    a = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    for _ in range(rounds):
        a = torch.tanh(a @ a)


def execute(spec, folder):
    """What `run_grid` has its workers do."""
    toil(spec.rounds)
    return {"scores": []}, None


def grid(target: float) -> list[Line]:
    """Four equal runs of `target` seconds, two workers against one, start-up included; and what
    bare processes do."""
    toil(200)
    rounds = max(1, int(target / seconds(lambda: toil(500)) * 500))
    times = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            specs = [Work(seed, rounds) for seed in range(4)]
            place = Path(folder, str(workers))
            times[workers] = seconds(
                lambda w=workers, p=place, s=specs: run_grid(
                    s, RunStore(p / "records"), w, p / "work", execute
                )
            )
    bare = {}
    for workers in (1, 2):
        with ProcessPoolExecutor(workers) as pool:
            list(pool.map(toil, [1] * workers))  # started, torch imported
            bare[workers] = seconds(lambda p=pool: list(p.map(toil, [rounds] * 2)))
    ratio, most = times[1] / times[2], bare[1] / bare[2]
    return [
        Line(
            f"four equal runs of {target:.0f} s (a laptop run takes minutes), two workers "
            f"against one",
            f"{times[2]:.1f} s",
            f"{times[1]:.1f} s",
            f"{ratio:.2f}",
            ">= 1.7",
            ratio >= 1.7,
        ),
        Line(
            "the same work in bare processes, two against one: what this machine gives",
            f"{bare[2]:.1f} s",
            f"{bare[1]:.1f} s",
            f"{most:.2f}",
        ),
    ]


def committed_records() -> list[Line]:
    """Reading the laptop profile's records and drawing the figure that they are for."""
    opened = load_study("learning_curves", "laptop")
    count = len(dict.fromkeys(arm.spec.canonical() for arm in opened.arms))
    took = seconds(lambda: opened.study.figures["learning_curves"](opened))
    return [
        Line(
            f"{count} records of the laptop profile read and drawn",
            f"{took:.1f} s",
            "",
            "",
            "<= 120 s",
            took <= 120,
        )
    ]


def playing() -> list[Line]:
    """A change in the playground, answered by three models at once and question by question."""
    opened = Playground()
    opened.open()
    models = [opened.model(name) for name in opened.models.value]
    asked = [attribute.questions[0] for attribute in ATTRIBUTES.values()]
    minutes, openings = itertools.cycle((5, 25)), itertools.cycle(DRAW_WATCH)

    def change():
        opened.minute.value = next(minutes)

    def one_by_one():
        image = render(opened.watch)
        for model in models:
            for question in asked:
                model.ask(image, question)

    def draw():
        opened.request.value = f"{next(openings)} it is sunny outside."

    fast, slow, drawn = medians(5, change, one_by_one, draw)
    return [
        Line(
            "a change of the watch, answered by three models, against question by question",
            f"{fast:.2f} s",
            f"{slow:.2f} s",
            f"{slow / fast:.1f}",
            "<= 0.5 s",
            fast <= 0.5,
        ),
        Line("a drawing, read back", f"{drawn:.2f} s", "", "", "<= 0.5 s", drawn <= 0.5),
    ]


def stacks(counts: tuple[int, ...]) -> list[Line]:
    """Whole runs a minute, in stacks of several sizes, against one after another on the device."""
    base = profile("laptop")
    specs = [
        sized(base, 1000, 1000, architecture="VQ-VQ", seed=seed).canonical()
        for seed in range(max(counts))
    ]
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        # both begin with the codes in the cache
        execute_run(specs[0], _fresh(folder, "warm"))
        alone = 60 / seconds(lambda: execute_run(specs[0], _fresh(folder, "alone")))
        for count in counts:
            place = _fresh(folder, str(count))
            took = seconds(
                lambda count=count, place=place: execute_stack(
                    specs[:count], place, lambda done: None
                )
            )
            runs = 60 * count / took
            lines.append(
                Line(
                    f"runs a minute, 1,000 + 1,000 rows, {count} in a stack against one by one",
                    f"{runs:.1f}",
                    f"{alone:.1f}",
                    f"{runs / alone:.1f}",
                )
            )
    return lines


def _fresh(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Measure what the project promises.")
    parser.add_argument("--quick", action="store_true", help="smaller and rougher")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    began, load = time.perf_counter(), os.getloadavg()[0]
    if variable("UVLM_BACKEND", "loky").startswith("stacked"):
        try:
            open_backend().close()
        except ValueError as error:  # no GPU
            print(error, file=sys.stderr)
            return 2
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, 1 thread"
        _print(stacks((1, 8, 32, 128) if torch.cuda.is_available() else (1, 2)))
        print(f"{device}, torch {torch.__version__}, {time.perf_counter() - began:.0f} s")
        return 0
    lines, same = [], True
    with tqdm(
        total=11, bar_format="{desc} |{bar}| {elapsed} passed", disable=not sys.stderr.isatty()
    ) as bar:

        def show(name):
            bar.set_description_str(name)
            bar.update()

        show("training step")
        laptop = Laptop(quick)
        lines += training_step(laptop)
        show("optimisers")
        lines += optimizers(laptop)
        show("images")
        more, same = image_generation(laptop, alone=2 if quick else 4)
        lines += more
        show("heads")
        lines += heads(laptop)
        show("questions")
        more, equal = questions(laptop, alone=4 if quick else 16)
        lines += more
        show("watches")
        lines += rendering(laptop)
        show("features")
        lines += feature_cache(laptop)
        show("probes")
        lines += probes(laptop)
        show("grid")
        lines += grid(2.0 if quick else 25.0)
        show("records")
        lines += committed_records()
        show("playground")
        lines += playing()
    print(
        f"{os.cpu_count()} CPUs, load {load:.1f} at the start, torch {torch.__version__}, "
        f"encoder {laptop.encoder.name}, {time.perf_counter() - began:.0f} s"
    )
    _print(lines)
    return 0 if same and equal else 1


def _print(lines: list[Line]) -> None:
    verdicts = {True: "yes", False: "NO", None: ""}
    table = [("what", "ours", "alternative", "ratio", "target", "met")] + [
        (line.name, line.ours, line.alternative, line.ratio, line.target, verdicts[line.good])
        for line in lines
    ]
    widths = [max(len(row[column]) for row in table) for column in range(6)]
    for row in table:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


if __name__ == "__main__":
    sys.exit(main())
