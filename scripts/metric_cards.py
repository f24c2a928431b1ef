"""Write docs/metrics.md: the cards of metrics and alignment losses, from the objects themselves.

python scripts/metric_cards.py
"""

from pathlib import Path

from repalign.metrics.catalogue import cards_page
from repalign.regularize.loss_cards import loss_cards_page

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
PAGE.write_text(f"{cards_page()}\n{loss_cards_page()}", encoding="utf-8")
print(PAGE)
