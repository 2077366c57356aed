"""Muon, the optimiser of the laptop profile (no section of the paper).

Belongs here: the optimiser. Not here: which parameters it gets (`loop.py`). At the laptop's scale,
Muon has twice AdamW's sample efficiency.
"""

import torch


class Muon(torch.optim.AdamW):
    """Muon for matrices and AdamW for the rest, as one optimiser (Jordan 2024).

    Muon updates the groups with `orthogonal=True`, by five Newton-Schulz steps in float32.
    torch.optim.Muon uses bfloat16, which most CPUs only emulate, and updates one matrix at a time.
    Here matrices of one shape are updated together.
    """

    def __init__(self, groups, momentum: float = 0.95):
        super().__init__([{"orthogonal": False} | group for group in groups], betas=(0.9, 0.95))
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            if group["orthogonal"]:
                # clears their gradients, so AdamW skips these parameters
                self._step_matrices(group)
        return super().step(closure)

    def _step_matrices(self, group) -> None:
        shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                shapes.setdefault(parameter.shape, []).append(parameter)
        # a parameter is a matrix, or a stack of them (`models/stack.py`)
        for shape, parameters in shapes.items():
            for parameter in parameters:
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                    state["step"] = torch.zeros(())  # AdamW expects one in every loaded state
                average = state["momentum_buffer"]
                average.lerp_(parameter.grad, 1 - self.momentum)
                parameter.grad.lerp_(average, self.momentum)  # Nesterov
            gradients = torch.stack([parameter.grad for parameter in parameters])
            updates = orthogonalise(gradients.flatten(0, -3)).view(gradients.shape)
            rate = group["lr"] * max(1, shape[-2] / shape[-1]) ** 0.5
            for parameter, update in zip(parameters, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=rate)
                parameter.grad = None


def orthogonalise(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return matrices (n, rows, columns) with singular values near 1, by Newton-Schulz steps."""
    a, b, c = 3.4445, -4.7750, 2.0315  # Jordan's quintic: steepest at zero
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)  # (n, rows, rows)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x
