"""Outline and name what sounds in a video.

python examples/segment.py VIDEO OUT [PRESET or FOLDER OF ENGINES]
"""

import sys

import ovavss


def main(video: str, out: str, source: str = "open_avs") -> None:
    result = ovavss.load(source).segment(video)
    for track in result.tracks:
        print(f"{track.name}: score {track.score:.2f}, from {track.times[0]:.1f} s to {track.times[-1]:.1f} s")
    print(f"wrote {result.save(out)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
