"""Plots of benchmark results, as SVG, by matplotlib (Debian: python3-matplotlib)."""
import sys


def _pyplot():
    """matplotlib's pyplot, set up so that the same data give the same bytes; None without it."""
    try:
        import matplotlib
    except ImportError:
        print("no plot: install python3-matplotlib for it", file=sys.stderr)
        return None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "t2r"
    from matplotlib import pyplot

    return pyplot


def _save(pyplot, figure, axes, path):
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return True


def bars(path, title, y_label, groups, series):
    """Draws groups of bars, one of each of series, {label: [value a group, or None]}; as lines()."""
    pyplot = _pyplot()
    if pyplot is None:
        return False
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    width = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        places = [group + (i + 0.5) * width - 0.4 for group in range(len(groups))]
        drawn = [(x, value) for x, value in zip(places, values) if value is not None]
        if drawn:
            axes.bar(*zip(*drawn), width=width, label=label)
    axes.set_xticks(range(len(groups)), groups)
    axes.set(title=title, ylabel=y_label)
    return _save(pyplot, figure, axes, path)


def lines(path, title, x_label, y_label, series, log_x=False, log_y=False, ticks=None):
    """Draws series, {label: [(x, y), …]}, to `path`; x ticks at `ticks`, or at the values measured.

    The same data give the same bytes. Returns whether it drew: without matplotlib it says so and
    leaves the table to speak alone.
    """
    pyplot = _pyplot()
    if pyplot is None:
        return False
    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for (label, points), marker in zip(series.items(), "osD^vPX*<>" * len(series)):
        if points:
            axes.plot(*zip(*sorted(points)), marker=marker, markersize=4, linewidth=1.5, label=label)
    if log_x:
        axes.set_xscale("log", base=2)
    if log_y:
        axes.set_yscale("log")
    ticks = ticks or sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks])
    axes.minorticks_off()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    return _save(pyplot, figure, axes, path)
