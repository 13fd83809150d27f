"""Where weights come from: seeds, checkpoints, CLIP files in both published forms, and the hub that is not there."""

import zipfile
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from ovavss.checkpoints import shipped
from ovavss.checkpoints.loader import save_checkpoint
from ovavss.checkpoints.weights import WeightsSource, build_models, load_models
from ovavss.errors import UserError
from ovavss.models.ov_avss.presets import PRESETS

TINY = PRESETS["tiny"]


@pytest.fixture(autouse=True)
def nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path / "none")


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_random_weights_follow_from_the_seed() -> None:
    before = torch.random.get_rng_state()
    loaded = load_models(TINY, WeightsSource(seed=3))
    assert torch.equal(before, torch.random.get_rng_state())
    assert loaded.files == () and "NO WEIGHTS GIVEN" in loaded.warnings[0] and "seed 3" in loaded.warnings[0]
    assert same(loaded.models.usslm, build_models(TINY, 3).usslm)
    assert not same(loaded.models.usslm, build_models(TINY, 4).usslm)


def test_everything_from_one_file(tmp_path: Path) -> None:
    path, trained = tmp_path / "tiny.safetensors", build_models(TINY, 5)
    save_checkpoint(path, trained.modules(), "tiny")
    loaded = load_models(TINY, WeightsSource([path]))
    assert loaded.files == (path,) and loaded.warnings == ()
    for name, module in loaded.models.modules().items():
        assert same(module, trained.modules()[name]), name


def test_clip_files_in_every_published_form(tmp_path: Path) -> None:
    clip = build_models(TINY, 6).clip
    state = clip.state_dict()

    class Archive(nn.Module):
        """As OpenAI publishes CLIP: TorchScript, with three numbers beside the weights."""

        def __init__(self) -> None:
            super().__init__()
            for name, tensor in state.items():
                parent: nn.Module = self
                *path, last = name.split(".")
                for part in path:
                    if not hasattr(parent, part):
                        parent.add_module(part, nn.Module())
                    parent = getattr(parent, part)
                parent.register_buffer(last, tensor)
            self.register_buffer("input_resolution", torch.tensor(32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.trace(Archive(), torch.zeros(1)).save(str(tmp_path / "openai.pt"))
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "open_clip.pt")
    torch.save(state, tmp_path / "plain.pth")
    torch.save(
        {"model": {"state_dict": {f"_orig_mod.{k}": v for k, v in state.items()}}, "step": 9}, tmp_path / "n.bin"
    )
    for name in ("openai.pt", "open_clip.pt", "plain.pth", "n.bin"):
        loaded = load_models(TINY, WeightsSource(clip=str(tmp_path / name)))
        assert same(loaded.models.clip, clip), name
        assert "only CLIP has weights" in loaded.warnings[0]


def test_clip_that_does_not_fit(tmp_path: Path) -> None:
    """One sentence that says what the preset takes and what the file holds, and no advice that cannot help."""
    ours = build_models(TINY).clip.state_dict()
    wider = open_clip.CLIP(**{**TINY.clip.architecture, "embed_dim": 96}).state_dict()
    with torch.device("meta"):
        published = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32")).state_dict()
    image_half = {name: tensor for name, tensor in ours.items() if name.startswith("visual.")}
    for state, holds in (
        (wider, "it holds a model of other sizes (clip."),
        ({k: torch.ones(()).expand(tensor.shape) for k, tensor in published.items()}, "it holds ViT-B-32 (clip."),
        (image_half, f"{len(ours) - len(image_half)} of its tensors are not in the file (clip."),
        (
            {"visual.class_embedding": torch.zeros(7)},
            "none of its tensors fits; leave --clip-weights out",
        ),
        ({**ours, "visual.other": torch.zeros(1)}, "the file holds 1 tensors more (clip.visual.other)"),
    ):
        torch.save(state, tmp_path / "other.pth")
        with pytest.raises(UserError, match=rf"other\.pth does not fit CLIP {TINY.clip.name}, .*") as error:
            load_models(TINY, WeightsSource(clip=str(tmp_path / "other.pth")))
        assert holds in str(error.value) and "--partial" not in str(error.value)


def test_no_clip_in_the_file(tmp_path: Path) -> None:
    torch.save({"model": {"layer.weight": torch.zeros(2)}, "step": 3}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        archive.writestr("project/code/main.py", "print()")
    (tmp_path / "c.pt").write_bytes(b"no weights")
    for name, says in (
        ("a.pt", "a.pt holds no CLIP weights (its names: layer.weight)"),
        ("b.pt", "b.pt cannot be read as CLIP weights (it is a zip archive, but no model that PyTorch saved)"),
        ("c.pt", "c.pt is damaged"),
    ):
        with pytest.raises(UserError) as error:
            load_models(TINY, WeightsSource(clip=str(tmp_path / name)))
        assert says in str(error.value)


def test_no_clip_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tiny.safetensors"
    published = replace(TINY, clip=replace(TINY.clip, name="ViT-B-16-quickgelu", pretrained="openai"))

    def unreachable(*arguments: object, **options: object) -> nn.Module:
        raise OSError("the hub cannot be reached\nlong story")

    monkeypatch.setattr(open_clip, "create_model", unreachable)
    models = build_models(TINY)
    save_checkpoint(path, {"usslm": models.usslm, "audio_encoder": models.audio_encoder}, "tiny")
    message = (
        r"ViT-B-16-quickgelu could not be fetched from open_clip's hub \(the hub cannot be reached\); "
        r"pass --clip-weights FILE"
    )
    with pytest.raises(UserError, match=message):
        load_models(published, WeightsSource([path]))
    with pytest.raises(UserError, match="no hub has weights for the CLIP model of preset 'tiny'"):
        load_models(TINY, WeightsSource(clip="hub"))


def test_shipped_weights_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "_FOLDER", tmp_path)
    trained = build_models(TINY, 8)
    save_checkpoint(tmp_path / "tiny.safetensors", trained.modules(), "tiny")
    loaded = load_models(TINY, WeightsSource())
    assert loaded.warnings == () and same(loaded.models.usslm, trained.usslm)
