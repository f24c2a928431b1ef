"""What is resampled: checked RDMs of models and subjects, and the comparator."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from repalign.inference.draws import Draws
from repalign.inference.resampled_products import PairProducts
from repalign.inference.resampled_ranks import RANKED
from repalign.metrics.calls import Array, Device
from repalign.metrics.comparators import check_choice, comparator_named
from repalign.metrics.gram import in_working_precision
from repalign.metrics.pairs import check_same_pairs, stacked_rdms, stimulus_count

PRODUCTS = {  # comparator: whether RDMs are centred, whether products are whitened
    "cosine": (False, False),
    "corr": (True, False),
    "cosine_cov": (False, True),
    "corr_cov": (True, True),
}
RESAMPLED = (*PRODUCTS, *RANKED)


@dataclass(frozen=True)
class Problem:
    """Checked RDMs of the same stimuli, and which pairs all of them hold.

    Args:
        models: condensed, model × pair, in float64.
        subjects: condensed, subject × pair, in float64; pairs that are not kept hold 0.
        kept: pairs that no subject misses.
        comparator: a name in ``RESAMPLED``.
    """

    models: Float[Tensor, "model pair"]
    subjects: Float[Tensor, "subject pair"]
    kept: Bool[Tensor, "pair"]
    comparator: str

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli."""
        return stimulus_count(self.models.shape[1])

    @property
    def products(self) -> PairProducts | None:
        """Subjects and models for their products; None if the comparator takes ranks."""
        if self.comparator not in PRODUCTS:
            return None
        centred, whitened = PRODUCTS[self.comparator]
        return PairProducts.of(
            torch.cat([self.subjects, self.models]),
            self.kept,
            n_stimuli=self.n_stimuli,
            centred=centred,
            whitened=whitened,
        )


def checked_problem(
    models: Array, subjects: Array, *, comparator: str, device: Device = None
) -> Problem:
    """Return RDMs to be resampled, or raise a ValueError that says what is wrong with them."""
    name = comparator_named(comparator).name
    check_choice(name, RESAMPLED, "RDM comparator with resampling")
    of_subjects = in_working_precision(stacked_rdms(subjects, name="subjects", device=device))
    of_models = in_working_precision(
        stacked_rdms(models, name="models", device=of_subjects.device)
    ).detach()
    of_subjects = of_subjects.detach()
    check_same_pairs(of_models, of_subjects)
    missing = of_subjects.isnan().any(0)
    in_models = int((of_models.isnan() & ~missing).sum())
    if in_models:
        raise ValueError(
            f"The model RDMs hold {in_models} NaN where no subject does; a model must predict all "
            "pairs. Leave out the stimuli concerned (under the correlation distance: those with "
            "constant patterns)."
        )
    if bool(missing.any()) and name in PRODUCTS and PRODUCTS[name][1]:
        raise ValueError(
            f"{int(missing.sum())} pairs are missing (NaN) in a subject; {name} in resamples needs "
            "all pairs. Leave out the stimuli concerned, or use comparator='cosine' or 'corr', "
            "which leave out the pairs."
        )
    if int((~missing).sum()) < 3:
        raise ValueError(
            f"{int((~missing).sum())} pairs are known in all {len(of_subjects)} subjects; at least "
            "3 are needed. Leave out the subjects that miss most."
        )
    zeros = of_models.masked_fill(missing, 0), of_subjects.masked_fill(missing, 0)
    return Problem(*zeros, ~missing, name)


def check_same_sizes(problem: Problem, draws: Draws) -> None:
    """Raise a ValueError unless the draws are of as many stimuli and subjects."""
    expected = (problem.n_stimuli, len(problem.subjects))
    found = (draws.stimuli.shape[1], draws.subjects.shape[1])
    if expected != found:
        raise ValueError(
            f"The draws are of {found[0]} stimuli and {found[1]} subjects; the RDMs have "
            f"{expected[0]} and {expected[1]}. Draw anew for these RDMs."
        )
