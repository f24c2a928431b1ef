"""Write docs/metrics.md: the card of every metric, from the metrics themselves.

python scripts/metric_cards.py
"""

from pathlib import Path

from repalign.metrics.catalogue import cards_page

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
PAGE.write_text(cards_page(), encoding="utf-8")
print(PAGE)
