"""The sandwich step in PyTorch: eager, channels last, all three networks by masks; on a GPU where JAX has one."""

import numpy as np
import torch
from torch.nn import functional

from scripts.bench.networks import cores
from scripts.bench.pytorch import Network


def sandwich_step(graph, batch, dtype='float32'):
    """Return the step as a function of nothing: largest, smallest, a site mutated per example, and the update."""
    torch.set_num_threads(cores())
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    channels_last = {'memory_format': torch.channels_last}
    network = Network(graph).to(device, **channels_last)
    lower = torch.autocast(device, torch.bfloat16, enabled=dtype == 'bfloat16')
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=1e-5)
    rng = np.random.default_rng(0)
    bytes_in = torch.tensor(rng.integers(0, 256, (batch, *graph.input_shape), np.uint8), device=device)
    bytes_in = bytes_in.permute(0, 3, 1, 2)
    labels = torch.tensor(rng.integers(0, graph.num_classes, batch), device=device)

    def loss(images, targets, narrowed=None):
        with lower:
            logits = network(images, narrowed)
        return logits, functional.cross_entropy(logits.float(), targets)

    def step():
        images = ((bytes_in.float() - 128) / 64).contiguous(**channels_last)
        optimiser.zero_grad()
        logits, own = loss(images, labels)
        own.backward()
        soft = logits.detach().float().softmax(1)
        for widths in (graph.smallest[None], mutated(graph, batch, rng)):
            loss(images, soft, masks(graph, widths, device))[1].backward()
        optimiser.step()
        if device == 'cuda':
            torch.cuda.synchronize()

    return step


def masks(graph, widths, device):
    """Return the masks of widths [networks sites], float [networks channels] by site."""
    return {
        site.name: (
            torch.arange(site.choices[-1], device=device) < torch.tensor(own, device=device)[:, None]
        ).float()
        for site, own in zip(graph.sites, widths.T, strict=True)
    }


def mutated(graph, batch, rng):
    """Draw widths [batch sites]: one site of each example's own is redrawn, all others are the largest."""
    choices = np.tile(graph.num_choices - 1, (batch, 1))
    sites = rng.integers(graph.num_sites, size=batch)
    choices[np.arange(batch), sites] = rng.integers(graph.num_choices[sites])
    return graph.to_widths(choices)
