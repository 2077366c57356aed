"""The check that ends a training once it diverges (no section of the paper).

Belongs here: whether a loss, a gradient or a weight is finite, and the error if it is not. Not
here: the loops that call it (such as `loop.py`, `stacked.py` and `pretraining/common.py`).
"""

import math
from collections.abc import Mapping

import torch


class Guard:
    """Ends a training whose numbers are no longer finite, by a ValueError.

    The error names the step and the learning rates. A loop calls `check_step` in every step before
    the weights change, and `check_weights` before it scores or saves them.
    """

    def __init__(self, subject: str, steps: int, rates: Mapping[str, float]):
        self.subject, self.steps = subject, steps
        self.rates = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        self.loss = math.nan  # of the last step

    def check_step(self, step: int, loss: float, norm: float) -> None:
        """Raise a ValueError if the loss or gradient norm of step `step` (from 1) is not finite."""
        self.loss = loss
        # DeepSpeed reports -1 for a norm that is not finite
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
        """Raise a ValueError if a weight after step number `step` is not finite."""
        name = odd_weight(state)
        if name is not None:
            raise self._error(
                step, f"the loss is {self.loss:.4g} and the weight {name} is not finite"
            )

    def check_end(self, loss: float) -> None:
        """Raise a ValueError if the loss of the final weights is not finite."""
        if not math.isfinite(loss):
            raise self._error(self.steps, f"the loss is {loss:.4g} after it")

    def _error(self, step: int, fault: str, advice: str = "try a lower rate") -> ValueError:
        return ValueError(
            f"{self.subject} diverged at step {step} of {self.steps}: {fault} "
            f"({self.rates}); {advice}."
        )


def odd_weight(state: Mapping[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor with a number that is not finite, or None."""
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    if not names:
        return None
    # one synchronisation with the GPU
    finite = torch.stack([state[name].isfinite().all() for name in names]).tolist()
    return next((name for name, whole in zip(names, finite, strict=True) if not whole), None)
