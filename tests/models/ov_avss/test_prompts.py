"""Templates, tokens and the text ensemble against the published model."""

import golden_set
import open_clip
import pytest
import torch

from ovavss.models.ov_avss.presets import PRESETS
from ovavss.models.ov_avss.prompts import TEMPLATES, prompts, text_embeddings

pytestmark = pytest.mark.golden


def test_templates_and_tokens() -> None:
    file = golden_set.load("07_prompts")
    assert list(TEMPLATES) == file["templates"].tolist()
    for preset in PRESETS.values():
        if preset.clip.pretrained is None:
            continue
        tokenize = open_clip.get_tokenizer(preset.clip.name)
        sentence = tokenize(["This is a photo of a violin"])
        assert sentence.tolist() == file["tokens_this_is_a_photo_of_a_violin"].tolist()
        for word, expected in zip(file["token_words"].tolist(), file["tokens_14_templates"].tolist()):
            assert tokenize(prompts(word)).tolist() == expected, word


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_ensemble(batch: int) -> None:
    file = golden_set.load("07_prompts")
    words = file["token_words"].tolist()
    # The stand-in text encoder of the set: call k embeds all words under template k.
    calls = [golden_set.normal(f"input:text:{k}", (len(words), 512)) for k in range(len(TEMPLATES))]
    known = {p: calls[k][i] for i, word in enumerate(words) for k, p in enumerate(prompts(word))}
    sentences = list(known)

    def tokenize(batch: list[str]) -> torch.Tensor:
        return torch.tensor([sentences.index(sentence) for sentence in batch])

    actual = text_embeddings(words, tokenize, lambda t: torch.stack([known[sentences[i]] for i in t.tolist()]), batch)
    assert golden_set.errors(file, "text_ensemble_4words", actual).max() < 1e-6
