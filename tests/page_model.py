"""PP-DocLayoutV3, a detector of page layouts with six trained layers of deformable attention, and a page for it."""

import hashlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont

_MODEL = Path("~/.cache/ovavss/PaddlePaddlePP-DocLayoutV3_onnx.onnx").expanduser()
_SHA256 = "45bf71750b00739a41fc209f132eb104a4d6b5bb29483c9078164d8b87cf28ba"


def page_model() -> Path:
    """The model's file; skips the test where it is not."""
    if not _MODEL.is_file():
        pytest.skip(
            f"{_MODEL.name} is not in ~/.cache/ovavss: npm pack zheleme-ocr-modles-layout@1.0.0, and put it there"
        )
    assert hashlib.sha256(_MODEL.read_bytes()).hexdigest() == _SHA256
    return _MODEL


def page() -> dict[str, np.ndarray]:
    """A page of a title, two columns of text and a table, as PP-DocLayoutV3 takes it."""
    font = f"{get_data_path()}/fonts/ttf/DejaVuSerif.ttf"
    width, height = 1000, 1400
    image = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(image)
    draw.text((200, 80), "Deformable attention on pages", font=ImageFont.truetype(font, 40), fill="black")
    small = ImageFont.truetype(font, 18)
    for column, line in product((80, 520), range(30)):
        draw.text((column, 220 + 24 * line), "sampling a few points of each level", font=small, fill="black")
    for row in range(7):
        draw.line((80, 980 + 50 * row, 920, 980 + 50 * row), fill="black")
        draw.line((80 + 140 * row, 980, 80 + 140 * row, 1280), fill="black")
    pixels = np.asarray(image.resize((800, 800)), np.float32).transpose(2, 0, 1)[None] / 255
    scale = np.array([[800 / height, 800 / width]], np.float32)
    return {"image": pixels, "im_shape": np.full((1, 2), 800, np.float32), "scale_factor": scale}
