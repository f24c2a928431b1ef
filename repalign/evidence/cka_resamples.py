"""CKA of every subject with every model, in subsets of the stimuli and resamples of subjects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from repalign.evidence.chunks import in_chunks
from repalign.evidence.materials import Candidate, Region
from repalign.evidence.plans import Plan, make_draws
from repalign.evidence.resampled import Scored, join, over_subjects
from repalign.evidence.score_resamples import scored, subject_draws
from repalign.evidence.split_halves import split_half_of_grams
from repalign.inference import Draws, Evaluations
from repalign.inference.cka_intervals import SubsampledProducts
from repalign.inference.evaluations import pooled_ceilings
from repalign.inference.label_permutations import chance_of_products
from repalign.metrics import CKA
from repalign.metrics.cka import centre_gram


def score_cka(metric: CKA, region: Region, candidates: Sequence[Candidate], plan: Plan) -> Scored:
    """Linear CKA: subsets of the stimuli, or all but one, and the bootstrap of subjects."""
    brains = [brain.prepared for brain in region.brains]
    models = [one.prepared for one in candidates]
    n_stimuli, n_subjects = len(brains[0]), len(brains)
    drawn = {}
    if plan.over != "subjects":
        drawn["stimuli"] = make_draws(replace(plan, over="stimuli"), n_stimuli, n_subjects)
    if plan.over != "stimuli":
        drawn["subjects"] = subject_draws(plan, n_stimuli, n_subjects)

    def products_in(part: Draws) -> tuple[Tensor, Tensor]:
        """Similarity with the models, and products of subjects, in subsets of the stimuli."""
        products = SubsampledProducts([*brains, *models], part.stimuli, debiased=metric.debiased)
        each = range(n_subjects + len(models))
        squares = [products.of(i, i) for i in each]
        values = [
            [products.of(s, m) / (squares[s].sqrt() * squares[m].sqrt()) for m in each[n_subjects:]]
            for s in range(n_subjects)
        ]
        peers = torch.stack([torch.stack(squares[:n_subjects])] * n_subjects)
        for s in range(n_subjects):
            for other in range(s + 1, n_subjects):
                peers[s, other] = peers[other, s] = products.of(s, other)
            peers[s, s] = squares[s]
        return torch.stack([torch.stack(row) for row in values]).permute(2, 0, 1), peers

    def evaluate(part: Draws, _: slice) -> Evaluations:
        values, peers = products_in(part)
        counts = part.subjects.to(values).T
        return Evaluations(values.mean(1), *_pooled(peers, counts))

    whole = Draws(
        torch.ones(1, n_stimuli, dtype=torch.int64),
        torch.ones(1, n_subjects, dtype=torch.int64),
        "stimuli",
        "subsampling",
    )
    by_subject, peers = products_in(whole)
    by_subject = by_subject[0]
    parts: dict[str, Evaluations] = {}
    if "stimuli" in drawn:
        parts["stimuli"] = join(in_chunks(evaluate, drawn["stimuli"], workers=plan.workers))
    if "subjects" in drawn:
        counts = drawn["subjects"].subjects.to(by_subject).T
        bounds = _pooled(peers.expand(-1, -1, counts.shape[1]), counts)
        parts["subjects"] = join([over_subjects(by_subject, drawn["subjects"], bounds)])
    low, high = _pooled(peers, torch.ones(n_subjects, 1).to(peers))
    ceilings = (float(low[0]), float(high[0]), "over subjects")
    of_models = unit_grams(metric, models)
    if n_subjects == 1:
        one = split_half_of_grams(metric, region.brains[0], parts, drawn["stimuli"], plan)
        ceilings, parts = (one[0], one[0], one[2]), dict(one[1])
    return scored(
        by_subject,
        ceilings,
        parts,
        drawn,
        plan,
        chance=torch.stack(
            [chance_of_products(of_models, brain) for brain in unit_grams(metric, brains)]
        ),
    )


def _pooled(peers: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Both ceilings, from products of subjects: subject × subject × resample."""
    squares = peers.diagonal(dim1=0, dim2=1).T
    pool = (counts / squares.sqrt()).where(counts > 0, 0)
    return pooled_ceilings((peers * pool[None]).sum(1), squares, pool, counts)


def unit_grams(metric: CKA, populations: Sequence[Tensor]) -> Tensor:
    """Centred Gram matrices of unit length: CKA is the sum of the products of their entries."""
    centred = torch.stack([centre_gram(one, debiased=metric.debiased) for one in populations])
    return centred / centred.square().sum((1, 2), keepdim=True).sqrt()
