"""The curated table and what it makes of scores."""

import numpy as np
import pytest

from ovavss.models.open_avs.translator import COCO_NAMES, TableTranslator, read_nouns, read_sounds


@pytest.fixture(scope="module")
def translator() -> TableTranslator:
    return TableTranslator(list(read_sounds()))


def heard(translator: TableTranslator, **sounds: float) -> dict[str, float]:
    """The nouns that have a score for these sounds."""
    scores = np.zeros((1, len(read_sounds())), np.float32)
    for name, score in sounds.items():
        scores[0, list(read_sounds()).index(name)] = score
    values = translator.translate(scores)[0]
    return {noun.name: float(value) for noun, value in zip(translator.nouns, values) if value}


def test_every_sound_is_answered_and_every_noun_can_be_found() -> None:
    sounds, nouns = read_sounds(), read_nouns()
    assert len(sounds) == 521 and sum(not noun for noun in sounds.values()) > 150
    assert {noun for noun in sounds.values() if noun} <= set(nouns)
    for noun in nouns.values():
        assert noun.coco or noun.imagenet or noun.name == "blender", noun.name
        assert not noun.parent or noun.parent in nouns
        assert all(0 <= index < 1000 for index in noun.imagenet)
        assert all(COCO_NAMES[column] for column in noun.coco)


def test_a_general_noun_speaks_only_for_what_no_exact_one_explains(translator: TableTranslator) -> None:
    assert heard(translator, Animal=0.5) == pytest.approx({"animal": 0.5})
    assert heard(translator, Animal=0.5, Bark=0.3) == pytest.approx({"dog": 0.3})
    assert heard(translator, Animal=0.5, Bark=0.1) == pytest.approx({"dog": 0.1, "animal": 0.3})
    # "animal" is two steps above "owl".
    assert heard(translator, Animal=0.5, Owl=0.3) == pytest.approx({"owl": 0.3})


def test_silence_and_music_show_nothing(translator: TableTranslator) -> None:
    assert heard(translator, Silence=0.9, Reggae=0.8, Rain=0.9) == {}


def test_users_names_are_answered_in_their_own_words(translator: TableTranslator) -> None:
    names = ["Dogs", "woman", "unknown", "man", "fire_truck"]
    matched = {translator.nouns[noun].name: names[position] for noun, position in translator.match(names).items()}
    assert matched == {"dog": "Dogs", "person": "woman", "fire engine": "fire_truck"}
