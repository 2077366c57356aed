"""Requests to change one attribute of a watch that is shown: image to image (not in the paper).

Other requests describe the image to draw in words. An edit also shows a watch, and only that image
tells what must stay the same.

Belongs here: which change is asked of which watch, and in what words. Not here: the phrases of each
attribute (`attributes.py`), rows and images of training (`training/pool.py`).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from uvlm_core.data.attributes import ATTRIBUTES, take_over
from uvlm_core.data.conversations import EDIT, IMAGE, Conversation, Turn
from uvlm_core.data.smart_watch import Watch, sample_watch, split_of

EDIT_STREAM = 900_000  # separates these random numbers from those of the pool and of the tests
DONORS = 40  # watches whose value is tried for an attribute


def edited(watch: Watch, number: int) -> tuple[str, Watch]:
    """Return the attribute that edit `number` changes, and the watch after the change.

    One attribute gets another value, and all others stay, as does the colour. A training watch
    becomes another training watch, so no watch of the test set is ever drawn in training.
    """
    training = split_of(watch) == "train"
    return next(
        (name, after)
        for name, after in _changes(watch, number)
        if not training or split_of(after) == "train"
    )


def _changes(watch: Watch, number: int) -> Iterator[tuple[str, Watch]]:
    """Yield watches that differ in one attribute: in one after the other, in random order."""
    names = list(ATTRIBUTES)
    for place in np.random.default_rng([EDIT_STREAM, number]).permutation(len(names)):
        for donor in range(DONORS * number, DONORS * (number + 1)):
            after = take_over(watch, sample_watch(EDIT_STREAM, donor), (names[place],))
            kept = [each.truth(after) == each.truth(watch) for each in ATTRIBUTES.values()]
            if kept.count(False) == 1:
                yield names[place], after


def make_edits(watches: Sequence[Watch], numbers: Sequence[int], seed: int) -> list[Conversation]:
    """Return the conversations of edits: number `numbers[i]` of `watches[i]`, about image i."""
    talks = []
    for position, (watch, number) in enumerate(zip(watches, numbers, strict=True)):
        name, after = edited(watch, number)
        changes = ATTRIBUTES[name].changes
        rng = np.random.default_rng([seed, EDIT_STREAM, position])
        asked = changes[rng.integers(len(changes))].format(ATTRIBUTES[name].truth(after))
        talks.append(Conversation(EDIT, position, (Turn(f"{IMAGE}\n{asked}", IMAGE, (name,)),)))
    return talks
