#!/usr/bin/env python3
"""The picture of the README: seconds of each scenario, here and with the plain container, from results/.

pip install matplotlib
python benchmarks/plot.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
LABELS = {
    "A": "A: nothing local,\nno registry",
    "B": "B: first time,\nimage in a registry",
    "C": "C: second project,\nimage local",
    "recreated": "container made anew\nafter a kernel edit",
}
COLOURS = {"plain": "#b8b8b8", "xfdev": "#2a6fdb"}
NAMES = {"plain": "plain dev container (pip install -e .)", "xfdev": "this one"}


def main() -> None:
    results = json.loads((HERE / "results/dev_container.json").read_text())
    # Text stays text, and the same numbers make the same file.
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "xfdev", "font.size": 11})
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for shift, word in ((-0.2, "plain"), (0.2, "xfdev")):
        medians = [statistics.median(results["seconds"][word][name]) for name in LABELS]
        places = [place + shift for place in range(len(LABELS))]
        bars = axes.barh(places, medians, height=0.38, color=COLOURS[word], label=NAMES[word])
        axes.bar_label(bars, [f"{seconds:.0f} s" for seconds in medians], padding=4)
    axes.set_yticks(range(len(LABELS)), list(LABELS.values()))
    axes.invert_yaxis()
    axes.set_xlabel("seconds from `devcontainer up` to the first operator")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(HERE / "results/dev_container.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
