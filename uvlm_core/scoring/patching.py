"""Activation patching: a direct test of which layers carry an answer (paper section 4.3).

Belongs here: replacing a model's hidden states of one watch by those of another while it answers.
Not here: linear probes of these states (`probing.py`).

Two watches differ in one attribute and are asked the same question about it. At one layer and group
of tokens, the donor's states replace the recipient's. At the first token where the two true answers
differ, the logit of the donor's answer minus that of the recipient's says which answer the model
prefers.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import stats

from uvlm_core.data.attributes import find_attribute
from uvlm_core.data.conversations import IMAGE
from uvlm_core.data.smart_watch import Watch
from uvlm_core.data.tokens import Processor, image_rows
from uvlm_core.models.unified import UnifiedVLM

# image tokens; text after the image without the last token; last token; all tokens
GROUPS = ("image", "question", "last", "all")
RESAMPLES = 999  # bootstrap resamples of the pairs


def pairs_of(watches: Sequence[Watch], attribute: str, seed: int = 0) -> list[tuple[Watch, Watch]]:
    """Return (recipient, donor) pairs: a watch, and the same one with another attribute value.

    A donor's battery is at least 30 points away, its time has another hour, and its corner is never
    the other icon's.
    """
    kind, rng, pairs = find_attribute(attribute), np.random.default_rng(seed), []
    for watch in watches:
        donors = kind.alternatives(watch)
        pairs.append((watch, donors[rng.integers(len(donors))]))
    return pairs


@torch.inference_mode()
def patch_effects(
    model: UnifiedVLM,
    processor: Processor,
    pairs: Sequence[tuple[Watch, Watch]],
    attribute: str,
    images: Sequence[np.ndarray],
    groups: Sequence[str] = GROUPS,
) -> pd.DataFrame:
    """Return how much of the answer each layer and group of tokens carries, over pairs of watches.

    `images` are the encoder's outputs for all recipients and for all donors, each (pairs, tokens)
    or (pairs, tokens, width). Columns of the table:

    attribute, layer, group  layer 0 is the LM's input, layer k the output of its k-th block before
                             the final norm
    effect     how far patching moves the logit difference from the recipient's (0) to the donor's
               (1), as a ratio of means over the pairs
    low, high  95 % bootstrap interval of the effect over pairs (NaN for one pair)
    flipped    share of pairs whose logit difference patching turns to the donor's sign
    gap        mean of the donor's minus the recipient's logit difference
    told       share of pairs in which the model prefers the true answer for both watches
    samples    number of pairs

    ValueError for an unknown attribute or group, no pairs, and a pair whose answers are equal.
    """
    kind = find_attribute(attribute)
    for group in groups:
        if group not in GROUPS:
            raise ValueError(f"group {group!r} is not one of {', '.join(GROUPS)}.")
    if not pairs:
        raise ValueError("There are no pairs of watches to patch.")
    model.eval()
    blocks = model.language_model.model.layers
    rows, question = [], f"{IMAGE}\n{kind.questions[0]}"
    totals: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for number, (recipient, donor) in enumerate(pairs):
        said = [kind.truth(watch) for watch in (recipient, donor)]
        if said[0] == said[1]:
            raise ValueError(
                f"Both watches of pair {number} have {attribute} {said[0]!r}; "
                "they must differ in it."
            )
        answers = [processor.answer_ids(text) for text in said]
        parting = next(place for place, (a, b) in enumerate(zip(*answers, strict=False)) if a != b)
        ids = torch.tensor(
            [[processor.bos] + processor.human_ids(question) + answers[0][:parting]],
            device=model.device,
        )  # (1, tokens), the same for both
        masks = _groups(ids[0], processor.image_in)
        chosen = [answer[parting] for answer in answers]
        embeds = [model.embed(ids, image_rows(some, [number]).to(model.device)) for some in images]
        held = {}

        def run(embeds, layer=None, mask=None, held=held, chosen=chosen):
            """Return states and logit difference, with the donor's states at `layer`, if given."""
            states, handles = [], []
            for place, block in enumerate(blocks, start=1):

                def hook(module, inputs, output, place=place):
                    hidden = output[0] if isinstance(output, tuple) else output
                    if layer == place:
                        hidden = torch.where(mask[None, :, None], held["donor"][place], hidden)
                    states.append(hidden)
                    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

                handles.append(block.register_forward_hook(hook))
            try:
                if layer == 0:
                    embeds = torch.where(mask[None, :, None], held["donor"][0], embeds)
                hidden = model.hidden_states(embeds, use_cache=False)[:, -1]
            finally:
                for handle in handles:
                    handle.remove()
            logits = model.language_model.lm_head(hidden)[0]
            return [embeds, *states], float(logits[chosen[1]] - logits[chosen[0]])

        held["donor"], at_donor = run(embeds[1])
        _, at_recipient = run(embeds[0])
        for layer in range(len(blocks) + 1):
            for group in groups:
                _, patched = run(embeds[0], layer, masks[group])
                totals.setdefault((layer, group), []).append((at_recipient, at_donor, patched))
    for (layer, group), values in totals.items():
        recipient, donor, patched = np.array(values).T  # (pairs,) each
        low, high = _interval(recipient, donor, patched)
        flipped = ((patched > 0) & (recipient < 0)).mean()
        told = ((donor > 0) & (recipient < 0)).mean()
        rows.append(
            (
                attribute,
                layer,
                group,
                float(_effect(recipient, donor, patched)),
                low,
                high,
                float(flipped),
                float((donor - recipient).mean()),
                float(told),
                len(values),
            )
        )
    return pd.DataFrame(
        rows,
        columns=[
            "attribute",
            "layer",
            "group",
            "effect",
            "low",
            "high",
            "flipped",
            "gap",
            "told",
            "samples",
        ],
    )


def _effect(
    recipient: np.ndarray, donor: np.ndarray, patched: np.ndarray, axis: int = -1
) -> np.ndarray:
    """Return a ratio of means, as some single pairs hardly differ; NaN if no pair does."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (patched - recipient).mean(axis) / (donor - recipient).mean(axis)


def _interval(*logits: np.ndarray) -> tuple[float, float]:
    if len(logits[0]) < 2 or not np.isfinite(_effect(*logits)):
        return np.nan, np.nan
    found = stats.bootstrap(
        logits,
        _effect,
        paired=True,
        method="percentile",
        n_resamples=RESAMPLES,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def _groups(ids: torch.Tensor, slot: int) -> dict[str, torch.Tensor]:
    """Return a mask (tokens,) for each group of a row's tokens."""
    image = ids == slot
    behind = torch.arange(len(ids), device=ids.device) > image.nonzero().max()
    last = torch.zeros_like(image)
    last[-1] = True
    return {"image": image, "question": behind & ~last, "last": last, "all": torch.ones_like(image)}
