"""Batched decoding of answers and images with a KV cache, greedy or sampled (paper section 3).

Belongs here: decoding. Not here: scores of answers (`scoring/answers.py`) and of images
(`scoring/images.py`).

`Continuation` decodes both text and images, through the same adapters as in training (pitfalls 5
and 6). Neither the batch size nor the cache changes the results.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicLayer

from uvlm_core.data.conversations import Conversation
from uvlm_core.data.tokens import Processor, image_rows
from uvlm_core.models.heads import FLOW_STEPS, sample, unscaled
from uvlm_core.models.unified import UnifiedVLM, attention_bias

ROWS_A_CALL = 64  # default batch size, chosen by `make bench`; results do not depend on it


class RoomyLayer(DynamicLayer):
    """A layer of the KV cache that is allocated ahead.

    transformers' own layer copies all its keys and values for every new token. That took two thirds
    of the decoding time.
    """

    ROOM = 128  # positions to add at a time

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Append keys and values (rows, heads, tokens, head width) and return all so far."""
        start, end = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if start == 0 or end > self.room[0].shape[-2]:
            held = (
                (self.keys, self.values)
                if start
                else (key_states[..., :0, :], value_states[..., :0, :])
            )
            self.room = [F.pad(old, (0, 0, 0, end + self.ROOM - start)) for old in held]
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[..., start:end, :] = new
        self.keys, self.values = (room[..., :end, :] for room in self.room)
        return self.keys, self.values


class Continuation:
    """A batch of rows during decoding: their KV cache and which of its positions are real.

    Segments of different lengths are padded at the right. Padding stays masked, and position ids
    count real tokens only.
    """

    def __init__(self, model: UnifiedVLM, cached: bool = True):
        self.model = model
        self.cache = Cache(layer_class_to_replicate=RoomyLayer) if cached else None
        self.valid = None  # (rows, positions so far) bool
        self.embeds = None  # (rows, positions so far, LM width), kept only without a cache

    def read(self, embeds: torch.Tensor, valid: torch.Tensor, whole: bool = False) -> torch.Tensor:
        """Append a segment (rows, tokens, LM width); `valid` (rows, tokens) is False at padding.

        Returns: the hidden state (rows, LM width) at each row's last real token of the segment. A
        row without real tokens gets a meaningless one, which the caller ignores. With `whole`, the
        hidden states of all tokens, (rows, tokens, LM width). ValueError when a segment of several
        tokens ends beyond the language model's `max_position_embeddings`.
        """
        self.valid = valid if self.valid is None else torch.cat([self.valid, valid], 1)
        if embeds.shape[1] > 1:
            self._check_length()
        positions = (self.valid.cumsum(1) - 1).clamp(min=0)  # (rows, positions so far)
        if self.cache is None:
            self.embeds = embeds if self.embeds is None else torch.cat([self.embeds, embeds], 1)
            hidden = self.model.hidden_states(
                self.embeds, attention_mask=self.valid, position_ids=positions, use_cache=False
            )[:, -embeds.shape[1] :]
        else:
            hidden = self.model.hidden_states(
                embeds,
                attention_mask=self.valid,
                use_cache=True,
                position_ids=positions[:, -embeds.shape[1] :],
                past_key_values=self.cache,
            )
        if whole:
            return hidden
        order = torch.arange(1, valid.shape[1] + 1, device=valid.device)
        last = (valid * order).argmax(1)  # (rows,) the last real token
        return hidden[torch.arange(len(hidden), device=hidden.device), last]

    def _check_length(self) -> None:
        most = getattr(self.model.config.text_config, "max_position_embeddings", None)
        if (
            most is not None
            and self.valid.shape[1] > most
            and (longest := int(self.valid.sum(1).max())) > most
        ):
            raise ValueError(
                f"The conversation has {longest} tokens, and the language model "
                f"reads at most {most}; shorten it."
            )


def _segment(
    pieces: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad token ids at the right; return ids and which are real, both (rows, tokens)."""
    length = max(len(piece) for piece in pieces)
    ids = torch.full((len(pieces), length), pad)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece)] = torch.as_tensor(piece, dtype=torch.long)
    lengths = torch.tensor([len(piece) for piece in pieces])
    return ids.to(device), (torch.arange(length) < lengths[:, None]).to(device)


def _check(temperature: float, batch_size: int) -> None:
    if not 0 <= temperature <= 10:
        raise ValueError(f"temperature {temperature!r} is not from 0 (greedy) to 10.")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size!r} is below 1.")


@torch.inference_mode()
def answer(
    model: UnifiedVLM,
    processor: Processor,
    conversations: Sequence[Conversation],
    images_in: np.ndarray,
    *,
    limit: int = 16,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = ROWS_A_CALL,
    cached: bool = True,
    only: Sequence[str] | None = None,
) -> list[list[str]]:
    """Answer every human turn of understanding conversations.

    Later turns are answered in the context of the model's own earlier answers.

    Args:
        images_in: encoder output by image position, as for `tokens.collate`.
        limit: most new tokens per answer.
        temperature: 0 (greedy) to 10; ValueError otherwise.
        only: the allowed answers; each step then picks among tokens that lead to one of them.

    Returns: the answers per conversation, in order; of a stack, those of one model after another.
    """
    _check(temperature, batch_size)
    model.eval()
    paths = (
        None
        if only is None
        else _paths([processor.answer_ids(text) for text in only], processor.eos)
    )
    turns = max(len(conversation.turns) for conversation in conversations)
    draws = torch.rand(
        len(conversations), turns, limit, generator=torch.Generator().manual_seed(seed)
    ).to(model.device)
    answers: list[list[str]] = [[] for _ in range(model.copies * len(conversations))]
    # batch conversations with similar numbers of turns
    order = sorted(range(len(conversations)), key=lambda i: len(conversations[i].turns))
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [conversations[i] for i in batch] * model.copies
        places = [copy * len(conversations) + i for copy in range(model.copies) for i in batch]
        images = image_rows(images_in, [row.image for row in rows]).to(model.device)
        continuation = Continuation(model, cached)
        # token ids that the model has not read yet
        pending: list[list[int]] = [[processor.bos] for _ in rows]
        for turn in range(max(len(row.turns) for row in rows)):
            asked = torch.tensor([turn < len(row.turns) for row in rows], device=model.device)
            pieces = [
                ids + (processor.human_ids(row.turns[turn].human) if live else [])
                for ids, row, live in zip(pending, rows, asked.tolist(), strict=True)
            ]
            ids, valid = _segment(pieces, processor.pad, model.device)
            hidden = continuation.read(model.embed(ids, images if turn == 0 else None), valid)
            new, pending = _answer_turn(
                model,
                processor,
                continuation,
                hidden,
                asked,
                limit,
                temperature,
                draws[batch, turn].repeat(model.copies, 1),
                paths,
            )
            for place, said, live in zip(places, new, asked.tolist(), strict=True):
                if live:
                    answers[place].append(processor.text(said))
    return answers


@torch.inference_mode()
def log_likelihoods(
    model: UnifiedVLM,
    processor: Processor,
    conversations: Sequence[Conversation],
    images_in: np.ndarray,
    *,
    batch_size: int = ROWS_A_CALL,
) -> list[tuple[float, bool]]:
    """Return the log-likelihoods of the answers in one-turn understanding conversations.

    Returns: per conversation the summed log-probability of the answer's tokens without the end
    token, and whether each of them is the greedy choice.
    """
    _check(0, batch_size)
    model.eval()
    found = []
    for start in range(0, len(conversations), batch_size):
        rows = conversations[start : start + batch_size]
        asked = [[processor.bos] + processor.human_ids(row.turns[0].human) for row in rows]
        told = [processor.answer_ids(row.turns[0].gpt)[:-1] for row in rows]
        ids, valid = _segment(
            [before + after for before, after in zip(asked, told, strict=True)],
            processor.pad,
            model.device,
        )
        images = image_rows(images_in, [row.image for row in rows]).to(model.device)
        hidden = Continuation(model, cached=False).read(model.embed(ids, images), valid, whole=True)
        for row, before, after in zip(hidden, asked, told, strict=True):
            # (answer tokens, vocabulary)
            logits = model.language_model.lm_head(row[len(before) - 1 :][: len(after)])
            chosen = torch.tensor(after, device=logits.device)
            likely = F.log_softmax(logits.double(), -1).gather(1, chosen[:, None])
            found.append((float(likely.sum()), bool((logits.argmax(-1) == chosen).all())))
    return found


def _paths(texts: Sequence[Sequence[int]], eos: int) -> dict:
    """Return a prefix tree of the texts; after `eos` only `eos` may follow."""
    root: dict = {}
    for ids in texts:
        node = root
        for token in ids:
            node = node.setdefault(token, {})
        node[eos] = node
    return root


def _answer_turn(model, processor, continuation, hidden, live, limit, temperature, draws, paths):
    """Decode an answer per live row; return its new ids and the ids not read by the model yet."""
    nodes, live = [paths] * len(hidden), live.clone()
    given, told = [], []  # per step: the token of each row, and whether it belongs to its answer
    for step in range(limit):
        logits = model.language_model.lm_head(hidden)  # (rows, vocabulary)
        if paths is not None:
            allowed = torch.full_like(logits, -torch.inf)
            for row, node in enumerate(nodes):
                allowed[row, list(node)] = 0
            logits = logits + allowed
        chosen = sample(logits, temperature, draws[:, step])  # (rows,)
        if paths is not None:
            nodes = [node[token] for node, token in zip(nodes, chosen.tolist(), strict=True)]
        live &= chosen != processor.eos
        given.append(chosen)
        told.append(live.clone())
        if not live.any() or step == limit - 1:
            break
        hidden = continuation.read(model.embed(chosen[:, None]), live[:, None])
    given, told = torch.stack(given, 1).cpu(), torch.stack(told, 1).cpu()  # (rows, steps)
    said = [ids[own].tolist() for ids, own in zip(given, told, strict=True)]
    # not read yet: the end of every answer, and the last token of an answer cut at the limit
    return said, [
        ([ids[-1]] if cut else []) + [processor.eos]
        for ids, cut in zip(said, live.tolist(), strict=True)
    ]


@dataclass(frozen=True)
class GeneratedImages:
    """Generated image tokens, and whether the model emitted the trigger token by itself.

    Where the model did not emit the trigger, it was inserted.
    """

    tokens: np.ndarray  # codes (images, tokens) or features (images, tokens, width)
    triggered: np.ndarray  # (images,) bool


@torch.inference_mode()
def generate_images(
    model: UnifiedVLM,
    processor: Processor,
    requests: Sequence[Conversation],
    images_in: np.ndarray | None = None,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = ROWS_A_CALL,
    cached: bool = True,
) -> GeneratedImages:
    """Generate one image per request: conversations of the task "generation", or all of them edits.

    Images of a stack are those of one model after another. Edits read `images_in`, encoder output
    by image position, as for `tokens.collate`.

    `temperature`, from 0 (greedy) to 10, applies to codes only. Features are regressed, or sampled
    from noise that `seed` draws (`heads.SAMPLERS`). Tokens are decoded one after another, with a
    cache if `cached`, or all of an image at once, as the head does it.
    ValueError when it is out of range or `batch_size` is below 1.
    """
    _check(temperature, batch_size)
    model.eval()
    space = model.config.generation_space
    generator = torch.Generator().manual_seed(seed)
    draws = model.head.draws((len(requests), space["tokens"]), space, generator).to(model.device)
    images, triggered = [], []
    for start in range(0, len(requests), batch_size):
        rows = list(requests[start : start + batch_size]) * model.copies
        prompts = [[processor.bos] + processor.human_ids(row.turns[0].human) for row in rows]
        if model.head.at_once:
            noise = torch.cat([draws[start : start + batch_size]] * model.copies)
            shown = _shown(model, rows, images_in)
            features, said = _drawn_at_once(model, processor, prompts, shown, noise)
            images.append(features)
            triggered.append(said)
            continue
        ids, valid = _segment(prompts, processor.pad, model.device)
        continuation = Continuation(model, cached)
        hidden = continuation.read(model.embed(ids, _shown(model, rows, images_in)), valid)
        triggered.append(model.language_model.lm_head(hidden).argmax(-1) == processor.generate)
        one = torch.ones(len(rows), 1, dtype=torch.bool, device=model.device)
        hidden = continuation.read(
            model.embed(torch.full_like(one, processor.generate, dtype=torch.long)), one
        )
        tokens = []
        for step in range(space["tokens"]):
            draw = torch.cat([draws[start : start + batch_size, step]] * model.copies)
            token = model.choose(hidden, temperature, draw)
            tokens.append(token)
            if step + 1 < space["tokens"]:
                hidden = continuation.read(model.embed_generation(token[:, None], start=step), one)
        images.append(torch.stack(tokens, 1))  # (rows, tokens) or (rows, tokens, width)
    return GeneratedImages(
        by_model(images, model.copies).cpu().numpy(),
        by_model(triggered, model.copies).cpu().numpy(),
    )


def _drawn_at_once(
    model: UnifiedVLM,
    processor: Processor,
    prompts: list[list[int]],
    shown: torch.Tensor | None,
    points: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn noise into features after prompts, by Euler's method, all tokens of an image together.

    `points`, the noise, and the features are (rows, tokens, width). Also returned: whether the
    model emits the trigger by itself, (rows,).
    """
    pieces = [[*prompt, processor.generate] for prompt in prompts]
    ids, valid = _segment(pieces, processor.pad, model.device)
    before, tokens = Continuation(model), points.shape[1]
    states = before.read(model.embed(ids, shown), valid, whole=True)
    lengths = valid.sum(1)  # (rows,)
    asked = states[torch.arange(len(pieces), device=model.device), lengths - 2]
    triggered = model.language_model.lm_head(asked).argmax(-1) == processor.generate
    places = lengths[:, None] + torch.arange(tokens, device=model.device)  # (rows, tokens)
    # tokens of an image see the prompt and each other: (rows, 1, 1, positions)
    seen = torch.cat([valid, valid.new_ones(len(pieces), tokens)], 1)[:, None, None]
    mask = attention_bias(seen.expand(-1, -1, tokens, -1), states.dtype)
    points = points.to(states.dtype)
    for step in range(FLOW_STEPS):
        times = torch.full_like(points[:, :1, :1], step / FLOW_STEPS)
        hidden = model.hidden_states(
            model.embed_points(points, times),
            attention_mask=mask,
            position_ids=places,
            past_key_values=before.cache,
            use_cache=True,
        )
        before.cache.crop(-tokens)  # the next step reads other points
        velocity = model.velocity(hidden.flatten(0, 1)).unflatten(0, points.shape[:2])
        points = points + velocity / FLOW_STEPS
    return unscaled(model.generation_head, points), triggered


@torch.inference_mode()
def predict_features(
    model: UnifiedVLM,
    processor: Processor,
    requests: Sequence[Conversation],
    images_out: np.ndarray,
    images_in: np.ndarray | None = None,
    batch_size: int = ROWS_A_CALL,
) -> np.ndarray:
    """Return teacher-forced predictions (images, tokens, width) of a model with SigLIP output.

    Each token is predicted from the true tokens before it, as in training; `generate_images` reads
    the model's own features instead. `images_out` holds the true features (images, tokens, width)
    in the order of the requests. Edits read `images_in`, as in `generate_images`.
    """
    model.eval()
    space, predicted = model.config.generation_space, []
    generator = torch.Generator().manual_seed(0)
    draws = model.head.draws((len(requests), space["tokens"]), space, generator).to(model.device)
    for start in range(0, len(requests), batch_size):
        rows = list(requests[start : start + batch_size])
        images = np.asarray(images_out[start : start + len(rows)], np.float32)
        images = torch.from_numpy(images).to(model.device).repeat(model.copies, 1, 1)
        prompts = [
            [processor.bos] + processor.human_ids(row.turns[0].human) + [processor.generate]
            for row in rows * model.copies
        ]
        continuation = Continuation(model)
        ids, valid = _segment(prompts, processor.pad, model.device)
        shown = _shown(model, rows * model.copies, images_in)
        first = continuation.read(model.embed(ids, shown), valid)  # (rows, LM width)
        embeds = model.embed_generation(images[:, :-1])  # (rows, tokens - 1, LM width)
        hidden = continuation.read(
            embeds, torch.ones(embeds.shape[:2], dtype=torch.bool, device=model.device), True
        )
        hidden = torch.cat([first[:, None], hidden], 1)  # (rows, tokens, LM width)
        noise = torch.cat([draws[start : start + len(rows)]] * model.copies)
        token = model.choose(hidden.flatten(0, 1), 0, noise.flatten(0, 1))
        predicted.append(token.unflatten(0, hidden.shape[:2]))  # (rows, tokens, width)
    return by_model(predicted, model.copies).cpu().numpy()


def _shown(
    model: UnifiedVLM, rows: Sequence[Conversation], images_in: np.ndarray | None
) -> torch.Tensor | None:
    """Return the images that the requests of a batch show, None if they show none."""
    if images_in is None:
        return None
    return image_rows(images_in, [row.image for row in rows]).to(model.device)


def by_model(batches: Sequence[torch.Tensor], copies: int) -> torch.Tensor:
    """Join batches whose rows are those of one model after another: so are the result's."""
    return torch.cat([batch.unflatten(0, (copies, -1)) for batch in batches], 1).flatten(0, 1)
