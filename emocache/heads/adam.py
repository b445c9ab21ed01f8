"""Adam and AdamW by torch's fused kernels, called as `torch.optim` calls them.

The classes in `torch.optim` load torch's compiler at their first step, which takes as long as loading torch did: a
third of the time from the command to the first epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS, EPSILON = (0.9, 0.999), 1e-8


class Adam:
    """Adam on float32 tensors.

    lr: may be set before any step
    decoupled: weight decay beside the gradient (AdamW, Loshchilov and Hutter 2019), not added to it
    """

    def __init__(self, parameters: Sequence[Tensor], lr: float, decay: float, *, decoupled: bool = True) -> None:
        self.lr = lr
        self.decay = decay
        self.decoupled = decoupled
        self.parameters = list(parameters)
        self.moments = [(torch.zeros_like(each), torch.zeros_like(each)) for each in self.parameters]
        self.steps = [torch.zeros((), device=each.device) for each in self.parameters]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for each in self.parameters:
            each.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        gradients = {number: each.grad for number, each in enumerate(self.parameters) if each.grad is not None}
        steps = [self.steps[number] for number in gradients]
        torch._foreach_add_(steps, 1)
        kernel = torch._fused_adamw_ if self.decoupled else torch._fused_adam_
        kernel(
            [self.parameters[number] for number in gradients],
            list(gradients.values()),
            [self.moments[number][0] for number in gradients],
            [self.moments[number][1] for number in gradients],
            [],
            steps,
            lr=self.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def of(self, parameters: Sequence[Tensor], numbers: Sequence[int]) -> Adam:
        """The same for `parameters`, which are rows `numbers` of those before."""
        fewer = Adam(parameters, self.lr, self.decay, decoupled=self.decoupled)
        rows = list(numbers)
        fewer.moments = [(first[rows].clone(), second[rows].clone()) for first, second in self.moments]
        fewer.steps = self.steps
        return fewer
