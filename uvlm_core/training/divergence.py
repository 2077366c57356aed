"""What ends a training that has diverged (no section of the paper): one sentence, before anything
of it is kept.

Belongs here: whether a loss, a gradient or a weight is finite, and what is said of one that is not.
Not here: the loops that ask (`training.py`, `pretraining.py`, `text_pretraining.py`).
"""

import math
from collections.abc import Mapping

import torch


class Guard:
    """Ends a training whose numbers are no longer finite, by a ValueError that says where and at
    which rates.

    A loop shows it every step before the weights change, and the weights before they are scored or
    written.
    """

    def __init__(self, subject: str, steps: int, rates: Mapping[str, float]):
        self.subject, self.steps = subject, steps
        self.rates = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        self.loss = math.nan  # of the last step

    def check_step(self, step: int, loss: float, norm: float) -> None:
        """Refuse step number `step` (from 1) if its loss or the norm of its gradient is not
        finite."""
        self.loss = loss
        # DeepSpeed says -1 for a norm that is not finite
        if not (math.isfinite(loss) and 0 <= norm < math.inf):
            advice = (
                "try a lower rate"
                if step > 1
                else (
                    "no weight has changed yet, so look at the networks and at what they are given"
                )
            )
            raise self._error(
                step, f"the loss is {loss:.4g} and the norm of its gradient {norm:.4g}", advice
            )

    def check_weights(self, step: int, state: Mapping[str, torch.Tensor]) -> None:
        """Refuse the weights after step number `step` if one of them is not finite."""
        name = odd_weight(state)
        if name is not None:
            raise self._error(
                step, f"the loss is {self.loss:.4g} and the weight {name} is not finite"
            )

    def check_end(self, loss: float) -> None:
        """Refuse the weights after the last step if the loss that they give is not finite."""
        if not math.isfinite(loss):
            raise self._error(self.steps, f"the loss is {loss:.4g} after it")

    def _error(self, step: int, fault: str, advice: str = "try a lower rate") -> ValueError:
        return ValueError(
            f"{self.subject} diverged at step {step} of {self.steps}: {fault} "
            f"({self.rates}); {advice}."
        )


def odd_weight(state: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first tensor with a number that is not finite, if there is one."""
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    if not names:
        return None
    # one wait for a GPU
    finite = torch.stack([state[name].isfinite().all() for name in names]).tolist()
    return next((name for name, whole in zip(names, finite, strict=True) if not whole), None)
