"""Figures of the families: what remedies keep, interventions, sweeps, and the regime map.

As in `plotting`, every function gives a figure whose alternative text is computed from its data.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from langmerge import statistics
from langmerge.errors import LangmergeError
from langmerge.families import SWEEPS
from langmerge.plotting import (
    STYLE,
    Look,
    _dots,
    _figure,
    _interval_line,
    _legend,
    _level,
    _panel,
    _percent,
    _share_axis,
    _tokens,
    _with_alt,
    label,
    look,
    percent_ticks,
)
from langmerge.statistics import Results, select

#: The interventions in the order of their rows: method, setting, and what it is called there.
INTERVENTIONS = (
    ("ties_mean", "tuned", "TIES (mean)"),
    ("restored_sft", "tuned", "out-voted SFT restored"),
    ("random_drop", "draw 0", "as many lost at random"),
    ("random_drop", "draw 1", "the same, other draw"),
    ("random_drop", "draw 2", "the same, other draw"),
    ("rescaled_ct", "early norm", "CT at its earliest length"),
    ("rescaled_ct", "late norm", "CT at its latest length"),
    ("rescaled_ct", "0.5", "CT times 1/2"),
    ("rescaled_ct", "0.25", "CT times 1/4"),
    ("heavier_sft", "2", "weight of SFT times 2"),
    ("heavier_sft", "4", "weight of SFT times 4"),
    ("larger_lambda", "1.5", "lambda times 1.5"),
    ("larger_lambda", "2", "lambda times 2"),
    ("trimmed_sft", "tuned", "trimmed SFT alone"),
)
#: Where a sweep's best setting lies among its values is read from the profile's parameters.
AXES = {
    "k1": "share of CT that trim keeps",
    "k2": "share of SFT that trim keeps",
    "lambda": "lambda",
    "alpha": "share of CT in the average",
    "slack": "slack, multiplicative",
    "additive slack": "slack, additive",
    "trim": "trim",
    "variant": "TIES variant, mean, weights 1",
    "variant, sum": "TIES variant, sum, weights 1",
    "combine": "what agrees is merged by",
}
#: Up to so many points a map of effects has a decimal: a rounded zero may be half a point.
FINE = 3.0
#: Colour and marker of one base after another.
BASES = (
    ("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "v"), ("#56B4E9", "P"),
    ("#E69F00", "X"),
)  # fmt: skip


@mpl.rc_context(STYLE)
def keeps(kept: pd.DataFrame) -> Figure:
    """How much of the two updates each merge holds: a point a method (`keeping.kept`)."""
    fig, (ax,) = _figure(7.2, 4.2)
    for row in kept.itertuples():
        style = look(row.method)
        ax.plot(
            row.ct,
            row.sft,
            color=style.colour,
            marker=style.marker,
            markersize=11 if style.marker == "*" else 9,
            linestyle="none",
            label=style.label,
        )
    ax.set_xlabel("of the CT update (1: at its own length)")
    ax.set_ylabel("of the SFT update (1: at its own length)")
    ax.grid(visible=True, axis="both")
    _legend(ax)
    told = "; ".join(
        f"{label(row.method)} {row.sft:.2f} of SFT and {row.ct:.2f} of CT"
        for row in kept.sort_values("sft", ascending=False).itertuples()
    )
    return _with_alt(fig, f"What each merge holds of the two updates, most of SFT first: {told}.")


@mpl.rc_context(STYLE)
def interventions(results: Results, budgets: Sequence[int], language: str | None = None) -> Figure:
    """Accuracy of every intervention on mean-TIES, a panel a CT budget, with 95 % intervals.

    Raises LangmergeError where the results have none (a profile with the family `mechanism` has).
    """
    language = statistics.one_language(results, language)
    methods = list(dict.fromkeys(method for method, _, _ in INTERVENTIONS))
    means = statistics.summarize(results, language=language, method=methods)
    if "restored_sft" not in set(means["method"]):
        raise LangmergeError(
            f"profile {results.profile!r} has no interventions: give it `families: [mechanism]`."
        )
    fig, axes = _figure(8.8, 4.4, 1, len(budgets), share=True)
    told = [_intervention_panel(ax, means, at) for ax, at in zip(axes, budgets, strict=True)]
    axes[0].set_yticks(range(len(INTERVENTIONS)), [name for _, _, name in INTERVENTIONS])
    axes[0].invert_yaxis()
    text = f"Accuracy of interventions on TIES, {language}: {'; '.join(told)}."
    return _with_alt(fig, text)


def _intervention_panel(ax: Axes, means: pd.DataFrame, budget: int) -> str:
    told = []
    for place, (method, setting, name) in enumerate(INTERVENTIONS):
        names = [setting, "default"] if setting == "tuned" else [setting]
        its = means[(means["method"] == method) & means["ct_tokens"].isin([0, budget])]
        its = its.set_index("setting")
        at = next((one for one in names if one in its.index), None)
        if at is None:  # no length but its own at either end
            continue
        row, style = its.loc[at], look(method)
        if method == "ties_mean":
            ax.axvline(row["value"], color=style.colour, linewidth=0.8)
        ax.errorbar(
            row["value"],
            place,
            xerr=[[row["value"] - row["low"]], [row["high"] - row["value"]]],
            color=style.colour,
            marker="o",
            elinewidth=1.1,
            linestyle="none",
        )
        told.append(f"{name} {_percent(row['value'])}")
    ax.xaxis.set_major_formatter(percent_ticks())
    ax.set_xlabel("accuracy, mean of the tasks (%)")
    ax.grid(visible=True, axis="x")
    _panel(ax, f"{_tokens(budget)} CT tokens")
    return f"at {_tokens(budget)} CT tokens {', '.join(told)}"


@mpl.rc_context(STYLE)
def sweep(results: Results, name: str) -> Figure:
    """Accuracy and bits per byte over one setting, a line a CT budget, mean over the languages.

    name: a sweep of `families.SWEEPS`. Dots are the languages. Raises LangmergeError where the
    results have none of it.
    """
    order = [value if isinstance(value, str) else f"{value:g}" for value in SWEEPS[name][2]]
    rows = select(results.rows, method=f"sensitivity/{name}")
    if rows.empty:
        raise LangmergeError(
            f"profile {results.profile!r} has no sweep of {name}: it needs the family sensitivity."
        )
    fig, axes = _figure(8.8, 3.6, 1, 2)
    accuracy = rows[rows["task"].isin(results.tasks)]
    both = [accuracy, rows[rows["metric"] == "bits_per_byte"]]
    for ax, its in zip(axes, both, strict=True):
        _sweep_lines(ax, its, order, isinstance(SWEEPS[name][2][0], float))
        ax.set_xlabel(AXES[name])
        if not isinstance(SWEEPS[name][2][0], float):
            ax.tick_params(axis="x", rotation=15)
    _share_axis(axes[0], "accuracy, mean of the tasks (%)")
    axes[1].set_ylabel("bits per byte, target language")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", title="CT tokens", handlelength=3)
    late = accuracy[accuracy["ct_tokens"] == accuracy["ct_tokens"].max()]
    mean = late.groupby("setting")["value"].mean()
    told = ", ".join(f"{_percent(mean[one])} at {one}" for one in order)
    return _with_alt(
        fig,
        f"Accuracy and bits per byte over {AXES[name]}, mean over the languages; accuracy at the "
        f"largest CT budget: {told}.",
    )


def _sweep_lines(ax: Axes, rows: pd.DataFrame, order: Sequence[str], joined: bool) -> None:
    """A mark a setting and budget, with lines between where settings are numbers."""
    places = {setting: index for index, setting in enumerate(order)}
    budgets = sorted(rows["ct_tokens"].unique())
    shades = sns.color_palette("viridis_r", len(budgets) + 1)[1:]
    for index, (budget, shade) in enumerate(zip(budgets, shades, strict=True)):
        its = rows[rows["ct_tokens"] == budget]
        each = its.groupby(["language", "setting"])["value"].mean().reset_index()
        mean = each.groupby("setting")["value"].mean().loc[list(order)]
        colour = mpl.colors.to_hex(shade)
        ax.plot(
            range(len(order)), mean, color=colour, marker="os^DvPX*"[index % 8],
            linestyle="solid" if joined else "none", label=_tokens(budget),
        )  # fmt: skip
        _dots(ax, each["setting"].map(places), each["value"], colour)
    ax.set_xticks(range(len(order)), ["∞" if one == "inf" else one for one in order])


@mpl.rc_context(STYLE)
def regimes(effects: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Where each finding holds: effects by CT tokens and arm, a panel an effect, two in a row.

    effects: as `regime_effects` gives. Cells are means over the languages, in points, and each
    panel has colours of its own.
    """
    panels = list(dict.fromkeys(effects["effect"]))
    rows = (len(panels) + 1) // 2
    fig, axes = _figure(9.2, rows * (0.5 * len(arms) + 1.6), rows, 2)
    told = []
    for ax, panel in zip(axes, panels, strict=True):
        its = effects[effects["effect"] == panel]
        mean = its.pivot_table(index="arm", columns="ct_tokens", values="value").loc[list(arms)]
        grid = 100 * mean
        limit = max(1.0, float(np.nanmax(np.abs(grid.to_numpy()))))
        sns.heatmap(
            grid, ax=ax, vmin=-limit, vmax=limit, cmap="PuOr", fmt="",
            annot=grid.map(lambda value, small=limit < FINE: _rounded(value, small)),
            linewidths=0.5, cbar_kws={"label": "points"},
            xticklabels=[_tokens(at) for at in grid.columns],
        )  # fmt: skip
        ax.set_xlabel("CT tokens")
        ax.set_ylabel("")
        ax.tick_params(axis="both", rotation=0, length=0, labelleft=ax in axes[::2])
        ax.grid(visible=False)
        _panel(ax, panel)
        each = (f"{arm} {', '.join(f'{round(v):+d}' for v in grid.loc[arm])}" for arm in arms)
        told.append(f"{panel}: {'; '.join(each)}")
    return _with_alt(
        fig,
        f"Effects in points by arm, from the smallest to the largest CT budget. {'. '.join(told)}.",
    )


def _rounded(points: float, finely: bool) -> str:
    digits = 1 if finely else 0
    return f"{round(points, digits) + 0.0:.{digits}f}".replace("-", "−")


def regime_effects(results: Results, arms: Sequence[str], now: str) -> pd.DataFrame:
    """The findings' effects in the run itself (called `now`) and in its arms.

    Columns: effect, arm, language, seed, ct_tokens, value (shares), norm_ratio (‖tau_CT‖ over
    ‖tau_SFT‖) and discarded (the share of SFT that mean-TIES discards there).
    """
    rows = select(results.rows, metric="accuracy")
    rows = rows[rows["task"].isin(results.tasks)]
    keys = ["base", "language", "seed", "ct_tokens"]
    mean = rows.groupby([*keys, "method", "setting"])["value"].mean()
    whole = statistics.whole_model(results.diagnostics)
    budgets, found = sorted(results.budgets), []
    for arm in (now, *arms):
        prefix = "" if arm == now else f"{arm}/"

        def of(method: str, setting: str = "tuned", prefix: str = prefix) -> pd.Series:
            return mean.xs((prefix + method, setting), level=("method", "setting"))

        lost = select(whole, method=f"{prefix}ties_mean", setting="tuned").set_index(keys)
        (middle,) = statistics.middle(budgets)
        effects = {
            "TIES over CT-then-SFT": of("ties_mean") - of("ct_then_sft"),
            "TIES over its middle budget": of("ties_mean")
            - of("ties_mean").xs(middle, level="ct_tokens"),
            "SFT that TIES discards": lost["discarded_sft_share"],
            "slack over none": of("ties_sv") - of("ties_sv", "without slack"),
        }
        for effect, values in effects.items():
            frame = values.rename("value").reset_index().assign(effect=effect, arm=arm)
            more = lost[["norm_ratio", "discarded_sft_share"]].reset_index()
            found.append(frame.merge(more, on=keys))
    table = pd.concat(found, ignore_index=True)
    return table.rename(columns={"discarded_sft_share": "discarded"})


@mpl.rc_context(STYLE)
def against_diagnosis(effects: pd.DataFrame) -> Figure:
    """The findings against what `langmerge diagnose` measures of a model of any size.

    effects: as `regime_effects` gives. Left against the ratio of the updates' lengths, right
    against the discarded share; a point a language, budget and arm.
    """
    fig, axes = _figure(8.6, 3.8, 1, 2, share=False)
    drawn = [effect for effect in dict.fromkeys(effects["effect"]) if "discards" not in effect]
    looks = {
        name: Look(name, colour, marker, "none")
        for name, colour, marker in zip(
            drawn, ("#0072B2", "#009E73", "#D55E00"), "o^*", strict=False
        )
    }
    told = []
    for name, style in looks.items():
        its = effects[effects["effect"] == name]
        for ax, what in zip(axes, ("norm_ratio", "discarded"), strict=True):
            ax.plot(
                its[what], its["value"], marker=style.marker, color=style.colour, alpha=0.7,
                linestyle="none", label=style.label,
            )  # fmt: skip
        rank = its[["norm_ratio", "discarded", "value"]].corr("spearman")["value"]
        told.append(
            f"{name}: rank correlation {rank['norm_ratio']:+.2f} with the ratio of lengths and "
            f"{rank['discarded']:+.2f} with the discarded share"
        )
    for ax in axes:
        ax.axhline(0, color="#333333", linewidth=0.8)
        _share_axis(ax, "effect (points of accuracy)")
    axes[0].set_xscale("log", base=2)
    axes[0].xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axes[0].set_xlabel("length of the CT update over that of SFT")
    axes[1].set_xlabel("SFT parameters that TIES discards (%)")
    axes[1].xaxis.set_major_formatter(percent_ticks())
    axes[1].set_ylabel("")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper left", ncols=2)
    return _with_alt(fig, f"Effects against what a diagnosis measures. {'. '.join(told)}.")


@mpl.rc_context(STYLE)
def over_languages(
    results: Results, methods: Sequence[str], setting: str = "tuned", intervals: bool = True
) -> Figure:
    """Accuracy against CT tokens, mean over the languages with t intervals; dots are languages.

    A model without CT is a level. intervals: where there are many methods, they hide the means.
    """
    fig, (ax,) = _figure(7.2, 4.0)
    rows = select(results.rows, metric="accuracy", method=list(methods), setting=[setting, "fixed"])
    rows = rows[rows["task"].isin(results.tasks)]
    told = []
    for index, method in enumerate(methods):
        its = rows[rows["method"] == method]
        if its.empty:
            raise LangmergeError(f"the results hold no {method!r} with setting {setting!r}.")
        each = its.groupby(["ct_tokens", "language"])["value"].mean().reset_index()
        found = {at: statistics.t_interval(of["value"]) for at, of in each.groupby("ct_tokens")}
        mean = pd.DataFrame(
            {"ct_tokens": at, "value": it.estimate, "low": it.low, "high": it.high}
            for at, it in found.items()
        )
        if not intervals:
            mean = mean.assign(low=-np.inf, high=np.inf)
        if list(found) == [0]:
            _level(ax, mean.iloc[0], method)
            told.append(f"{label(method)} {_percent(mean['value'].iloc[0])}")
            continue
        aside = 1.04 ** (index - (len(methods) - 1) / 2)
        _interval_line(ax, mean["ct_tokens"] * aside, mean, look(method))
        _dots(ax, each["ct_tokens"] * aside, each["value"], look(method).colour)
        ends = [f"{_percent(mean['value'].iloc[i])} at {_tokens(mean['ct_tokens'].iloc[i])}"
                for i in (0, -1)]  # fmt: skip
        told.append(f"{label(method)} {' and '.join(ends)}")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(ticker.FixedLocator(sorted(results.budgets)))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda at, _: _tokens(at)))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xlabel("CT tokens")
    _share_axis(ax, "accuracy, mean of the tasks (%)")
    _legend(ax)
    text = f"Accuracy against CT tokens, mean of {len(results.languages)} languages"
    return _with_alt(fig, f"{text}: {'; '.join(told)}.")


@mpl.rc_context(STYLE)
def slack_against_alone(points: pd.DataFrame, line: pd.DataFrame | None = None) -> Figure:
    """Slack's effect against SFT minus CT, each alone.

    points: as `larger.experts_alone` gives them, with the column `which`: a colour each. line: what
    is foretold of it, with the columns known (SFT minus CT), mean, low and high (all shares).
    """
    fig, (ax,) = _figure(6.4, 3.9)
    told = []
    if line is not None:
        known = 100 * line["known"]
        ax.fill_between(known, 100 * line["low"], 100 * line["high"], color="#dddddd", linewidth=0)
        ax.plot(known, 100 * line["mean"], color="#888888", linewidth=1)
    groups = points.groupby("which", sort=False, observed=True)
    for (which, its), (colour, marker) in zip(groups, itertools.cycle(BASES), strict=False):
        ax.plot(
            100 * (its["sft"] - its["ct"]), 100 * its["slack"], marker,
            color=colour, linestyle="none", label=which,
        )  # fmt: skip
        more = _points((its["sft"] - its["ct"]).mean())
        told.append(f"{which} {_points(its['slack'].mean())} points where SFT is {more} above CT")
    ax.axhline(0, color="#333333", linewidth=0.8)
    ax.axvline(0, color="#333333", linewidth=0.8)
    ax.set_xlabel("SFT only minus CT only (points of accuracy)")
    ax.set_ylabel("what slack changes (points)")
    fig.legend(loc="outside upper left", ncols=3)
    return _with_alt(
        fig, f"Slack's effect on accuracy, means over the languages: {'; '.join(told)}."
    )


@mpl.rc_context(STYLE)
def effect_by_expert(points: pd.DataFrame) -> Figure:
    """Each run seed's effects against what its SFT expert knows alone.

    points: columns seed, sft (accuracy), method, effect (a share, against CT-then-SFT).
    """
    fig, (ax,) = _figure(7.2, 3.9)
    told = []
    for method, its in points.groupby("method", sort=False):
        style = look(method)
        ax.plot(
            its["sft"], its["effect"], style.marker,
            color=style.colour, linestyle="none", label=style.label,
        )  # fmt: skip
        ends = " to ".join(map(_points, its["effect"].agg(["min", "max"])))
        told.append(f"{style.label} {ends} points")
    ax.axhline(0, color="#333333", linewidth=0.8)
    ax.xaxis.set_major_formatter(percent_ticks())
    ax.set_xlabel("accuracy of the seed's SFT expert alone (%)")
    _share_axis(ax, "merge minus CT-then-SFT (points)")
    _legend(ax)
    what = f"Merges against CT-then-SFT, {points['seed'].nunique()} run seeds"
    return _with_alt(fig, f"{what}, means over languages: {'; '.join(told)}.")


@mpl.rc_context(STYLE)
def effects_by_base(
    effects: pd.DataFrame,
    pooled: Mapping[str, statistics.Effect],
    together: str = "all bases",
    each_is: str = "base",
) -> Figure:
    """What each claim's effect is on each base, its run seeds apart, and over all bases.

    effects: columns what (of a claim, in words), base (its name), seed, effect (a share). pooled:
    the effect over all bases with the interval that decides, by `what`, in the order of the rows.
    together: what these bases are called. each_is: what the name of one is followed by.
    """
    names = list(dict.fromkeys(effects["base"]))
    # The first base has the first look, and keeps it for itself where it is not drawn.
    first = 0 if "first" in names else 1
    looks = dict(zip(names, itertools.islice(itertools.cycle(BASES), first, None), strict=False))
    fig, (ax,) = _figure(7.2, 1.2 + (0.2 + 0.14 * len(names)) * len(pooled))
    told = []
    for row, (what, mean) in enumerate(pooled.items()):
        its = effects[effects["what"] == what]
        for index, base in enumerate(names):
            colour, marker = looks[base]
            values = 100 * its.loc[its["base"] == base, "effect"]
            at = row + 0.8 * (index + 1) / (len(names) + 1)
            ax.plot(values, [at] * len(values), marker, color=colour, markersize=3, alpha=0.6)
            ax.plot(
                values.mean(), at, marker, color=colour, markersize=7, label=f"{base} {each_is}"
            )
        ax.plot([100 * mean.low, 100 * mean.high], [row, row], color="black", linewidth=1.5)
        ax.plot(100 * mean.estimate, row, "D", color="black", markersize=5, label=together)
        each = its.groupby("base", sort=False, observed=True)["effect"].mean()
        by_base = ", ".join(map(_points, each))
        interval = f"{_points(mean.low)} to {_points(mean.high)}"
        told.append(f"{what} {by_base}, {together} {_points(mean.estimate)} ({interval})")
    ax.axvline(0, color="#333333", linewidth=0.8)
    ax.set_yticks(range(len(pooled)), list(pooled))
    ax.invert_yaxis()
    ax.set_xlabel("effect (points of accuracy)")
    handles, labels = ax.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    fig.legend(shown.values(), shown.keys(), loc="outside upper left", ncols=4)
    text = f"Effects in points of accuracy by base ({', '.join(names)}): {'; '.join(told)}."
    return _with_alt(fig, text)


@mpl.rc_context(STYLE)
def parts(found: pd.DataFrame) -> Figure:
    """SFT's layers with each choice of the other parts of the two updates, and what that gives.

    found: columns ct_embeddings, ct_layers, sft_embeddings (bool), base, accuracy (a share),
    bits_per_byte.
    """
    steps = {
        "nothing": (False, False), "embeddings": (True, False), "layers": (False, True),
        "both": (True, True),
    }  # fmt: skip
    series = (
        ("without SFT's embeddings", False, look("layer_swapping"), "o", -0.08),
        ("with SFT's embeddings", True, look("sft"), "s", 0.08),
    )
    metrics = {"accuracy": ("accuracy (%)", 100), "bits_per_byte": ("bits per byte", 1)}
    fig, axes = _figure(8.6, 3.6, columns=2)
    told = []
    for ax, (metric, (what, factor)) in zip(axes, metrics.items(), strict=True):
        for called, sft, style, marker, shift in series:
            each = [
                factor * select(found, ct_embeddings=e, ct_layers=n, sft_embeddings=sft)[metric]
                for e, n in steps.values()
            ]
            drawn = {"marker": marker, "color": style.colour}
            at = [step + shift for step in range(len(steps))]
            for x, values in zip(at, each, strict=True):
                ax.plot([x] * len(values), values, linestyle="none", markersize=3, **drawn)
            means = [values.mean() for values in each]
            ax.plot(at, means, linestyle=style.dash, markersize=8, label=called, **drawn)
            said = ", ".join(f"{s} {m:.3g}" for s, m in zip(steps, means, strict=True))
            told.append(f"{what} {called}: {said}")
        ax.set_xticks(range(len(steps)), list(steps))
        ax.set_xlabel("what is added of the CT update")
        ax.set_ylabel(what)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return _with_alt(fig, f"SFT's layers with parts of the two updates. {'; '.join(told)}.")


def _points(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")
