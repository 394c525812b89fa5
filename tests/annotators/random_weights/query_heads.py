from __future__ import annotations

from collections.abc import Callable, Sequence


def spread(network, heads: Sequence, run: Callable[[], object]) -> None:
    """Give a random network of masks with classes something to say.

    As it is initialised, all its queries answer the same everywhere, which no test could tell from
    a constant. Here the last layers before the answers (for classes, masks, places) lose what their
    outputs have in common, and grow.
    """
    import torch

    layers = [
        [one for one in head.modules() if isinstance(one, torch.nn.Linear | torch.nn.Conv2d)][-1]
        for head in heads
    ]
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Embedding):
                torch.nn.init.normal_(layer.weight, std=4)
            elif isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                fan_in = layer.weight[0].numel()
                torch.nn.init.normal_(layer.weight, std=0.8 * fan_in**-0.5)
        # The answers of the masks steer the queries, so once is not enough.
        for layer in (*layers, *layers):
            centre(layer, run)


def centre(layer, run: Callable[[], object], deviation: float = 3) -> None:
    """Shift and scale the outputs of a layer to mean 0 and the deviation."""
    import torch

    said = []
    hook = layer.register_forward_hook(lambda *call: said.append(call[2]))
    run()
    hook.remove()
    is_image = isinstance(layer, torch.nn.Conv2d)
    values = said[-1].movedim(1, -1) if is_image else said[-1]
    values = values.flatten(0, -2)
    factor = deviation / values.std(0).mean()
    layer.bias.copy_((layer.bias - values.mean(0)) * factor)
    layer.weight *= factor
