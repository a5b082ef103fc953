"""Line plots of benchmark results, as SVG, by matplotlib (Debian: python3-matplotlib)."""


def lines(path, title, x_label, y_label, series, log_x=False, log_y=False):
    """Draws series, {label: [(x, y), …]}, to `path`; x ticks at the values measured.

    The same data give the same bytes. Returns whether it drew: without matplotlib it says so and
    leaves the table to speak alone.
    """
    try:
        import matplotlib
    except ImportError:
        print("no plot: install python3-matplotlib for it")
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "t2r"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for (label, points), marker in zip(series.items(), "osD^vPX*<>" * len(series)):
        if points:
            axes.plot(*zip(*sorted(points)), marker=marker, markersize=4, linewidth=1.5, label=label)
    if log_x:
        axes.set_xscale("log", base=2)
    if log_y:
        axes.set_yscale("log")
    ticks = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(ticks, [f"{x:,}" for x in ticks])
    axes.minorticks_off()
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    return True
