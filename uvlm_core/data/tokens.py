"""Conversations as token ids: tokenizer, template, image slots, labels, batches (paper section 3).

Belongs here: token ids and the padding of rows into batches. Not here: the outputs of encoders
(`models/encoders.py`), losses (`models/unified.py`).

One row is one conversation in Vicuna's template "v1" without its system prompt:

    <s>USER: [image slots] question ASSISTANT: answer</s>USER: ... ASSISTANT: ...</s>

An understanding image takes one `<image>` slot per encoder token in the human turn. A generated
image begins with `<generate>`, the token that the model must emit to trigger generation (paper
section 3). One `<image_out>` slot per image token follows. Only the assistant's turns are labelled,
without their image slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from uvlm_core.data.conversations import IMAGE, Conversation
from uvlm_core.files import short
from uvlm_core.places import refusing, resolve_folder

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
IMAGE_IN, GENERATE, IMAGE_OUT = IMAGE, "<generate>", "<image_out>"
SPECIAL_TOKENS = (PAD, BOS, EOS, IMAGE_IN, GENERATE, IMAGE_OUT)
NEW_TOKENS = (PAD, IMAGE_IN, GENERATE, IMAGE_OUT)  # added to a language model's own tokenizer
IGNORED = -100  # the label of a position without a loss
USER, ASSISTANT = "USER: ", " ASSISTANT:"


@dataclass(frozen=True)
class Row:
    """One conversation as token ids; images are positions in the image table, -1 for none."""

    ids: np.ndarray  # (tokens,) int64
    labels: np.ndarray  # (tokens,) int64, IGNORED outside the assistant's turns and on image slots
    image_in: int
    image_out: int
    about: tuple[str, ...] = ()  # the attributes that its turns are about


class Processor:
    """Converts conversations to rows for one tokenizer and one pair of image token counts.

    `context` is the largest number of tokens that the language model reads (None if unknown).
    Longer rows raise a ValueError.
    """

    context: int | None = None

    def __init__(self, tokenizer: PreTrainedTokenizerFast, tokens_in: int, tokens_out: int):
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None:
            raise ValueError(
                f"The tokenizer has the tokens {tokenizer.bos_token!r} and "
                f"{tokenizer.eos_token!r} for the begin and the end of a text; it "
                f"needs both."
            )
        # a language model's own tokenizer has no image tokens and may pad with a meaningful token
        tokenizer.add_special_tokens({"additional_special_tokens": list(NEW_TOKENS)})
        self.tokenizer, self.tokens_in, self.tokens_out = tokenizer, tokens_in, tokens_out
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.pad, self.image_in, self.generate, self.image_out = tokenizer.convert_tokens_to_ids(
            list(NEW_TOKENS)
        )
        self.control = frozenset(tokenizer.all_special_ids) - {tokenizer.unk_token_id}

    @classmethod
    def load(cls, name: str, tokens_in: int, tokens_out: int) -> "Processor":
        """Load a tokenizer by shipped name, local folder or hub id.

        Image tokens that it lacks are added at its end. ValueError if it cannot be loaded or has
        only special tokens, as when its files are missing.
        """
        what = "a tokenizer"
        folder = resolve_folder(name, what)
        with refusing(name, what):
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
            raise ValueError(
                f"{name!r} has no vocabulary, only special tokens; a tokenizer's "
                "files are tokenizer.json or those of its kind."
            )
        return cls(tokenizer, tokens_in, tokens_out)

    @cached_property
    def _seen(self) -> dict[str, list[int]]:
        return {}

    def ids_of(self, text: str) -> list[int]:
        """Return the token ids of plain text; each text is tokenized only once.

        Text never becomes a control token, even if it spells one ("<s>", "<image_out>"). ValueError
        if the tokenizer makes a control token of it.
        """
        if text not in self._seen:
            encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            self._seen[text] = encoded["input_ids"]
            if self.control.intersection(self._seen[text]):
                raise ValueError(
                    f"The tokenizer makes a control token of the text {text!r}; name "
                    "one whose control tokens no text can spell."
                )
        return self._seen[text]

    def human_ids(self, human: str) -> list[int]:
        """Return the ids of a human turn up to "ASSISTANT:"; `<image>` becomes the image slots."""
        before, tag, after = human.partition(IMAGE)
        if not tag:
            return self.ids_of(USER + human + ASSISTANT)
        return (
            self.ids_of(USER + before)
            + [self.image_in] * self.tokens_in
            + self.ids_of(after.strip() + ASSISTANT)
        )

    def answer_ids(self, answer: str) -> list[int]:
        """Return the ids of an answer in words, with the end token; `text` is the inverse."""
        return self.ids_of(" " + answer) + [self.eos]

    def image_ids(self) -> list[int]:
        """Return the ids of an answer that is an image: the trigger, the image slots, the end."""
        return [self.generate] + [self.image_out] * self.tokens_out + [self.eos]

    def row(self, conversation: Conversation, image: int | None = None) -> Row:
        """Convert a conversation to a row; `image` overrides its position in the image table.

        ValueError for a row longer than the language model's context.
        """
        ids, labels = [self.bos], [IGNORED]
        generates = conversation.draws
        for turn in conversation.turns:
            human = self.human_ids(turn.human)
            answer = self.image_ids() if generates else self.answer_ids(turn.gpt)
            ids += human + answer
            # image slots have the image loss, not the text loss
            labels += [IGNORED] * len(human) + [
                IGNORED if token == self.image_out else token for token in answer
            ]
        if self.context is not None and len(ids) > self.context:
            which = conversation.source or f"A row of the task {conversation.task!r}"
            raise ValueError(
                f"{which}: the row has {len(ids)} tokens "
                f"({short(conversation.turns[0].gpt)}), and the language model reads "
                f"at most {self.context}; shorten it or leave it out."
            )
        image = conversation.image if image is None else image
        about = tuple(name for turn in conversation.turns for name in turn.attributes)
        return Row(
            np.array(ids),
            np.array(labels),
            -1 if conversation.task == "generation" else image,
            image if generates else -1,
            about,
        )

    def check(self, conversations: Sequence[Conversation]) -> None:
        """Raise a ValueError for a conversation too long for the language model."""
        for conversation in conversations:
            self.row(conversation)

    def padding_row(self) -> Row:
        """Return the authors' padding image: a generated image without a request (pitfall 3).

        Its last four text tokens are labelled. Its image is number 0 of a separate table.
        """
        ids = np.array([self.bos] + self.human_ids("") + self.image_ids())
        labels = np.where(ids == self.image_out, IGNORED, ids)
        labels[np.flatnonzero(labels != IGNORED)[:-4]] = IGNORED
        return Row(ids, labels, -1, 0)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of an answer's ids without control tokens; inverts `answer_ids`."""
        said = self.tokenizer.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return said.removeprefix(" ")  # `answer_ids` puts it before an answer


def collate(
    rows: Sequence[Row],
    images_in: np.ndarray | None,
    images_out: np.ndarray | None,
    pad: int,
) -> list[dict[str, torch.Tensor]]:
    """Group rows into buckets, each padded at the right to its own longest row.

    Rows are sorted by length; `joins` says which share a bucket. Attention is causal and padding is
    at the right: no real token sees padding, and no attention mask is needed.

    Args:
        images_in: table of the understanding encoder's outputs, codes (images, tokens) or features
            (images, tokens, width).
        images_out: the same for the generation space.

    Returns: one dictionary per bucket: input_ids and labels (rows, tokens); images_in and
        images_out with the images of the bucket's rows in order, absent if there are none.
    """
    buckets: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        if not (buckets and joins(len(row.ids), len(buckets[-1][0].ids), len(buckets[-1]))):
            buckets.append([])
        buckets[-1].append(row)
    return [bucket_of(bucket, images_in, images_out, pad) for bucket in buckets]


def joins(length: int, longest: int, rows: int) -> bool:
    """Return whether a row joins a bucket of `rows` rows that are not shorter.

    It does if it is nearly as long as the longest, or if they are few. So, apart from small
    buckets, under 5 % of the tokens are padding.
    """
    return length >= 0.95 * longest or rows < 5


def bucket_of(rows: list[Row], images_in, images_out, pad: int) -> dict[str, torch.Tensor]:
    """Pad rows, in their order, to one bucket as `collate` returns it."""
    length = max(len(row.ids) for row in rows)
    ids = np.full((len(rows), length), pad)
    labels = np.full((len(rows), length), IGNORED)
    for position, row in enumerate(rows):
        ids[position, : len(row.ids)] = row.ids
        labels[position, : len(row.ids)] = row.labels
    # (rows, tokens)
    bucket = {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}
    for name, table, wanted in (
        ("images_in", images_in, [row.image_in for row in rows if row.image_in >= 0]),
        ("images_out", images_out, [row.image_out for row in rows if row.image_out >= 0]),
    ):
        if wanted:
            bucket[name] = image_rows(table, wanted)
    return bucket


def image_rows(table: np.ndarray, positions: Sequence[int]) -> torch.Tensor:
    """Return rows of an image table (or memory map) as a tensor for the model.

    Codes are int64 (images, tokens), features float32 (images, tokens, width).
    """
    images = np.asarray(table[positions])
    return torch.from_numpy(images.astype(np.int64 if images.ndim == 2 else np.float32))


def padding_share(buckets: Sequence[dict[str, torch.Tensor]], pad: int) -> float:
    """Return the share of tokens that are padding."""
    ids = [bucket["input_ids"] for bucket in buckets]
    return float(sum((i == pad).sum() for i in ids) / sum(i.numel() for i in ids))


def train_tokenizer(
    texts: Sequence[str], folder: str | Path, size: int = 1024
) -> PreTrainedTokenizerFast:
    """Train the laptop profile's tokenizer and save it in `folder`.

    It is a byte-level BPE, lossless on any text, with one token per digit.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=list(SPECIAL_TOKENS),
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=[IMAGE_IN, GENERATE, IMAGE_OUT],
    )
    wrapped.save_pretrained(folder)
    return wrapped
