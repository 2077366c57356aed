"""Watches described in words, to train language models on (no section of the paper).

Belongs here: conversations in which a caption or a request stands for the image. Not here: their
use in pretraining (`pretraining/text.py`) and as text rows of a run (`training/pool.py`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from uvlm_core.data.attributes import ATTRIBUTES
from uvlm_core.data.conversations import (
    IMAGE,
    TASKS,
    AttributeBias,
    Conversation,
    Turn,
    make_conversations,
)
from uvlm_core.data.smart_watch import Watch

MENTION_RATE = 0.8  # of each attribute except the time in a description
SENSE_QUESTIONS = 4  # at most, of common sense, per watch


def conversations_in_words(
    watches: Sequence[Watch], seed: int, corners_alone: bool = False, wordings: int | None = None
) -> list[Conversation]:
    """Make questions and answers about watches, with a caption or request in place of the image.

    With `corners_alone`, the texts describe both corners and nothing else.
    """
    biases = (
        [AttributeBias(name, 0.0, TASKS) for name in ("time", "weather", "battery")]
        if corners_alone
        else []
    )
    rate = 1.0 if corners_alone else MENTION_RATE
    told = [
        make_conversations(watches, task, seed, biases=biases, mention_rate=rate, wordings=wordings)
        for task in ("caption", "generation")
    ]
    talks = []
    for position, asked in enumerate(
        make_conversations(watches, "vqa", seed, biases=biases, wordings=wordings)
    ):
        turn = told[position % 2][position].turns[0]
        words = turn.human if turn.gpt == IMAGE else turn.gpt
        questions = [
            replace(question, human=question.human.removeprefix(IMAGE).strip())
            for question in asked.turns
            if question.attributes[0] in turn.attributes
        ]
        if not corners_alone:
            rng = np.random.default_rng([seed, position, len(TASKS)])  # separate random stream
            sense = common_sense(watches[position], turn.attributes)
            questions += [sense[i] for i in rng.permutation(len(sense))[:SENSE_QUESTIONS]]
            questions = [questions[i] for i in rng.permutation(len(questions))]
        first, *others = questions
        talks.append(
            replace(asked, turns=(replace(first, human=f"{IMAGE}\n{words} {first.human}"), *others))
        )
    return talks


def common_sense(watch: Watch, told: Sequence[str]) -> list[Turn]:
    """Make common-sense questions about a watch that follow from the attributes `told`.

    They ask for the numeral at a hand, the battery in tenths and the content of a corner. The study
    asks none of them, but Vicuna can answer them. Without them, a generating model must learn from
    images what digits mean and where to look up the content of a corner (docs/log.md).
    """
    turns = []
    if "time" in told:
        numerals = (
            round(watch.hour + watch.minute / 60),
            round(watch.minute / 5),
            round(watch.second / 5),
        )
        turns += [
            Turn(f"where does the {hand} hand point?", str(numeral % 12 or 12), ("time",))
            for hand, numeral in zip(("hour", "minute", "second"), numerals, strict=True)
        ]
    if "battery" in told:
        turns.append(
            Turn("how full is the battery in tenths?", str(round(watch.battery / 10)), ("battery",))
        )
    for name in ("weather", "battery"):
        if {name, f"{name}_corner"} <= set(told):
            corner, shown = getattr(watch, f"{name}_corner"), ATTRIBUTES[name].truth(watch)
            turns.append(Turn(f"what does the {corner} corner show?", shown, (name,)))
    return turns
