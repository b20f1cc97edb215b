#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Plots of results.json, as SVG beside it.  Needs matplotlib."""

import os

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as pyplot  # noqa: E402  (after the choice of what draws)

import report  # noqa: E402

HERE = os.path.dirname(os.path.abspath(__file__))
COLORS = {"fanfp": "#c0392b", "inotifywait": "#2471a3", "fsnotifywait": "#7d3c98",
          "fatrace": "#b9770e", "watchdog": "#1e8449", "C reader": "#7f8c8d",
          "python3 -c pass": "#7f8c8d"}
# The same text for the same data: no dates, no random identifiers.
matplotlib.rcParams.update({"svg.hashsalt": "fanfp", "svg.fonttype": "none", "font.size": 9,
                            "axes.spines.top": False, "axes.spines.right": False})


def color(name):
    return next((value for key, value in COLORS.items() if name.startswith(key)), "#444444")


def save(figure, name):
    figure.tight_layout()
    figure.savefig(os.path.join(HERE, name + ".svg"), metadata={"Date": None, "Creator": None},
                   facecolor="white")
    pyplot.close(figure)


def ready(section):
    """Lines: seconds to ready by directories."""
    figure, axes = pyplot.subplots(figsize=(8, 3.4))
    sizes = section["directories"]
    lines = dict(section["watchers"])
    lines["python3 -c pass"] = section["python -c pass"]
    for name, found in lines.items():
        points = [(size, each["median"]) for size, each in zip(sizes, found) if each]
        axes.plot(*zip(*points), marker="o", markersize=4, color=color(name), label=name,
                  linestyle=":" if name.startswith("python") or "module" in name else "-",
                  linewidth=2.5 if name.startswith("fanfp") else 1.2)
    axes.set(xscale="log", yscale="log", xlabel="directories in the tree",
             ylabel="seconds until ready", title="From exec to ready")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.25)
    save(figure, "ready")


def bars(axes, pairs, title, unit, form="%.1f"):
    """Horizontal bars with their values, the least on top."""
    pairs = sorted(pairs, key=lambda pair: -pair[1])
    names = [name for name, _ in pairs]
    values = [value for _, value in pairs]
    drawn = axes.barh(names, values, color=[color(name) for name in names], height=0.65)
    for bar, value in zip(drawn, values):
        axes.text(max(bar.get_width(), 0), bar.get_y() + bar.get_height() / 2,
                  "  " + form % value, va="center")
    axes.set(title=title, xlabel=unit)
    axes.margins(x=0.18)


def outside(section):
    """Bars: what the worker and the watcher pay for files outside the tree."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 3.2))
    names = [name for name, runs in section["watchers"].items() if runs]
    bars(left, [(name, 100 * report.slowdown(section, name)) for name in names],
         "Outside the tree: worker slowed by", "%")
    bars(right, [(name, 1e6 * report.per_file(section, name)) for name in names],
         "and the watcher's processor time", "µs for a file", "%.2f")
    save(figure, "outside")


def inside(section):
    """Bars: the watcher's processor time for files in the tree."""
    figure, axes = pyplot.subplots(figsize=(6, 3.4))
    bars(axes, [(name, 1e6 * report.per_file(section, name))
                for name, runs in section["watchers"].items() if runs],
         "Inside the tree: the watcher's processor time", "µs for a file")
    save(figure, "inside")


def latency(section):
    """Bars: median latency, alone and under load."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.6, 2.2))
    for axes, kind, title in ((left, "alone", "Latency, one event at a time"),
                              (right, "load", "Latency under load")):
        bars(axes, [(name, 1e3 * found["median"]) for name, found in section[kind].items()],
             title + ": median", "ms", "%.2f")
    save(figure, "latency")


def growth(section):
    """Lines: microseconds for an event by roots, depth and directories."""
    figure, axes = pyplot.subplots(figsize=(6, 3))
    series = {"roots": [(int(key), min(runs)) for key, runs in section["roots"].items()],
              "levels deep": [(int(key), min(runs)) for key, runs in section["depth"].items()],
              "directories heard from": [(int(key), report.least(runs, "per_event"))
                                         for key, runs in section["directories"].items()]}
    for name, points in series.items():
        points = sorted(points)
        axes.plot([x for x, _ in points], [1e6 * y for _, y in points], marker="o", markersize=4,
                  label=name)
    axes.set(xscale="log", xlabel="how many", ylabel="µs for an event", ylim=(0, None),
             title="Cost of an event")
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    save(figure, "growth")


def main():
    results = report.load(HERE)
    for function in (ready, outside, inside, latency, growth):
        if function.__name__ in results:
            function(results[function.__name__])


main()
