"""How much memory a training step needs, found by doing it with tensors that have no numbers.

Both networks run forward and backward on the meta device. Every tensor that comes and goes is
counted, in the types that autocast would give it, with attention as the fused kernels keep it. What
is not seen: the workspaces of convolution kernels, gaps between tensors, and the device's own
context (some hundred MB); `torch.compile` needs less.
"""

from __future__ import annotations
