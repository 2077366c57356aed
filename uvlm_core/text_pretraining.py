"""How the text half of `pretrained/` was made: the tokenizer, and a small Llama that has read conversations only.

Belongs here: what the laptop profile has in place of Vicuna. Not here: the vision networks (`pretraining.py`).
The Llama gives LoRA a base to adapt: it knows the words and forms of questions, answers, captions and requests, and
nothing about any watch. Rebuilt by `make encoders`.
"""

import json
import math
import time
from pathlib import Path

import torch
from tqdm import trange
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup

from uvlm_core.conversations import IMAGE, TASKS, make_conversations
from uvlm_core.muon import Muon
from uvlm_core.processing import IGNORED, Processor, collate, train_tokenizer
from uvlm_core.smart_watch import sample_watches
from uvlm_core.weights import PRETRAINED, write_sha256

SEED = 900_000  # of watches and words; the runs' seeds start at 0
WATCHES = 20_000  # conversations of each task
HELD_OUT = 512
STEPS, BATCH = 200, 64
RATE = 0.004  # of Muon: few and small steps, since large matrices learn to see slowly afterwards
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


def build_language_model(folder: Path = PRETRAINED / "language_model", steps: int = STEPS) -> None:
    """Train the small Llama on conversations with their images left out, predicting every token."""
    torch.manual_seed(SEED)
    processor = Processor.load("pretrained/tokenizer", 0, 0)
    watches = sample_watches(SEED, WATCHES)
    rows = []
    for task in TASKS:
        for talk in make_conversations(watches, task, SEED):
            row = processor.row(talk, image=-1)  # no image
            row.labels[1:] = row.ids[1:]
            rows.append(row)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED)).tolist()
    held_out, rows = [rows[i] for i in order[:HELD_OUT]], [rows[i] for i in order[HELD_OUT:]]
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(processor.tokenizer), pad_token_id=processor.pad,
                                         bos_token_id=processor.bos, eos_token_id=processor.eos, **SHAPE))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    optimizer = Muon([{"params": matrices, "lr": RATE, "weight_decay": 0.0, "orthogonal": True},
                      {"params": rest, "lr": 2e-3, "weight_decay": 0.0}])
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
    with torch.inference_mode():
        perplexity = math.exp(_loss(model.eval(), held_out, processor.pad))
    model.save_pretrained(folder)
    _card(folder, "Small Llama of the laptop profile", {
        "class": "LlamaForCausalLM", "parameters": sum(p.numel() for p in model.parameters()),
        "shape": json.dumps(SHAPE),
        "trained on": f"{steps} steps of {BATCH} conversations, images left out (training split, stream {SEED})",
        "cost": f"{(time.perf_counter() - began) / 60:.1f} minutes on {torch.get_num_threads()} thread(s)",
        "perplexity per token": f"{perplexity:.3f} on {len(held_out)} held-out conversations"})


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
