"""Benchmarks of real images through lmms-eval, and the authors' own numbers (paper section 5).

    python -m uvlm_core.lmms --model uvlm --model_args weights=FOLDER --tasks pope \\
        --output_path build/benchmarks

Belongs here: the adapter between lmms-eval and `UnifiedVLM`: which model, which pixels, which
requests. Not here: the benchmarks themselves, which are lmms-eval's, and decoding
(`models/decoding.py`). lmms-eval is optional (`requirements-benchmarks.txt`): only the command line
above needs it.
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
from uvlm_core.training.networks import load_model
from uvlm_core.training.profiles import profile as find_profile

try:
    from lmms_eval.api.instance import GenerationResult
    from lmms_eval.api.model import lmms
except ModuleNotFoundError:
    lmms, GenerationResult = object, tuple  # without lmms-eval, results are plain pairs

# default limit on new tokens per answer: tasks without a limit ask for a word or a letter
LIMIT = 128

# The authors' public results, not ours: LLaVA-1.5 trained with `requests` added generation
# requests, single runs. `value` is each benchmark's own score, 0 to 100. "CLIP" is one space for
# both sides. `error` is the recorded standard error of a benchmark's score, if there is one.
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
    """A trained model behind lmms-eval's interface: one image per question, greedy answers.

    Args (from lmms-eval's `--model_args`, `--batch_size` and `--device`):
        profile: base of the run whose model is loaded from the cache, or trained into it.
        fields: changes to that run's spec.
        weights: instead of both, a folder with `model.safetensors` and `spec.json` (`load_model`).
        batch_size: questions per call; answers do not depend on it. Not the run's own batch size.
        device: device of the model; the encoder uses the first GPU, if there is one.

    Raises: ValueError when the arguments name no model, or two, batch_size is not an integer from
    1 up, or torch cannot use the device.
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
                [find_profile(profile).spec.vary(**fields)]
            )
        try:
            self.model = model.to(device)
        except (RuntimeError, AssertionError) as error:  # torch's for an unknown and a missing one
            raise ValueError(f"device {device!r} cannot be used: {error}") from None

    def generate_until(self, requests: Sequence) -> list[str]:
        """Return answers; requests' `args` are (question, generation settings, *image's place)."""
        limits = [_limit(request.args[1]) for request in requests]
        answers = [""] * len(requests)
        for limit in sorted(set(limits)):  # `answer` takes one limit per call
            some = [i for i, other in enumerate(limits) if other == limit]
            for batch in self._batches(some):
                # "?" stands for the answers, which are not known yet
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
        """Return each continuation's log-likelihood and whether it is the greedy answer.

        Requests' `args` are (question, continuation, *image's place). If the continuation is a
        function of the row, the value is the summed log-probability. If it is a string, it is one
        of several choices and the value is minus that sum: lmms-eval picks the smallest. The pair
        (value, greedy) is the `text` of a GenerationResult, because lmms-eval 0.7 turns a bare
        pair into a str.
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
        """Raise NotImplementedError: the model answers one question about one image."""
        raise NotImplementedError(
            "A task of several rounds cannot be asked of this model, which "
            "answers one question about one image; choose a task of one "
            "round."
        )

    def _batches(self, numbers: Sequence[int]) -> Iterator[Sequence[int]]:
        for start in tqdm(range(0, len(numbers), self.batch_size), desc="batches of questions"):
            yield numbers[start : start + self.batch_size]

    def _row(self, where: Sequence):
        """Return the row named by the end of a request's `args`: (..., number, task, split)."""
        *_, number, task, split = where
        return self.task_dict[task][split][number]

    def _read(
        self, asked: Sequence[tuple], told: Sequence[str]
    ) -> tuple[list[Conversation], np.ndarray]:
        """Return conversations of requests and answers, and the encoder's outputs of the images."""
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
    """Return a task's limit on new tokens; ValueError for settings that are not greedy."""
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
    """Return an answer up to the first of its stop texts."""
    for end in [until] if isinstance(until, str) else until or []:
        text = text.split(end)[0] if end else text
    return text.strip()


class Command(UVLM):
    """`UVLM` on the command line: a failure to load is one sentence and exit status 2.

    lmms-eval itself would print a traceback and exit with status 0.
    """

    def __init__(self, *arguments, **names):
        try:
            super().__init__(*arguments, **names)
        except (ValueError, RunsFailed) as error:
            print(error, file=sys.stderr)
            sys.exit(2)


def main() -> None:
    """Run lmms-eval's command line with this model registered as `uvlm`."""
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
