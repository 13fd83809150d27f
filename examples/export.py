"""Export a preset to ONNX, and show that the exported graphs find what PyTorch finds.

python examples/export.py VIDEO OUT [PRESET]
"""

import sys

import ovavss


def main(video: str, out: str, preset: str = "tiny") -> None:
    in_pytorch = ovavss.load(preset)
    folder = in_pytorch.export(out, formats=["onnx"])
    expected = in_pytorch.segment(video).label_maps
    found = ovavss.load(folder).segment(video).label_maps
    print(f"{100 * (found == expected).mean():.2f} % of the pixels have the same label")


if __name__ == "__main__":
    main(*sys.argv[1:])
