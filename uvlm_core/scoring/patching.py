"""Which layers carry an answer (paper section 4.3, asked for directly): activation patching between
two watches.

Belongs here: replacing what a model holds of one watch by what it holds of another while it
answers. Not here: what can be read there (`probing.py`).

Two watches differ in one attribute and are asked the same question about it. What a layer gives at
one group of tokens is taken from the donor and put in place of the recipient's. At the token where
the two true answers part, the logit of the donor's answer minus that of the recipient's says which
of the two the model is about to give.
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

# the image's tokens; the text behind the image without the last token; the last token; all
GROUPS = ("image", "question", "last", "all")
RESAMPLES = 999  # of the pairs, for an interval


def pairs_of(watches: Sequence[Watch], attribute: str, seed: int = 0) -> list[tuple[Watch, Watch]]:
    """Recipients and donors: each watch, and the same watch with another value of the attribute.

    Donors of the battery are at least 30 points away, those of the time have another hour; a corner
    is never the one that is taken.
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
    """What each layer and group of tokens carries of the answer, over pairs of watches.

    `images` are the encoder's outputs for all recipients and for all donors, each (pairs, tokens)
    or (pairs, tokens, width). Layer 0 is what the LM reads, layer k what its k-th block gives,
    before the norm that ends the LM. `effect` is how far patching takes the logit difference from
    the recipient's (0) to the donor's (1), as a ratio of means over the pairs, low and high its 95
    % bootstrap interval over them (NaN of one pair); `flipped` is the share of pairs whose sign it
    turns to the donor's. What there is to carry: `gap` is the mean difference of the two in logits,
    `told` the share of pairs of which the model prefers each one's own answer.

    Columns: attribute, layer, group, effect, low, high, flipped, gap, told, samples. ValueError for
    an unknown attribute or group, for no pairs, and for a pair whose answers are equal.
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
            """The logit difference; with a layer, the donor's states are put there, else all are
            kept.
            """
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
    """A ratio of means and not a mean of ratios: of single pairs some hardly differ. NaN where none
    differ.
    """
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
    """Masks (tokens,) of the groups of a row's tokens."""
    image = ids == slot
    behind = torch.arange(len(ids), device=ids.device) > image.nonzero().max()
    last = torch.zeros_like(image)
    last[-1] = True
    return {"image": image, "question": behind & ~last, "last": last, "all": torch.ones_like(image)}
