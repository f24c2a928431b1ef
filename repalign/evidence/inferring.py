"""`infer`: what a comparison of recordings with models can claim, in one call."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from typing import Any

import torch

from repalign import __version__
from repalign.choices import as_metric, as_whole_number
from repalign.evidence.chunks import number_of_workers, one_thread_each
from repalign.evidence.cka_resamples import score_cka
from repalign.evidence.claims import claim_of, warn_of_fixed_stimuli
from repalign.evidence.materials import (
    Candidate,
    Materials,
    Models,
    Recordings,
    Region,
    Subjects,
    gather,
)
from repalign.evidence.named_dimensions import to_dataset
from repalign.evidence.outcome import Inference
from repalign.evidence.plans import (
    Correction,
    Method,
    Plan,
    Test,
    check_plan,
    chosen_method,
    kind_of,
)
from repalign.evidence.predictivity_resamples import score_predictivity
from repalign.evidence.resampled import Scored
from repalign.evidence.rsa_resamples import grouped, score_fitted_rsa, score_rsa
from repalign.evidence.score_resamples import score_others
from repalign.evidence.tabling import Named, RegionFound, make_tables
from repalign.evidence.testing import run_tests
from repalign.inference.draws import Over
from repalign.inference.flexible_models import Fit
from repalign.inference.intervals import IntervalChoice
from repalign.inference.significance import Alternative
from repalign.metrics import CKA, RSA, Metric
from repalign.metrics.calls import pick_device
from repalign.metrics.predictivity import Predictivity
from repalign.progress import track


def infer(
    recording: Recordings,
    models: Models,
    metric: Metric | str | None = None,
    *,
    over: Over = "stimuli",
    subjects: Subjects = "random",
    method: Method = "auto",
    fit: Fit = "fixed",
    interval: IntervalChoice = "t",
    confidence: float = 0.95,
    test: Test = "auto",
    alternative: Alternative = "two-sided",
    correction: Correction = "holm",
    n_resamples: int = 1000,
    n_permutations: int | None = None,
    n_folds: int | None = None,
    n_repeats: int = 2,
    seed: int = 0,
    workers: int | None = None,
    device: str | torch.device = "auto",
    progress: bool = False,
) -> Inference:
    """Compare recordings with models, and say what the comparison claims.

    A model's value is the mean over subjects of ``metric``. Stimuli, subjects or both are
    resampled; values, differences of models and noise ceilings come from the same resamples.

    Args:
        recording: a recording of one or several subjects; or a list or dict of recordings (or
            arrays) with one subject each. Every (species, region) is a row of its own. Subjects
            that were shown different stimuli are restricted to those that all were shown.
        models: activations of one layer; a dict of layers, as `repalign.record` gives it; a dict of
            models with a dict of layers each; recordings, published RDMs or arrays stand for models
            too.
        metric: ``RSA()`` by default; any other, or the name of one, such as ``cka``.
        over: what the claim is over: new ``stimuli``, new ``subjects``, or ``both``.
        subjects: ``random``: one value a subject, of which the mean is taken; ``pooled``: the
            neuroids of all subjects as one population, which says nothing of new subjects.
        method: how stimuli are resampled: ``bootstrap`` (RSA), ``jackknife`` or ``subsampling``
            (CKA, RSA), ``heldout`` (predictivity: held-out predictions); ``auto`` is the first that
            suits the metric. Subjects are always bootstrapped.
        fit: ``fixed`` layers, or one value a model whose layers are ``weights`` (a non-negative
            weighted sum of RDMs), ``select`` (the best layer) or ``interpolate``: fitted and tested
            on different stimuli within each resample.
        interval: ``t``; or ``percentile`` or ``bca``, which a bootstrap of stimuli or of subjects
            has, but not of both.
        confidence: of intervals; 1 − confidence is the level of the tests.
        test: of models against chance, and of pairs: ``t``, ``sign-flip`` over subjects, or
            ``resamples``: the share of resamples beyond 0. ``auto`` flips signs if ``over`` is
            subjects, and tests t otherwise.
        alternative: of the tests against chance; pairs and ceilings are tested two-sided.
        correction: for all models (or pairs) of all regions: ``holm``, ``benjamini-hochberg``,
            ``max-t`` (joint within a region, Bonferroni over regions) or ``none``.
        n_resamples: number of resamples, 100 or more; a jackknife has one a stimulus. Values of
            fitted models are means over a fifth as many divisions into folds, 20 or more.
        n_permutations: most permutations of labels and flips of signs. None: 10 000 flips and, of
            labels, as many of 10 000 as stay quick; 200 for predictivity, which is fitted anew.
        n_folds: folds of stimuli for ``fit``; None: 5 of 40 stimuli or more, 3 of 20, else 2.
        n_repeats: divisions into folds for ``fit`` in each resample, 2 or more.
        seed: seed of all that is random.
        workers: threads that share the resamples; None is the machine's. Results are the same, bit
            for bit, on any number.
        device: ``auto``, ``cuda``, ``mps`` or ``cpu``.
        progress: show a progress bar over regions on stderr.

    Returns:
        An `Inference`: tables, all resamples with named dimensions, and the claim in a sentence.

    Raises:
        ValueError: too few stimuli (4 of RSA, 3 a fold of predictivity) or subjects (2) to
            resample, no shared stimuli, a
            method that is wrong for the metric and why, settings that do not go together, values
            that are undefined.

    Warns:
        FixedStimuliWarning: ``over="subjects"`` tests models against chance, which says nothing of
            other stimuli; once a call.

    Note:
        Over both, the variance of RSA is the two-factor corrected one (Schütt et al. 2023). CKA and
        predictivity do not survive a bootstrap over both: there it is the sum of the variance over
        stimuli and that over subjects, which counts their interaction twice, and is never too
        small.

        The variance over stimuli of predictivity is that of resampled held-out predictions times
        1 + k/(k − 1) for k folds, whose training sets overlap (Nadeau & Bengio 2003). Percentile
        intervals are without it, for the fits to these training stimuli.

        Under ``cosine`` and ``cosine_cov`` any two RDMs are alike, as are any responses under the
        biased CKA: tests are against what permuted labels score on average, in ``chance``. It is 0
        for the others.

        p values of draws move with the seed; ``p_error`` is their Monte Carlo standard error. Of a
        share of n permutations or sign flips it is √(p(1 − p)/n), of a t test whose variance is
        resampled a jackknife over 20 blocks of resamples, with the spread over divisions into folds
        where models are fitted. Random halves of repetitions, for a ceiling, are not in it.

        Pairs that are missing (NaN) in the RDM of any subject of a region are left out, for all
        its subjects and the models, as `repalign.compare` does; comparators that need all pairs
        (whitened ones and Bures similarity) refuse them, and a model must have all that the
        subjects have. Labels are not permuted then.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> truth = random.normal(size=(30, 8))
        >>> brains = {name: truth + random.normal(size=(30, 8)) for name in ("a", "b", "c")}
        >>> nets = {"good": truth, "other": random.normal(size=(30, 8))}
        >>> found = infer(brains, nets, n_resamples=200)
        >>> found.table[["name", "verdict"]].values.tolist()
        [['good', 'above chance; related; above the lower ceiling'], \
['other', 'not told from chance; no relation shown; below the ceiling']]
        >>> found.claim.split(";")[0]
        'Over new stimuli of this kind, for these subjects and no others'

    Reference:
        Schütt et al. 2023, https://doi.org/10.7554/eLife.82566; Nili et al. 2014,
        https://doi.org/10.1371/journal.pcbi.1003553; Nadeau & Bengio 2003,
        https://doi.org/10.1023/A:1024068626366
    """
    metric = as_metric(metric)
    where = pick_device(device)
    plan = Plan(
        over=over,
        method=chosen_method(metric, method, over=over, fit=fit),
        fit=fit,
        interval=interval,
        confidence=confidence,
        test=test,
        alternative=alternative,
        correction=correction,
        n_resamples=as_whole_number(n_resamples, "n_resamples"),
        n_permutations=_whole_or_none(n_permutations, "n_permutations"),
        n_folds=_whole_or_none(n_folds, "n_folds"),
        n_repeats=as_whole_number(n_repeats, "n_repeats"),
        seed=as_whole_number(seed, "seed"),
        workers=number_of_workers(workers, where),
        device=where,
    )
    check_plan(plan)
    if subjects == "pooled" and over != "stimuli":
        raise ValueError(
            "Pooled neuroids are one population: nothing is known of new subjects. Use"
            f" over='stimuli', or subjects='random' with over={over!r}."
        )
    with one_thread_each():
        materials = gather(recording, models, metric, subjects=subjects, device=where)
        names = _names(materials, plan)
        _check_subjects(materials, plan)
        found, notes = [], list(materials.notes)
        for region in track(materials.regions, f"{metric.name}: resampling", show=progress):
            scored = _scored(metric, region, materials.candidates, plan)
            _check_defined(scored, names, region)
            tests, left_out = run_tests(metric, region, materials.candidates, scored, plan)
            found.append(RegionFound(region, scored, tests))
            notes += _undefined(scored, region) + left_out
    if any(test.hypothesis == "chance" for one in found for test in one.tests):
        warn_of_fixed_stimuli(plan)
    tables = make_tables(found, names, metric, plan)
    settings = _settings(metric, plan, subjects)
    return Inference(
        table=tables.table,
        tests=tables.tests,
        pairs=tables.pairs,
        claim=claim_of(materials.regions, len(names), pooled=subjects == "pooled", plan=plan),
        notes=tuple(dict.fromkeys(notes)),
        settings=settings,
        provenance=_provenance(materials),
        _resamples=to_dataset(found, names, materials.stimuli),
    )


def _whole_or_none(value: int | None, name: str) -> int | None:
    return None if value is None else as_whole_number(value, name, least=1)


def _names(materials: Materials, plan: Plan) -> list[Named]:
    if plan.fit == "fixed":
        return [Named(one.name, one.model, one.layer) for one in materials.candidates]
    groups = grouped(materials.candidates)
    if all(len(layers) == 1 for layers in groups.values()):
        raise ValueError(
            f"fit={plan.fit!r} needs a model with 2 or more layers; each of"
            f" {', '.join(list(groups)[:5])} has one. Pass a dict of layers, or"
            " {'name': {'layer': …}}."
        )
    return [Named(name, name, None) for name in groups]


def _check_subjects(materials: Materials, plan: Plan) -> None:
    """Raise a ValueError that names the regions with too few subjects to resample them."""
    few = [region for region in materials.regions if len(region.brains) < 2]
    if plan.over != "stimuli" and few:
        raise ValueError(
            f"{few[0].called or 'The recording'} has 1 subject ({few[0].subjects[0]!r}); new"
            f" subjects can be told of with 2 or more. Leave it out (select, or --select), or use"
            " over='stimuli'."
        )


def _scored(metric: Metric, region: Region, candidates: Sequence[Candidate], plan: Plan) -> Scored:
    kind = kind_of(metric)
    if kind == "rsa" and isinstance(metric, RSA):
        score = score_rsa if plan.fit == "fixed" else score_fitted_rsa
        return score(metric, region, candidates, plan)
    if kind == "cka" and isinstance(metric, CKA):
        return score_cka(metric, region, candidates, plan)
    if isinstance(metric, Predictivity):
        return score_predictivity(metric, region, candidates, plan)
    return score_others(metric, region, candidates, plan)


def _check_defined(scored: Scored, names: Sequence[Named], region: Region) -> None:
    """Raise a ValueError that names models whose values are undefined."""
    undefined = ~scored.values.isfinite()
    if not bool(undefined.any()):
        undefined = ~scored.variances.models.isfinite()
    if bool(undefined.any()):
        which = [names[i].name for i in undefined.nonzero()[:, 0].tolist()]
        raise ValueError(
            f"The value of {', '.join(map(repr, which[:5]))} with"
            f" {region.called or 'the recording'} is undefined, in the data or in all resamples: an"
            " RDM is constant, or responses are. Leave it out."
        )


def _undefined(scored: Scored, region: Region) -> list[str]:
    said = []
    for name, part in scored.parts.items():
        undefined = int((~part.models.isfinite().all(1)).sum())
        if undefined:
            said.append(
                f"{undefined} of {len(part.models)} resamples over {name} leave a value of"
                f" {region.called or 'the recording'} undefined and are left out of variances"
            )
    if scored.divisions is not None:
        undefined = int((~scored.divisions[:, :-1].isfinite().all(1)).sum())
        if undefined:
            said.append(
                f"{undefined} of {len(scored.divisions)} divisions into folds leave a value of"
                f" {region.called or 'the recording'} undefined and are left out of values"
            )
    return said


def _settings(metric: Metric, plan: Plan, subjects: str) -> dict[str, Any]:
    """What `infer` is called with to compute it again, but for data, workers and device."""
    kept = {
        name: value
        for name, value in dataclasses.asdict(plan).items()
        if name not in ("workers", "device")
    }
    parameters: dict[str, Any] = {}
    parameters |= dataclasses.asdict(metric) if dataclasses.is_dataclass(metric) else {}
    return {"metric": metric.name, "metric_parameters": parameters, "subjects": subjects, **kept}


def _provenance(materials: Materials) -> dict[str, Any]:
    import numpy as np

    return {
        "repalign": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "recordings": {
            f"{region.called} {name}".strip(): brain.fingerprint
            for region in materials.regions
            for name, brain in zip(region.subjects, region.brains, strict=True)
        },
        "models": {one.name: one.population.fingerprint for one in materials.candidates},
    }
