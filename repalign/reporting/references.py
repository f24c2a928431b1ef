"""References as BibTeX, from the sentences in which cards cite."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, count

CITED = re.compile(r"(?P<authors>.+?) \((?P<year>\d{4})\)\. (?P<title>.+?[.?!]) (?P<venue>.+)")
PLACE = re.compile(
    r"(?P<journal>.+?) (?P<volume>\d+)(?:\((?P<number>[^)]+)\))?"
    r"(?:[:,] ?(?P<pages>\d+(?:[-–]+\d+)?))?"
)
CONFERENCES = ("CVPR", "ICCV", "ECCV", "ICLR", "ICML", "NeurIPS", "NIPS", "AAAI", "ACL")
SPECIAL = {  # BibTeX counts braces, also those behind a backslash
    "\\": r"\textbackslash{}", "{": "(", "}": ")", "%": r"\%", "&": r"\&", "#": r"\#",
    "$": r"\$", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """Something to cite.

    Args:
        text: as a card cites: ``Authors (year). Title. Journal volume(number):pages.``
        address: a DOI or URL; None where there is none.
        used_by: names of the recordings and models that it stands for.
    """

    text: str
    address: str | None = None
    used_by: tuple[str, ...] = ()

    @property
    def link(self) -> str:
        """The address as a URL, empty where there is none."""
        if not self.address:
            return ""
        return f"https://doi.org/{self.address}" if self.address[:3] == "10." else self.address

    @property
    def sentence(self) -> str:
        """The text with its address."""
        text = " ".join(self.text.split())
        known = not self.address or self.address in text
        return text if known else f"{text} {self.link}"


def work_of(sentence: str) -> Work:
    """A work from a sentence that may end in its address."""
    text, _, address = " ".join(sentence.split()).rpartition(" ")
    if not address.startswith(("https://", "http://")):
        return Work(" ".join(sentence.split()))
    return Work(text, address.removeprefix("https://doi.org/"))


def bibtex(works: Iterable[Work]) -> str:
    """One entry a work, with keys that differ.

    What is not cited in the form above becomes a ``@misc`` whose note is the whole text.

    Example:
        >>> print(bibtex([Work("Tan & Le (2019). EfficientNet. ICML.", "10.1/x")]))
        @inproceedings{tan2019,
          author = {Tan and Le},
          title = {{EfficientNet}},
          booktitle = {ICML},
          year = {2019},
          doi = {10.1/x},
        }
        <BLANKLINE>
    """
    entries, keys = [], set[str]()
    for work in works:
        kind, fields = _fields(work)
        key = base = _key(fields)
        more = chain("bcdefghijklmnopqrstuvwxyz", count(27))
        while key in keys:
            key = f"{base}{next(more)}"
        keys.add(key)
        lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items() if value)
        entries.append(f"@{kind}{{{key},\n{lines}}}\n")
    return "\n".join(entries)


def _fields(work: Work) -> tuple[str, dict[str, str]]:
    address = work.address or ""
    where = {"doi" if address[:3] == "10." else "url": _plain(address)}
    match = CITED.fullmatch(" ".join(work.text.split()))
    if match is None:
        return "misc", {"note": _escaped(" ".join(work.text.split())), **where}
    kind, venue = _venue(match["venue"])
    title = match["title"].removesuffix(".")
    return kind, {
        "author": _authors(match["authors"]),
        "title": f"{{{_escaped(title)}}}",  # capitals stay
        **venue,
        "year": match["year"],
        **where,
    }


def _venue(text: str) -> tuple[str, dict[str, str]]:
    first, stop, rest = text.partition(". ")
    note = {"note": _escaped(rest)} if stop else {}
    first = first.removesuffix(".")
    if ": " in first:  # words of another kind than a journal
        return "misc", {"note": _escaped(text)}
    if first in CONFERENCES:
        return "inproceedings", {"booktitle": first, **note}
    if first.startswith("arXiv:"):
        return "misc", {"howpublished": _escaped(first), **note}
    match = PLACE.fullmatch(first)
    if match is None:
        return "article", {"journal": _escaped(first), **note}
    found = {name: _escaped(value) for name, value in match.groupdict().items() if value}
    if "pages" in found:
        found["pages"] = re.sub("[-–]+", "--", found["pages"])
    return "article", {**found, **note}


def _authors(text: str) -> str:
    """Names parted by "and"; initials after a family name get their dots."""
    text, others, _ = text.partition(" et al.")
    names = [name.strip() for name in re.split(r", | & | and ", text) if name.strip()]
    written = []
    for name in names:
        match = re.fullmatch(r"(?P<family>.+) (?P<initials>[A-Z]{1,4})", name)
        family = _escaped(match["family"] if match else name)
        dots = " ".join(f"{letter}." for letter in match["initials"]) if match else ""
        written.append(f"{family}, {dots}" if dots else family)
    return " and ".join([*written, *(["others"] if others else [])])


def _key(fields: dict[str, str]) -> str:
    """First author and year, in plain letters."""
    first = re.split(r" and |,", fields.get("author", "")) or [""]
    family = unicodedata.normalize("NFKD", first[0].split(" ")[-1])
    plain = re.sub("[^a-z0-9]", "", family.lower())
    return f"{plain or 'work'}{fields.get('year', '')}"


def _escaped(text: str) -> str:
    """Text in which no sign has a meaning for TeX."""
    return "".join(SPECIAL.get(sign, sign) for sign in text)


def _plain(address: str) -> str:
    """An address as it is, without the signs that would end the field."""
    return re.sub(r"[{}\\\s]", "", address)
