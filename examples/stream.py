"""Follow a long video window by window, as it is decoded; memory does not grow with its length.

python examples/stream.py VIDEO [PRESET or FOLDER OF ENGINES]
"""

import sys

import numpy as np

import ovavss


def main(video: str, source: str = "open_avs") -> None:
    segmenter = ovavss.load(source)
    for window in segmenter.stream(video):
        for second, label_map in zip(window.timestamps, window.label_map[: window.snippets]):
            names = [segmenter.classes[label - 1] for label in np.unique(label_map) if label]
            print(f"{second:7.2f} s: {', '.join(names) or 'nothing'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
