"""How the text networks were made: a tokenizer, and Llamas in place of Vicuna (paper section 3).

Belongs here: training and model cards of both. Not here: the Llamas' shapes
(`models/language_models.py`), the vision networks (`vq.py`, `siglip.py`, `stamps.py`). Like Vicuna,
the Llama understands captions and requests but has never seen an image, so LoRA has a base to
adapt. `make encoders` rebuilds the tokenizer and the shipped Llama. `make language_models` trains
those of other sizes into the cache.
"""

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import IMAGE, TASKS, Conversation, make_conversations
from uvlm_core.data.smart_watch import sample_watches
from uvlm_core.data.texts import conversations_in_words
from uvlm_core.data.tokens import IGNORED, Processor, Row, collate, train_tokenizer
from uvlm_core.environment import cache_folder
from uvlm_core.models.language_models import SHIPPED_LM, shape_of
from uvlm_core.places import PRETRAINED, write_sha256
from uvlm_core.training.divergence import Guard
from uvlm_core.training.muon import Muon

TEXT_SEED = 900_000  # of watches and words; the runs' seeds start at 0
TEXT_WATCHES = 20_000  # watches whose conversations train the tokenizer
HELD_OUT = 512
TEXT_BATCH = 32
RATE, WARM_UP = 0.01, 30  # learning rate of Muon; steps
WEIGHT_DECAY = 0.1  # of the matrices: large weights would learn slowly in later training
LAST_RATE = 0.05  # share of the learning rate at the end of the last lesson


@dataclass(frozen=True)
class Lesson:
    """One stage of the language model's curriculum."""

    steps: int
    corners: float  # share of the texts that describe only the two corners
    wordings: int | None = None  # number of wordings per phrase, None for all


# Only this order teaches which corner belongs to the icon and which to the battery: first texts
# about the corners alone, in one wording, then in all. Trained on everything at once, the model
# learns which corners are named, and guesses.
LESSONS = (Lesson(150, 1.0, wordings=1), Lesson(300, 1.0), Lesson(900, 0.25))


def build_tokenizer(folder: Path = PRETRAINED / "tokenizer") -> None:
    """Train the tokenizer on the text of conversations about watches of the training split."""
    watches = sample_watches(TEXT_SEED, TEXT_WATCHES)
    texts = [
        text
        for task in TASKS
        for talk in make_conversations(watches, task, TEXT_SEED)
        for turn in talk.turns
        for text in (f"USER: {turn.human} ASSISTANT:", f" {turn.gpt}")
        if text.strip() != IMAGE
    ]
    tokenizer = train_tokenizer([text.replace(IMAGE, "") for text in texts], folder)
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts[:20_000]]
    _card(
        folder,
        "Tokenizer of the laptop profile",
        {
            "kind": "byte-level BPE, every digit a token of its own, lossless",
            "tokens": len(tokenizer),
            "trained on": f"{len(texts)} turns about {TEXT_WATCHES} watches (training split, "
            f"stream {TEXT_SEED})",
            "mean tokens of a turn": round(sum(lengths) / len(lengths), 2),
        },
    )


def lesson_conversations(lesson: Lesson, seed: int) -> list[Conversation]:
    """Make a lesson's conversations in order, one per training watch of the stream `seed`."""
    watches = sample_watches(seed, lesson.steps * TEXT_BATCH)
    alone = round(lesson.corners * len(watches))
    talks = conversations_in_words(
        watches[:alone], seed, True, lesson.wordings
    ) + conversations_in_words(watches[alone:], seed, False, lesson.wordings)
    return [talks[i] for i in np.random.default_rng(seed).permutation(len(talks))]


def bring_language_model(name: str) -> None:
    """Put a language model of `LM_LAYERS` into the cache, whole or not at all.

    One that is there is left. ValueError for an unknown name, and as `build_language_model`.
    """
    shape_of(name)  # refuses an unknown one before anything is touched
    folder = cache_folder() / name.removeprefix("cache/")
    if folder.is_dir():
        print(f"{folder} is there already.")
        return
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    build_language_model(partial, LESSONS, name)
    os.replace(partial, folder)
    print(f"wrote {folder}")


def build_language_model(
    folder: Path = PRETRAINED / "language_model",
    lessons: Sequence[Lesson] = LESSONS,
    name: str = SHIPPED_LM,
) -> None:
    """Train a small Llama to answer questions about described watches, lesson by lesson.

    The recipe is one for all sizes. ValueError for a name that is not in `LM_LAYERS`, and when
    training diverges; nothing is written then.
    """
    shape = shape_of(name)
    torch.manual_seed(TEXT_SEED)
    processor = Processor.load("pretrained/tokenizer", 0, 0)  # an image takes no tokens
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(processor.tokenizer),
            pad_token_id=processor.pad,
            bos_token_id=processor.bos,
            eos_token_id=processor.eos,
            **shape,
        )
    )
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    optimizer = Muon(
        [
            {"params": matrices, "lr": RATE, "weight_decay": WEIGHT_DECAY, "orthogonal": True},
            {"params": rest, "lr": 2e-3, "weight_decay": 0.0},
        ],
        momentum=0.9,
    )
    steps, last = sum(lesson.steps for lesson in lessons), lessons[-1].steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / WARM_UP, LAST_RATE + (1 - LAST_RATE) * (steps - step) / last, 1.0
        ),
    )
    guard = Guard("The training of the language model", steps, {"learning rate of matrices": RATE})
    began, bar = time.perf_counter(), trange(steps, desc="language model")
    for number, lesson in enumerate(lessons):
        rows = [
            processor.row(talk, image=-1)
            for talk in lesson_conversations(lesson, TEXT_SEED + number)
        ]
        for first in range(0, len(rows), TEXT_BATCH):
            loss = _loss(model, rows[first : first + TEXT_BATCH], processor.pad)
            loss.backward()
            norm = torch.nn.utils.get_total_norm(
                [parameter.grad for parameter in model.parameters()]
            )
            guard.check_step(schedule.last_epoch + 1, loss.item(), norm.item())
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update()
    bar.close()
    guard.check_weights(steps, model.state_dict())
    model.save_pretrained(folder)
    talks = conversations_in_words(
        sample_watches(TEXT_SEED + len(lessons), HELD_OUT), TEXT_SEED + len(lessons)
    )
    held_out = [(processor.row(talk, image=-1), talk) for talk in talks]
    with torch.inference_mode():
        loss = _loss(model.eval(), [row for row, _ in held_out], processor.pad).item()
    print(f"{name}: {loss:.3g} nats per token of held-out answers")
    in_order = ", then ".join(
        f"{lesson.steps} steps with {lesson.corners:.0%} of the texts about the corners alone"
        + (f", in {lesson.wordings} wording" if lesson.wordings else "")
        for lesson in lessons
    )
    shipped = name == SHIPPED_LM
    _card(
        folder,
        "Small Llama of the laptop profile" if shipped else f"Llama {name}",
        {
            "class": "LlamaForCausalLM",
            "parameters": sum(p.numel() for p in model.parameters()),
            "shape": json.dumps(shape),
            "trained on": f"conversations about watches told in words (training split, "
            f"streams from {TEXT_SEED}), {TEXT_BATCH} a step: {in_order}; "
            f"the loss is on the answers",
            "cost": f"{(time.perf_counter() - began) / 60:.1f} minutes "
            f"on {torch.get_num_threads()} thread(s)",
            f"loss on the answers of {len(held_out)} held-out conversations": f"{loss:.3g} nats "
            f"per token",
            f"answers right, of {len(held_out)} held-out conversations": ", ".join(
                f"{asked} {share:.3f}" for asked, share in _answers_right(model, held_out).items()
            ),
        },
        "make encoders" if shipped else "make language_models",
    )


@torch.inference_mode()
def _answers_right(
    model: LlamaForCausalLM, held_out: Sequence[tuple[Row, Conversation]]
) -> dict[str, float]:
    """Return the share of exact teacher-forced answers, per attribute and for common sense."""
    right = {name: [] for name in (*ATTRIBUTES, "common sense")}
    for row, talk in held_out:
        hits = (
            model(input_ids=torch.from_numpy(row.ids)[None]).logits[0, :-1].argmax(-1).numpy()
            == row.ids[1:]
        )
        said = row.labels[1:] != IGNORED  # one run of True per answer
        starts = np.flatnonzero(said & ~np.r_[False, said[:-1]])
        ends = np.flatnonzero(said & ~np.r_[said[1:], False]) + 1
        for turn, start, end in zip(talk.turns, starts, ends, strict=True):
            (name,) = turn.attributes
            # the first turn begins with the description
            plain = turn.human.endswith(ATTRIBUTES[name].questions)
            right[name if plain else "common sense"].append(hits[start:end].all())
    return {name: float(np.mean(values)) for name, values in right.items()}


def _loss(model: LlamaForCausalLM, rows, pad: int) -> torch.Tensor:
    """Return the mean cross-entropy over the labelled tokens of all rows."""
    total, count = 0.0, 0
    for bucket in collate(rows, None, None, pad):
        targets = int((bucket["labels"][:, 1:] != IGNORED).sum())
        total = total + model(**bucket).loss * targets
        count += targets
    return total / count


def _card(folder: Path, title: str, facts: dict, command: str = "make encoders") -> None:
    lines = [
        f"# {title}",
        "",
        f"Made by `{command}`; the code that measured these figures wrote them.",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n")
    write_sha256(folder)
