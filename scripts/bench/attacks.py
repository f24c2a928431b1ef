"""PGD beside foolbox's and ART's on the same networks: same steps, step size and restarts.

Prints medians, the ratio to foolbox, extra peak memory, the accuracy that each leaves, and the
floor: as many forward passes and gradients of the images as PGD has steps, and nothing else.

    python scripts/bench/attacks.py              # every row, about ten minutes on two cores
    python scripts/bench/attacks.py small        # the small network alone
"""

import sys
import warnings
from collections.abc import Callable

import numpy as np
import torch
from timing import side_by_side
from torch import Tensor, nn

from repalign.robustness import APGD, FGSM, PGD, Square
from repalign.torchvision_import import import_torchvision

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import foolbox
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.attacks.evasion.projected_gradient_descent import (
        projected_gradient_descent_pytorch as art_pgd,
    )
    from art.estimators.classification import PyTorchClassifier

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EPS = {"Linf": 4 / 255, "L2": 0.5}
FOOLBOX = {
    "Linf": foolbox.attacks.LinfProjectedGradientDescentAttack,
    "L2": foolbox.attacks.L2ProjectedGradientDescentAttack,
}
POWERS = {"Linf": np.inf, "L2": 2}


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


def resnet18() -> nn.Module:
    module: nn.Module = import_torchvision().models.resnet18(weights=None)
    return module


def synchronised(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Wait for the GPU where there is one, so that the clock sees all the work."""

    def run() -> Tensor:
        result = function()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def problem(build: Callable[[], nn.Module], batch: int, size: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = build().eval().to(DEVICE)
    return model, torch.rand(batch, 3, size, size, device=DEVICE)


def wrapped_by_art(model: nn.Module, images: Tensor) -> PyTorchClassifier:
    return PyTorchClassifier(
        model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(images.shape[1:]),
        nb_classes=model(images[:1]).shape[1],
        clip_values=(0.0, 1.0),
        device_type="gpu" if DEVICE.type == "cuda" else "cpu",
    )


def bench_pgd(
    title: str,
    build: Callable[[], nn.Module],
    *,
    batch: int,
    size: int,
    steps: int = 20,
    repeats: int = 7,
) -> None:
    model, images = problem(build, batch, size)
    labels = model(images).argmax(1)  # else nothing would be left to attack
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device=DEVICE)
    classifier, numbers = wrapped_by_art(model, images), images.cpu().numpy()
    for norm, eps in EPS.items():
        step = 2.5 * eps / steps
        peer = FOOLBOX[norm](abs_stepsize=step, steps=steps, random_start=True)
        art = art_pgd.ProjectedGradientDescentPyTorch(
            classifier,
            norm=POWERS[norm],
            eps=eps,
            eps_step=step,
            max_iter=steps,
            num_random_init=1,
            batch_size=batch,
            verbose=False,
        )
        attack = PGD(norm=norm, steps=steps, step_size=step)

        def floor(model=model, images=images, labels=labels) -> Tensor:
            for _ in range(steps):
                x = images.clone().requires_grad_()
                loss = nn.functional.cross_entropy(model(x), labels, reduction="sum")
                torch.autograd.grad(loss, x)
            return images

        functions = {
            "foolbox": lambda p=peer, e=eps: p(theirs, images, labels, epsilons=e)[1],
            "repalign": lambda a=attack, e=eps: a(model, images, labels, eps=e),
            "ART": lambda a=art: torch.from_numpy(a.generate(numbers, labels.cpu().numpy())),
            "passes alone": floor,
        }
        functions = {name: synchronised(function) for name, function in functions.items()}
        row = f"PGD-{steps}, {norm}, {title}, batch {batch}, {size} pixels"
        results, _ = side_by_side(row, functions, repeats=repeats)
        with torch.no_grad():
            left = {n: model(x.to(DEVICE)).argmax(1) == labels for n, x in results.items()}
        shares = (f"{name} {100 * kept.float().mean():.1f} %" for name, kept in left.items())
        print(f"  accuracy left: {', '.join(shares)}")


def bench_small() -> None:
    for batch in (32, 128):
        bench_pgd("small network", small_network, batch=batch, size=32, repeats=12)


def bench_resnet18() -> None:
    for batch in (32, 128):
        bench_pgd("ResNet-18", resnet18, batch=batch, size=64, repeats=4)


def bench_others() -> None:
    model, images = problem(small_network, 64, 32)
    labels = model(images).argmax(1)
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device=DEVICE)
    classifier = wrapped_by_art(model, images)
    numbers, eps = images.cpu().numpy(), 1 / 255
    apgd = AutoProjectedGradientDescent(
        classifier,
        eps=eps,
        eps_step=2 * eps,
        max_iter=50,
        nb_random_init=1,
        batch_size=128,
        loss_type="cross_entropy",
        verbose=False,
    )
    square = SquareAttack(classifier, eps=eps, max_iter=200, batch_size=128, verbose=False)
    fgsm = foolbox.attacks.LinfFastGradientAttack()
    rows = {
        "FGSM": (
            lambda: fgsm(theirs, images, labels, epsilons=eps)[1],
            lambda: FGSM()(model, images, labels, eps=eps),
        ),
        "APGD-CE, 50 steps (ART)": (
            lambda: torch.from_numpy(apgd.generate(numbers, labels.cpu().numpy())),
            lambda: APGD(steps=50, loss="ce")(model, images, labels, eps=eps),
        ),
        "Square, 200 queries (ART)": (
            lambda: torch.from_numpy(square.generate(numbers, labels.cpu().numpy())),
            lambda: Square(queries=200)(model, images, labels, eps=eps),
        ),
    }
    for title, (peer, own) in rows.items():
        functions = {"peer": synchronised(peer), "repalign": synchronised(own)}
        results, _ = side_by_side(f"{title}, small network, batch 64", functions, repeats=4)
        with torch.no_grad():
            left = [(model(x.to(DEVICE)).argmax(1) == labels).float() for x in results.values()]
        print(f"  accuracy left: {', '.join(f'{100 * one.mean():.1f} %' for one in left)}")


BENCHES = {"small": bench_small, "resnet18": bench_resnet18, "others": bench_others}
print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {DEVICE}")
for chosen in sys.argv[1:] or BENCHES:
    BENCHES[chosen]()
