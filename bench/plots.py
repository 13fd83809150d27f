"""The report's pictures: matplotlib figures from the plain numbers of the other scripts, as PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_STEPS = ("audio_encoder", "usslm", "find_regions", "crop_regions", "clip_image_encoder", "classify")
# Okabe and Ito's colors, which color-blind readers tell apart.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7")


def png(figure: Figure) -> bytes:
    """The picture's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def breakdown(clips: Sequence[Mapping[str, Any]]) -> bytes:
    """Milliseconds of each step of a clip, a bar for each runner."""
    figure = Figure(figsize=(9, 0.45 * len(clips) + 1.6), layout="constrained")
    axes, names = figure.add_subplot(), [row["runner"] for row in clips]
    left = np.zeros(len(clips))
    for step, color in zip(_STEPS, _COLORS):
        width = np.array([row["steps_ms"].get(step, 0.0) for row in clips])
        axes.barh(names, width, left=left, label=step, color=color)
        left += width
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a clip of five seconds (mean)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25 if len(clips) < 5 else -0.14), ncols=6, fontsize=8)
    return png(figure)


def crops_against_miou(rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Crops a clip against mean IoU in percent of the reference; None where no row has a mIoU."""
    points: dict[tuple[float, float], list[str]] = {}
    for row in rows:
        if (row.get("share") or {}).get("mean") and row["crops_per_clip"]:
            points.setdefault((round(row["crops_per_clip"], 3), round(row["share"]["mean"], 3)), []).append(row["name"])
    if not points:
        return None
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(99.9, color="gray", linestyle="--", linewidth=1)
    for number, ((crops, share), names) in enumerate(sorted(points.items())):
        label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} with the same result"
        axes.scatter(crops, share, color=_COLORS[number % 6], marker="os^Dv"[number % 5], label=label, zorder=3)
    axes.set_xlabel("CLIP crops a clip")
    axes.set_ylabel("mean IoU, % of the reference")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return png(figure)


def speed_ups(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """How many times faster than plain PyTorch each switch is."""
    present = [row for row in rows if not row["missing"]]
    figure = Figure(figsize=(9, 0.32 * len(present) + 1), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh([row["name"] for row in present], [row["speed_up"] for row in present], color=_COLORS[0])
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.axvline(1, color="gray", linewidth=1)
    if max(row["speed_up"] for row in present) > 20:
        axes.set_xscale("log")
    axes.invert_yaxis()
    axes.set_xlabel("times faster than plain eager PyTorch (rounds side by side)")
    return png(figure)


def growth(sweeps: Sequence[Mapping[str, Any]], key: str, unit: str) -> bytes:
    """A panel for each sweep, both axes logarithmic, with the fitted exponent."""
    columns = 4
    rows = -(-len(sweeps) // columns)
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
    exponent = "exponent" if key == "p50_ms" else "memory_exponent"
    for number, sweep in enumerate(sweeps, start=1):
        axes = figure.add_subplot(rows, columns, number)
        points = sweep["points"]
        axes.loglog([p["size"] for p in points], [max(p[key], 0.1) for p in points], "o-", color=_COLORS[0])
        axes.set_title(f"{sweep['sweep']}\nexponent {sweep[exponent]:.2f}", fontsize=9)
        axes.set_ylabel(unit, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    return png(figure)


def load_curve(service: Any, servers: Sequence[int], response: Any, measured: Mapping[str, Any] | None) -> bytes:
    """p99 of the response against clips/s by the formula, with the measured point if there is one."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for count, color in zip(servers, _COLORS):
        rates = np.linspace(0.02, 0.95, 60) * count / service.mean
        times = [1e3 * response(rate, service, count) for rate in rates]
        axes.plot(rates, times, color=color, label=f"{count} server{'s' if count > 1 else ''}, formula")
    if measured is not None:
        label = f"measured, {measured['servers']} server{'s' if measured['servers'] > 1 else ''}"
        axes.scatter(measured["rate"], measured["p99_ms"]["measured"], color="black", zorder=3, label=label)
    axes.set_xlabel("clips a second")
    axes.set_ylabel("p99 of the response, ms")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return png(figure)


def throughput(systems: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Latency against the completed clips/s of each system under random arrivals; dotted: what Offline reaches."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for (name, system), color in zip(systems.items(), _COLORS):
        rates = [point["completed"] for point in system["points"]]
        for percentile, style in (("p50", "--"), ("p99", "-")):
            times = [point[f"{percentile}_ms"] for point in system["points"]]
            axes.plot(rates, times, f"o{style}", color=color, label=f"{name}, {percentile}", markersize=4)
        axes.axvline(system["offline"], color=color, linestyle=":", linewidth=1)
    axes.set_xlabel("clips a second")
    axes.set_ylabel("latency, ms")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return png(figure)


def overlays(
    frames: NDArray[np.uint8], maps: Mapping[str, NDArray[np.integer]], names: Sequence[str], frame: int = 2
) -> bytes:
    """One frame of a clip uint8 [T, H, W, 3], then under each label map [T, H, W]: dark and gray where nothing sounds,
    with the names that the map holds."""
    figure = Figure(figsize=(2.4 * (len(maps) + 1), 3.1), layout="constrained")
    panels: dict[str, NDArray[np.integer] | None] = {"frame": None, **maps}
    for number, (title, label_map) in enumerate(panels.items(), start=1):
        axes, shown = figure.add_subplot(1, len(panels), number), frames[frame].astype(float)
        if label_map is not None:
            labels = label_map[frame]
            shown = np.where(labels[..., None] > 0, shown, 0.3 * shown.mean(-1, keepdims=True))
            found = [names[label - 1] for label in np.unique(labels).tolist() if label > 0]
            axes.set_xlabel("\n".join(found[:3]) or "nothing", fontsize=8)
        axes.imshow(shown.astype(np.uint8), interpolation="nearest")
        axes.set_title(title, fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    return png(figure)
