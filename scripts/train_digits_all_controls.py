"""Every control, each as strong as the aligned network's clean accuracy allows, on digits.

Draws small networks to a simulated robust population and to all ten controls with six paired seeds
(the fewest with which a sign-flip test can be significant), tunes the strength of each control,
varies λ, and writes the page. Half an hour on two cores; a second run goes on where it stopped.
"""

from pathlib import Path

import repalign as ra
from repalign.robust_digits import write_robust_digits
from repalign.training_demonstration import training_config

OUT = Path("digits-all-controls")
SEEDS = range(6)
STRENGTHS = [0.1, 0.3, 1.0, 3.0]
DOSE = [0.1, 0.3, 3.0]

if __name__ == "__main__":  # its processes import this file again
    card = write_robust_digits(OUT / "raw")
    config = training_config(card, OUT, seeds=SEEDS)
    config["experiment"] |= {
        "controls": "all",
        "tune": True,
        "strengths": STRENGTHS,
        "dose": DOSE,
        "parameters": {"adversarial-training": {"eps": 0.1}},
    }
    config["robustness"]["corruptions"] = "all"
    done = ra.finetune(config, to=OUT)
    print(done.report)
