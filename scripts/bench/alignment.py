"""What alignment adds to a training step, beside the extra pass that any neural batch costs.

ResNet-18, batches of 128 task images and 128 neural images, 168 neuroids at layer4.1, log-CKA:
a step without alignment, one with a plain forward and backward pass over the neural batch, and one
with AlignmentLoss. Run: python scripts/bench/alignment.py [--size 64] [--device cpu]
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from timing import side_by_side
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from repalign.hooks import capture
from repalign.regularize import AlignmentLoss
from repalign.torchvision_import import import_torchvision

LAYER, NEUROIDS, CLASSES = "layer4.1", 168, 1000


def build(device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = import_torchvision().models.resnet18(weights=None).to(device)
    return model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, nesterov=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="side of the images in pixels")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--stimuli", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--metric", default="log-cka")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    draw = torch.Generator().manual_seed(0)
    stimuli = torch.randn(chosen.stimuli, 3, chosen.size, chosen.size, generator=draw)
    responses = torch.randn(chosen.stimuli, NEUROIDS, generator=draw)
    images = torch.randn(chosen.batch, 3, chosen.size, chosen.size, generator=draw)
    images = images.to(chosen.device)
    labels = torch.randint(CLASSES, (chosen.batch,), generator=draw).to(chosen.device)
    neural = stimuli[: chosen.batch].to(chosen.device)

    model, optimiser = build(chosen.device)
    align = AlignmentLoss(
        model, LAYER, responses, metric=chosen.metric, images=stimuli, batch_size=chosen.batch
    )

    def plain_pass() -> Tensor:
        with capture(model, [LAYER], detach=False) as seen:
            model(neural)
        return 1e-9 * seen[LAYER].sum()

    processor: dict[Callable[[], Tensor], list[float]] = {plain_pass: [], align: []}

    def step(extra: Callable[[], Tensor] | None) -> None:
        begin = time.process_time()
        loss = cross_entropy(model(images), labels)
        loss = loss if extra is None else loss + extra()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if extra is not None:
            processor[extra].append(time.process_time() - begin)
        if images.device.type == "cuda":
            torch.cuda.synchronize()

    def align_alone() -> None:
        """Only what AlignmentLoss computes from the layer on, forward and backward."""
        batch = next(align.batches)
        x = torch.randn(chosen.batch, *unit_shape, device=chosen.device, requires_grad=True)
        y = batch.responses[0].to(chosen.device)
        term = align.terms[0]
        term.loss(term.pairs([x], y)).backward()

    with capture(model, [LAYER]) as seen, torch.no_grad():
        model(neural[:2])
    unit_shape = seen[LAYER].shape[1:]
    _, seconds = side_by_side(
        f"ResNet-18 at {chosen.size} × {chosen.size}, batch {chosen.batch}, {chosen.metric}",
        {
            "task step": lambda: step(None),
            "+ plain extra pass": lambda: step(plain_pass),
            "+ AlignmentLoss": lambda: step(align),
            "metric and batch alone": align_alone,
        },
        repeats=chosen.rounds,
    )
    added = seconds["+ AlignmentLoss"] / seconds["+ plain extra pass"] - 1
    plain, aligned = (statistics.median(processor[one]) for one in (plain_pass, align))
    print(
        f"  AlignmentLoss adds {100 * added:+.1f} % to a step with a plain extra pass,"
        f" {100 * (aligned / plain - 1):+.1f} % in processor time, which other programs disturb"
        " less (goal: at most 10 %)"
    )


if __name__ == "__main__":
    main()
