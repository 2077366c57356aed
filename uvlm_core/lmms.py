"""Benchmarks of real images (paper section 5): a trained model as lmms-eval asks it, and the
authors' own numbers.

    python -m uvlm_core.lmms --model uvlm --model_args weights=FOLDER --tasks pope --output_path
    build/benchmarks

Belongs here: what lies between lmms-eval and a `UnifiedVLM`: which model, which pixels, which
requests. Not here: the benchmarks themselves, which are lmms-eval's, and decoding
(`generation.py`). lmms-eval is optional (`requirements-benchmarks.txt`): without it all but the
command line above works.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from uvlm_core.data.conversations import IMAGE, Conversation, Turn
from uvlm_core.data.pictures import fit_picture
from uvlm_core.models.decoding import ROWS_A_CALL, answer, log_likelihoods
from uvlm_core.runs.grid import RunsFailed
from uvlm_core.runs.trained import trained_models
from uvlm_core.training.loop import load_model
from uvlm_core.training.profiles import profile as find_profile

try:
    from lmms_eval.api.instance import GenerationResult
    from lmms_eval.api.model import lmms
except ModuleNotFoundError:
    lmms, GenerationResult = object, tuple  # a pair stays a pair

# new tokens of an answer where the task names no number: such tasks ask for a word or a letter
LIMIT = 128

# The authors' record (not ours): LLaVA-1.5 with so many generation requests added to its training,
# single runs, each benchmark's own score from 0 to 100; from their public record. "CLIP" is the one
# space of both sides. `error` is the recorded standard error of such a score, where there is one.
AUTHORS = pd.DataFrame(
    [
        ("CLIP", requests, name, value)
        for name, values in (
            ("GQA", (61.6, 62.0, 61.9, 61.7)),
            ("MMBench", (62.5, 62.5, 63.2, 63.7)),
            ("MMStar", (34.1, 33.6, 33.8, 36.0)),
            ("VizWiz", (58.5, 55.6, 55.9, 59.5)),
        )
        for requests, value in zip((0, 50_000, 100_000, 200_000), values, strict=True)
    ]
    + [
        ("CLIP-VQ", 200_000, name, value)
        for name, value in (
            ("GQA", 62.1),
            ("MMBench", 66.1),
            ("MMStar", 36.3),
            ("POPE", 86.6),
            ("TextVQA", 47.1),
        )
    ],
    columns=["spaces", "requests", "benchmark", "value"],
)
AUTHORS["error"] = AUTHORS["benchmark"].map({"GQA": 0.43, "VizWiz": 0.68, "TextVQA": 0.68})


class UVLM(lmms):
    """A trained model as lmms-eval asks it. A question has one image; answers are greedy.

    Args (those of lmms-eval's `--model_args`, `--batch_size` and `--device`):
        profile: the base of the run whose model is asked, from the cache or trained into it;
        `fields` change its spec. weights: instead of both a folder with `model.safetensors` and
        `spec.json` (`training.load_model`). batch_size: questions side by side; answers do not
        depend on it. A run's own one stays as the profile has it. device: where the model is; the
        encoder stays on the CPU.
    """

    def __init__(
        self,
        profile: str = "",
        weights: str = "",
        batch_size: int | str = ROWS_A_CALL,
        device: str = "cpu",
        **fields,
    ):
        super().__init__()
        self.task_dict: dict = {}  # task -> split -> rows; lmms-eval fills it
        if bool(profile) == bool(weights) or (weights and fields):
            raise ValueError(
                f"A model is named by a profile, with fields of a run beside it, or "
                f"by weights alone, not by profile {profile!r}, weights {weights!r} "
                f"and the fields {fields!r}."
            )
        if not (str(batch_size).isdecimal() and int(batch_size) > 0):
            raise ValueError(f"batch_size {batch_size!r} is not an integer from 1 up.")
        self.batch_size = int(batch_size)
        if weights:
            model, self.processor, self.encoder, _ = load_model(weights)
        else:
            ((model, self.processor, self.encoder, _),) = trained_models(
                [find_profile(profile).spec.vary(**fields)], 1
            )
        self.model = model.to(device)

    def generate_until(self, requests: Sequence) -> list[str]:
        """Answers to questions: `args` of a request are its question, how to generate, and where
        its image is."""
        limits = [_limit(request.args[1]) for request in requests]
        answers = [""] * len(requests)
        for limit in sorted(set(limits)):  # a limit is one of a whole call
            some = [i for i, other in enumerate(limits) if other == limit]
            for batch in self._batches(some):
                # no answer yet
                talks, images = self._read([requests[i].args for i in batch], ["?"] * len(batch))
                said = answer(
                    self.model,
                    self.processor,
                    talks,
                    images,
                    limit=limit,
                    batch_size=self.batch_size,
                )
                for i, (text,) in zip(batch, said, strict=True):
                    answers[i] = _cut(text, requests[i].args[1].get("until"))
        return answers

    def loglikelihood(self, requests: Sequence) -> list[GenerationResult]:
        """How likely continuations are, and whether each is what the model would say.

        `args` of a request are its question, the continuation, and where its image is. Where a
        function makes the continuation out of the row, the value is the sum of the
        log-probabilities. A text is one choice of several, and its value is minus that sum:
        lmms-eval takes the choice of the smallest value. A pair (value, greedy) is the `text` of a
        GenerationResult, because lmms-eval 0.7 makes a str of a pair that stands alone.
        """
        found = []
        for batch in self._batches(range(len(requests))):
            asked = [requests[i].args for i in batch]
            told = [
                continuation
                if isinstance(continuation, str)
                else str(continuation(self._row(where)))
                for _, continuation, *where in asked
            ]
            talks, images = self._read(asked, told)
            values = log_likelihoods(
                self.model, self.processor, talks, images, batch_size=self.batch_size
            )
            found += [
                GenerationResult((-value if isinstance(args[1], str) else value, greedy))
                for args, (value, greedy) in zip(asked, values, strict=True)
            ]
        return found

    def generate_until_multi_round(self, requests: Sequence) -> list[str]:
        """Refused."""
        raise NotImplementedError(
            "A task of several rounds cannot be asked of this model, which "
            "answers one question about one image; choose a task of one "
            "round."
        )

    def _batches(self, numbers: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in tqdm(range(0, len(numbers), self.batch_size), desc="batches of questions"):
            yield numbers[start : start + self.batch_size]

    def _row(self, where: Sequence):
        """The row that the end of a request's `args` names: (..., number, task, split)."""
        *_, number, task, split = where
        return self.task_dict[task][split][number]

    def _read(
        self, asked: Sequence[tuple], told: Sequence[str]
    ) -> tuple[list[Conversation], np.ndarray]:
        """`args` of requests and their answers as conversations, and the encoder's outputs for
        their images."""
        talks, images = [], []
        for (question, _, *where), text in zip(asked, told, strict=True):
            found = (where[0](self._row(where)) or []) if where else []
            if len(found) != 1 or not isinstance(found[0], Image.Image):
                kinds = ", ".join(type(each).__name__ for each in found) or "no image"
                raise ValueError(
                    f"The question {question[:60]!r} comes with {kinds}, but this "
                    f"model reads exactly one image a question."
                )
            talks.append(
                Conversation("vqa", len(images), (Turn(f"{IMAGE}\n{question}", text.strip()),))
            )
            name = f"The image of the question {question[:60]!r}"
            images.append(fit_picture(found[0], self.encoder.size, name))
        return talks, self.encoder.encode(np.stack(images))


def _limit(settings: dict) -> int:
    """New tokens at most, from how a task wants answers generated; what is not greedy is
    refused."""
    for name, greedy in (("do_sample", False), ("num_beams", 1)):
        if settings.get(name) not in (None, greedy):
            raise ValueError(
                f"The task asks for {name} {settings[name]!r}, but this model answers "
                f"greedily, with {greedy!r}."
            )
    limit = settings.get("max_new_tokens", LIMIT)
    if type(limit) is not int or limit < 1:
        raise ValueError(f"max_new_tokens {limit!r} is not an integer from 1 up.")
    return limit


def _cut(text: str, until: str | Sequence[str] | None) -> str:
    """An answer up to the first text that ends it."""
    for end in [until] if isinstance(until, str) else until or []:
        text = text.split(end)[0] if end else text
    return text.strip()


class Command(UVLM):
    """The same on the command line, where a model that cannot be had is one sentence and exit
    status 2.

    lmms-eval itself would print a traceback and end with status 0.
    """

    def __init__(self, *arguments, **names):
        try:
            super().__init__(*arguments, **names)
        except (ValueError, RunsFailed) as error:
            print(error, file=sys.stderr)
            sys.exit(2)


def main() -> None:
    """lmms-eval's command line, which then knows this model as `uvlm`."""
    if lmms is object:
        print(
            "lmms-eval is not installed; `.venv/bin/python -m pip install -r "
            "requirements-benchmarks.txt` brings it.",
            file=sys.stderr,
        )
        sys.exit(2)
    from lmms_eval.cli.dispatch import main as evaluate
    from lmms_eval.models import MODEL_REGISTRY_V2
    from lmms_eval.models.registry_v2 import ModelManifest

    MODEL_REGISTRY_V2.register_manifest(
        ModelManifest("uvlm", simple_class_path="uvlm_core.lmms.Command")
    )
    evaluate()


if __name__ == "__main__":
    main()
