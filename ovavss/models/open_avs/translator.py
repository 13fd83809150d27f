"""From names of sounds to nouns of what could be seen making them, by a curated table.

`sounds.csv` answers all 521 AudioSet classes, most with a noun and some with nothing to see. `nouns.csv` says where a
noun is found: COCO's names for the detector, index ranges of ImageNet's classes for the class maps, a more general
noun that holds for it too, and other words that a user may say for it.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

# By category id, from 1; None where COCO has no class.
_COCO = (
    "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant - stop_sign "
    "parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe - backpack umbrella - - handbag "
    "tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard "
    "tennis_racket bottle - wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot "
    "hot_dog pizza donut cake chair couch potted_plant bed - dining_table - - toilet - tv laptop mouse remote "
    "keyboard cell_phone microwave oven toaster sink refrigerator - book clock vase scissors teddy_bear "
    "hair_drier toothbrush "
)
COCO_NAMES = tuple(None if name == "-" else name.replace("_", " ") for name in _COCO.split())


@dataclass(frozen=True)
class Noun:
    """What can be seen.

    `coco` are columns of the detector's scores, `imagenet` channels of a class map, `parent` is a more general noun or
    the empty string.
    """

    name: str
    parent: str
    coco: tuple[int, ...]
    imagenet: tuple[int, ...]
    synonyms: tuple[str, ...]


def _ranges(text: str) -> tuple[int, ...]:
    parts = [part.split("-") for part in text.split(";") if part]
    return tuple(index for part in parts for index in range(int(part[0]), int(part[-1]) + 1))


def read_nouns() -> dict[str, Noun]:
    """All nouns of the table, by name."""
    with Path(__file__).with_name("nouns.csv").open(encoding="utf-8") as file:
        return {
            row["noun"]: Noun(
                row["noun"],
                row["parent"],
                tuple(COCO_NAMES.index(name) for name in row["coco"].split(";") if name),
                _ranges(row["imagenet"]),
                tuple(name for name in row["synonyms"].split(";") if name),
            )
            for row in csv.DictReader(file)
        }


def read_sounds() -> dict[str, str]:
    """For each AudioSet class the noun of what makes it, or the empty string where there is nothing to see."""
    with Path(__file__).with_name("sounds.csv").open(encoding="utf-8") as file:
        return {row["sound"]: row["noun"] for row in csv.DictReader(file)}


def _plain(name: str) -> str:
    words = " ".join(name.lower().replace("_", " ").split())
    return words[:-1] if words.endswith("s") and not words.endswith("ss") else words


class TableTranslator:
    """The curated table, for the sounds that a listener knows.

    Args:
        sounds: The listener's classes, in the order of its scores.
        explain: How strongly an exact noun explains a general one away: a general noun keeps what is left of its score
            after `explain` times the best score of the nouns below it.
    """

    def __init__(self, sounds: Sequence[str], explain: float = 2.0) -> None:
        self.sounds = tuple(sounds)
        table, nouns = read_sounds(), read_nouns()
        rows: dict[str, list[int]] = {}
        for row, sound in enumerate(sounds):
            if noun := table.get(sound, ""):
                rows.setdefault(noun, []).append(row)
        self.nouns = tuple(noun for name, noun in nouns.items() if name in rows)
        self._rows = [rows[noun.name] for noun in self.nouns]
        self._explain = explain

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all nouns."""
        return tuple(noun.name for noun in self.nouns)

    @cached_property
    def _below(self) -> list[list[int]]:
        """For each noun the positions of all that are more exact."""
        names = [noun.name for noun in self.nouns]
        below: list[list[int]] = []
        for name in names:
            found, new = set[str](), {name}
            while new:
                new = {noun.name for noun in self.nouns if noun.parent in new} - found
                found |= new
            below.append([names.index(noun) for noun in sorted(found)])
        return below

    @cached_property
    def is_general(self) -> np.ndarray:
        """Whether there are more exact nouns below each noun: bool [nouns]."""
        return np.array([bool(below) for below in self._below])

    def translate(self, scores: np.ndarray) -> np.ndarray:
        """Scores of sounds as scores of nouns.

        Args:
            scores: float32 [T, sounds] in [0, 1].

        Returns:
            float32 [T, nouns]: the best of a noun's sounds; a general noun speaks only for what no exact one explains.
        """
        own = np.stack([scores[:, rows].max(1) for rows in self._rows], axis=1)
        result = own.copy()
        for noun, below in enumerate(self._below):
            if below:
                result[:, noun] = np.maximum(0, own[:, noun] - self._explain * own[:, below].max(1))
        return result

    def match(self, names: Sequence[str]) -> dict[int, int]:
        """Which of the user's names each noun is called: position of the noun -> position of the name.

        A name is a noun of the table, one of its synonyms, or a COCO class; capitals, plurals and underscores do not
        matter. The first of two names for one noun wins.
        """
        wanted: dict[str, int] = {}
        for position, name in enumerate(names):
            wanted.setdefault(_plain(name), position)
        result = {}
        for noun, entry in enumerate(self.nouns):
            found = [wanted[_plain(word)] for word in (entry.name, *entry.synonyms) if _plain(word) in wanted]
            if found:
                result[noun] = min(found)
        return result
