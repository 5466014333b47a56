"""Plots of a run: one PNG, or one HTML page that holds it beside the scores."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tandem_simulator.errors import UsageError

SCORES = (
    "policy",
    "requests",
    "attainment",
    "ttft_attainment",
    "tpot_attainment",
    "gpu_hours",
    "cost",
    "starts",
    "starts_per_worker_hour",
    "failed",
    "unfinished",
)
COLOURS = {"prefill": "#1f77b4", "decode": "#d95f02"}


def write_report(path: Path, document: dict[str, Any]) -> None:
    """Write `.png` or `.html` from the JSON document of a run.

    Raises:
        UsageError: the file cannot be written.
    """
    picture = io.BytesIO()
    build_figure(document).savefig(picture, format="png", dpi=110)
    content = picture.getvalue()
    if path.suffix == ".html":
        content = build_page(document, content).encode()
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UsageError(f"--report {path}: cannot be written ({error.strerror})") from None


def build_figure(document: dict[str, Any]) -> Figure:
    """Pool sizes over time above; latency percentiles below."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    sizes, latencies = figure.subplots(2, 1, height_ratios=(2, 1))
    _plot_sizes(sizes, document["sizes"])
    _plot_latencies(latencies, document)
    figure.suptitle(
        f"{document['policy']}: {document['attainment']:.2%} attainment, {document['gpu_hours']:.1f} GPU-hours"
    )
    return figure


def _plot_sizes(axes: Any, rows: list[dict[str, float]]) -> None:
    minutes = [row["at_s"] / 60 for row in rows]
    for role, colour in COLOURS.items():
        axes.step(minutes, [row[f"{role}_ready"] for row in rows], where="post", color=colour, label=f"{role} ready")
        axes.step(
            minutes, [row[f"{role}_asked"] for row in rows], where="post", color=colour, ls=":", label=f"{role} asked"
        )
    axes.set(xlabel="minutes", ylabel="workers", ylim=(0, None))
    axes.legend(ncols=4, loc="upper left", frameon=False)


def _plot_latencies(axes: Any, document: dict[str, Any]) -> None:
    shares = ("p50", "p90", "p95", "p99")
    for place, (name, scale, label) in enumerate((("ttft_s", 1.0, "TTFT, s"), ("tpot_s", 1e3, "TPOT, ms"))):
        found = document[name]
        heights = [found.get(share, 0.0) * scale for share in shares]
        spots = [place * 5 + index for index in range(len(shares))]
        axes.bar(spots, heights, color=list(COLOURS.values())[place], label=label)
        for spot, height, share in zip(spots, heights, shares, strict=True):
            axes.annotate(f"{share}\n{height:.3g}", (spot, height), ha="center", va="bottom", fontsize=8)
    axes.set(xticks=[], yscale="log")
    axes.margins(y=0.4)
    axes.legend(frameon=False)


def build_page(document: dict[str, Any], picture: bytes) -> str:
    """One self-contained page."""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(_format(document[name]))}</td></tr>"
        for name in SCORES
        if name in document
    )
    image = base64.b64encode(picture).decode()
    return (
        "<!doctype html><meta charset='utf-8'><title>tandem simulate</title>"
        "<style>body{font:16px system-ui;max-width:70rem;margin:2rem auto;padding:0 1rem}"
        "th{text-align:left;padding-right:2rem;font-weight:500}img{max-width:100%}</style>"
        f"<h1>{escape(str(document['policy']))} on {escape(str(document['fleet']))}</h1>"
        f"<table>{rows}</table><img alt='pool sizes and latencies' src='data:image/png;base64,{image}'>\n"
    )


def _format(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
