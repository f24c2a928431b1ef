"""The figure of power against the number of stimuli."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repalign.designs import Power
from repalign.reporting.condition_looks import blank_figure, legend_below
from repalign.reporting.panels import MARKERS, SMALL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WANTED = 0.8


def power_curves(found: Power) -> Figure:
    """Draw power against the number of stimuli: a line a number of subjects, a panel a repetition.

    Bars are 95 % intervals, with what the pilot leaves open of the effect, the dashed line a power
    of .8. A number of subjects with which the test cannot be significant is named so.

    Example:
        >>> save_figure(power_curves(power(pilot, layers, ...)), "power.pdf")  # doctest: +SKIP
    """
    repetitions = list(dict.fromkeys(one.repetitions for one in found.designs))
    subjects = list(dict.fromkeys(one.n_subjects for one in found.designs))
    width = 4.2 if len(repetitions) == 1 else min(7.2, 2.6 * len(repetitions) + 0.6)
    fig, axes = blank_figure(1, len(repetitions), height=2.9, width=width, sharey=True)
    from matplotlib.transforms import ScaledTranslation

    entries = {}
    for place, n in enumerate(subjects):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        style = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.4}
        hopeless = found.smallest_p[n] > found.alpha
        name = f"{n} subjects" + (f" (smallest p {found.smallest_p[n]:.3g})" if hopeless else "")
        entries[name] = style
        for ax, r in zip(axes[0], repetitions, strict=True):
            line = [one for one in found.designs if (one.n_subjects, one.repetitions) == (n, r)]
            x, y = [one.n_stimuli for one in line], [one.power for one in line]
            reach = [
                [max(0, a.power - a.low) for a in line],
                [max(0, a.high - a.power) for a in line],
            ]
            aside = ScaledTranslation(
                (place - (len(subjects) - 1) / 2) / 18, 0, fig.dpi_scale_trans
            )
            beside = {"transform": ax.transData + aside}  # bars that stand beside each other
            ax.errorbar(x, y, yerr=reach, capsize=2, gid=f"subjects:{n}", **beside, **style)
    for ax, r in zip(axes[0], repetitions, strict=True):
        ax.axhline(WANTED, color="#7f7f7f", linewidth=0.8, linestyle=(0, (4, 2)))
        ax.set_ylim(-0.03, 1.03)
        sizes = sorted({one.n_stimuli for one in found.designs})
        beyond = 0.08 * (sizes[-1] - sizes[0]) or 1
        ax.set_xlim(sizes[0] - beyond, sizes[-1] + beyond)
        ax.set_xticks(sizes)
        ax.set_xlabel("stimuli", fontsize=SMALL)
        if len(repetitions) > 1:
            ax.set_title(f"{r} session{'s' if r > 1 else ''} a subject", fontsize=SMALL)
    axes[0, 0].set_ylabel(f"power at alpha {found.alpha:g}", fontsize=SMALL)
    claim, _, how = found.claim.partition(": ")
    fig.suptitle(f"{claim}\n({how})", fontsize=SMALL)
    legend_below(fig, entries)
    return fig
