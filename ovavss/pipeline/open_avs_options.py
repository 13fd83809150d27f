"""The thresholds and switches of OpenAVS."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OpenAvsOptions:
    """Thresholds and switches of the steps.

    Attributes:
        min_loudness: Root mean square of a second below which it is silent.
        min_heard: Least score of a noun that is looked for, in [0, 1].
        min_seen: Least score of a noun in the picture, in [0, 1].
        min_score: Least product of the two for a mask.
        general_weight: Weight of general nouns such as "animal" beside exact ones.
        smoothing: Share of a run's mean in every second's sounds.
        agreement: Share of a run's mean in every second's choice of a noun.
        box_trust: How much of a box's score stays where the class maps see nothing of the noun: 1 - box_trust.
        min_box: Least score of a box that is used as a prompt.
        box_priority: Least score of such a box, relative to the class maps' peak.
        instances: Further boxes count as further instances of the noun from this share of the best score on.
        zoom: Side of the square that the masker sees, relative to the boxes' longer side; 0 shows it all, as
            do points, whose region is often a part of an object.
        tiles: Squares along the longer side that the detector sees beside the whole picture.
    """

    min_loudness: float = 0.004
    min_heard: float = 0.05
    min_seen: float = 0.05
    min_score: float = 0.02
    general_weight: float = 0.5
    smoothing: float = 0.5
    agreement: float = 0.0
    box_trust: float = 0.6
    min_box: float = 0.15
    box_priority: float = 0.3
    instances: float = 1.0
    zoom: float = 1.4
    tiles: int = 2
