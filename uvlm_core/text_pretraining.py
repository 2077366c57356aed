"""How the text half of `pretrained/` was made: the tokenizer, and a small Llama that has read conversations only.

Belongs here: what the laptop profile has in place of Vicuna. Not here: the vision networks (`pretraining.py`).
The Llama gives LoRA a base to adapt, and a unified model what Vicuna has: it understands what a caption or a request
says, and has never seen an image. Rebuilt by `make encoders`.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

from uvlm_core.conversations import IMAGE, TASKS, Conversation, make_conversations
from uvlm_core.muon import Muon
from uvlm_core.processing import IGNORED, Processor, Row, collate, train_tokenizer
from uvlm_core.smart_watch import ATTRIBUTES, Watch, sample_watches
from uvlm_core.weights import PRETRAINED, write_sha256

SEED = 900_000  # of watches and words; the runs' seeds start at 0
WATCHES = 20_000
HELD_OUT = 512
MENTION_RATE = 0.8  # of each attribute but the time in what tells a watch in words
STEPS, BATCH = 500, 64
RATE = 0.01  # of Muon
SHAPE = dict(hidden_size=128, intermediate_size=344, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
             max_position_embeddings=1024, tie_word_embeddings=True)


def build_tokenizer(folder: Path = PRETRAINED / "tokenizer") -> None:
    """Train the tokenizer on the text of conversations about watches of the training split."""
    watches = sample_watches(SEED, WATCHES)
    texts = [text for task in TASKS for talk in make_conversations(watches, task, SEED)
             for turn in talk.turns for text in (f"USER: {turn.human} ASSISTANT:", f" {turn.gpt}")
             if text.strip() != IMAGE]
    tokenizer = train_tokenizer([text.replace(IMAGE, "") for text in texts], folder)
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts[:20_000]]
    _card(folder, "Tokenizer of the laptop profile", {
        "kind": "byte-level BPE, every digit a token of its own, lossless", "tokens": len(tokenizer),
        "trained on": f"{len(texts)} turns about {WATCHES} watches (training split, stream {SEED})",
        "mean tokens of a turn": round(sum(lengths) / len(lengths), 2)})


def conversations_in_words(watches: Sequence[Watch], seed: int) -> list[Conversation]:
    """Questions and answers about watches that a caption or a request tells in words, where an image would stand."""
    talks = []
    told = [make_conversations(watches, task, seed, mention_rate=MENTION_RATE) for task in ("caption", "generation")]
    for position, asked in enumerate(make_conversations(watches, "vqa", seed)):
        turn = told[position % 2][position].turns[0]
        words = turn.human if turn.gpt == IMAGE else turn.gpt
        first, *others = (question for question in asked.turns if question.attributes[0] in turn.attributes)
        first = replace(first, human=f"{IMAGE}\n{words} {first.human.removeprefix(IMAGE).strip()}")
        talks.append(replace(asked, turns=(first, *others)))
    return talks


def build_language_model(folder: Path = PRETRAINED / "language_model", steps: int = STEPS) -> None:
    """Train the small Llama to answer questions about watches told in words."""
    torch.manual_seed(SEED)
    processor = Processor.load("pretrained/tokenizer", 0, 0)  # an image takes no tokens
    talks = conversations_in_words(sample_watches(SEED, WATCHES), SEED)
    rows = [processor.row(talk, image=-1) for talk in talks]
    held_out, rows = list(zip(rows, talks, strict=True))[:HELD_OUT], rows[HELD_OUT:]
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(processor.tokenizer), pad_token_id=processor.pad,
                                         bos_token_id=processor.bos, eos_token_id=processor.eos, **SHAPE))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    optimizer = Muon([{"params": matrices, "lr": RATE, "weight_decay": 0.0, "orthogonal": True},
                      {"params": rest, "lr": 2e-3, "weight_decay": 0.0}], momentum=0.9)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    began = time.perf_counter()
    for step in (bar := trange(steps, desc="language model")):
        first = step * BATCH % (len(rows) - BATCH)
        loss = _loss(model, rows[first : first + BATCH], processor.pad)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    model.save_pretrained(folder)
    _card(folder, "Small Llama of the laptop profile", {
        "class": "LlamaForCausalLM", "parameters": sum(p.numel() for p in model.parameters()),
        "shape": json.dumps(SHAPE),
        "trained on": f"{steps} steps of {BATCH} conversations about watches told in words (training split, stream "
                      f"{SEED}); the loss is on the answers",
        "cost": f"{(time.perf_counter() - began) / 60:.1f} minutes on {torch.get_num_threads()} thread(s)",
        f"answers right, of {len(held_out)} held-out conversations": ", ".join(
            f"{name} {share:.3f}" for name, share in _answers_right(model.eval(), held_out).items())})


@torch.inference_mode()
def _answers_right(model: LlamaForCausalLM, held_out: Sequence[tuple[Row, Conversation]]) -> dict[str, float]:
    """Share of answers of which every token is the likeliest one, per attribute."""
    right = {name: [] for name in ATTRIBUTES}
    for row, talk in held_out:
        hits = model(input_ids=torch.from_numpy(row.ids)[None]).logits[0, :-1].argmax(-1).numpy() == row.ids[1:]
        said = row.labels[1:] != IGNORED  # one run of true values an answer
        starts = np.flatnonzero(said & ~np.r_[False, said[:-1]])
        ends = np.flatnonzero(said & ~np.r_[said[1:], False]) + 1
        for turn, start, end in zip(talk.turns, starts, ends, strict=True):
            right[turn.attributes[0]].append(hits[start:end].all())
    return {name: float(np.mean(values)) for name, values in right.items()}


def _loss(model: LlamaForCausalLM, rows, pad: int) -> torch.Tensor:
    """Mean cross-entropy per real token over the rows' buckets."""
    total, count = 0.0, 0
    for bucket in collate(rows, None, None, pad):
        targets = int((bucket["labels"][:, 1:] != IGNORED).sum())
        total = total + model(**bucket).loss * targets
        count += targets
    return total / count


def _card(folder: Path, title: str, facts: dict) -> None:
    lines = [f"# {title}", "", "Made by `make encoders`; the code that measured these figures wrote them.", "",
             *(f"- {name}: {value}" for name, value in facts.items())]
    (folder / "README.md").write_text("\n".join(lines) + "\n")
    write_sha256(folder)
