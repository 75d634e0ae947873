"""The measurements of few_shot_scoring.py as a table of ratios and as a plot of queries a second against shots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table


def ratio_table(results: Sequence[dict[str, Any]], as_it_comes: dict[str, Any] | None, title: str) -> Table:
    """One line for each dtype and number of shots, and one for the tools' defaults.

    Columns: queries a second of both, the harness's batch size, the ratio of whole commands and that until scores are on disk, the ratio
    that the arithmetic's limit would give, the share of that limit that ours reaches, the largest difference of a label log-probability
    in nats, predictions that differ, ties among them.

    Args:
        results, as_it_comes: as few_shot_scoring.py writes them to its JSON.
        title: stands above the table.
    """
    table = Table(title=title, title_justify="left")
    headers = ("dtype", "shots", "harness/s", "batch", "ours/s", "ratio", "to scores", "limit", "of limit", "max |Δ|", "differ", "ties")
    for header in headers:
        table.add_column(header, justify="left" if header == "dtype" else "right", no_wrap=True)
    for result in results:
        harness, parity = result["harness"], result["parity"]
        table.add_row(
            result["dtype"],
            str(result["shots"]),
            f"{harness['queries_per_second']:.1f}" if harness else "",
            str(harness["batch_size"]) if harness else "",
            f"{result['ours']['queries_per_second']:.1f}",
            f"{result['ratio']:.1f}×" if harness else "",
            f"{result['ratio_to_scores']:.1f}×" if harness else "",
            f"{result['limit_ratio']:.1f}×" if harness else "",
            f"{result['fraction_of_limit']:.0%}",
            f"{parity['largest_difference']:.0e}" if parity else "",
            str(len(parity["differing"])) if parity else "",
            str(sum(one["tied"] for one in parity["differing"])) if parity else "",
        )
    if as_it_comes:
        speeds = [f"{as_it_comes[tool]['queries_per_second']:.1f}" for tool in ("harness", "ours")]
        table.add_row("defaults", str(as_it_comes["shots"]), speeds[0], "1", speeds[1], f"{as_it_comes['ratio']:.1f}×")
    return table


def plot_throughput(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Queries a second against shots, a panel for each dtype: harness, ours, and the arithmetic's limit.

    Args:
        results: as few_shot_scoring.py writes them to its JSON.
        path: of the image; its ending names the format.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    dtypes = list(dict.fromkeys(result["dtype"] for result in results))
    figure, axes = pyplot.subplots(1, len(dtypes), figsize=(4.8 * len(dtypes), 3.6), sharey=True, squeeze=False, layout="constrained")
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        chosen = sorted((result for result in results if result["dtype"] == dtype), key=lambda result: int(result["shots"]))
        shots = [result["shots"] for result in chosen]
        axis.plot(shots, [result["limit_queries_per_second"] for result in chosen], "--", color="0.5", label="limit of the arithmetic")
        axis.plot(shots, [result["ours"]["queries_per_second"] for result in chosen], "o-", color="tab:blue", label="evaluate.py")
        if all(result["harness"] for result in chosen):
            speeds = [result["harness"]["queries_per_second"] for result in chosen]
            axis.plot(shots, speeds, "s-", color="tab:orange", label="lm-evaluation-harness")
            for result, speed in zip(chosen, speeds, strict=True):
                axis.annotate(
                    f"{result['ratio']:.1f}×",
                    (result["shots"], (speed * result["ours"]["queries_per_second"]) ** 0.5),  # halfway, on the logarithmic scale
                    ha="center",
                    va="center",
                    fontsize=9,
                )
        axis.set(title=dtype, xlabel="demonstrations in the prompt (shots)", yscale="log", xticks=shots)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("queries a second")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
