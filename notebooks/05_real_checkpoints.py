# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Released checkpoints
#
# **The question.** What do the weights say that others trained: is a merge better than its parts,
# and does a slack in the election of TIES help {cite:p}`tao2024unlocking`? The slack is *of our
# construction*, as in the lab.
#
# This notebook shows what a run of `langmerge paper` left on the disk. It fetches no weights and
# evaluates nothing.

# %%
from importlib.util import find_spec

if find_spec("langmerge") is None:
    raise ModuleNotFoundError(
        "This notebook needs langmerge. Get the study (the book's download button has it as a "
        "zip), unpack it, run `pip install -e .` in its folder, and restart the kernel."
    )

import math

import pandas as pd

from langmerge import paper, paper_page, paper_results, paper_verdicts, plotting
from langmerge.notebook import check_parameters, figure, glue

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
language = "tam_Taml"  # FLORES code of a language with released checkpoints
profile = "paper"  # the rows of `langmerge paper`; the lab's profiles belong to the other notebooks
triple = None  # which checkpoints: paper or laptop; None takes what fits the language
limit = None  # rows of a trial that was cut to so many items a task; None takes whole runs
dtype = None  # what the models were evaluated in, e.g. "bfloat16"; None takes the last run's
study = None  # a file of your own triples and grid, as `langmerge paper --study` takes it

# %% tags=["hide-input"]
check_parameters(["language", "profile", "triple", "limit", "dtype", "study"], globals())
paper_results.check_profile(profile)
chosen = paper.choose(language, triple, paper.read_study(study))
plotting.use_style()

# %% [markdown]
# ## What these weights can test

# %% tags=["hide-input"]
paper_page.can_test(chosen)

# %% [markdown]
# ## The rows
#
# Where there are none yet, the next cell says which command makes them.

# %%
run = paper_results.load(chosen, limit=limit, dtype=dtype)
paper_page.about(run)

# %% [markdown]
# ## Scores
#
# Accuracy with its standard error over items; the items of one text count together.

# %% tags=["hide-input"]
paper_page.score_table(run)

# %% [markdown]
# ## Accuracy against slack
#
# At slack 0 the merge is plain TIES. With slack ∞ SFT is never out-voted. Nothing but the slack
# differs along a curve.

# %% tags=["hide-input"]
fig = paper_page.slack_figure(run)
figure(
    fig,
    name="fig-real-slack-XXlangXX",
    caption=f"Accuracy in {chosen.language.name} against slack, a panel a task. Level lines are "
    "the three models that the merges are made of, the best weighted average, and chance; bars "
    "are 95 % intervals over items.",
    alt=plotting.alt(fig),
)

# %% [markdown]
# The slack with the highest point is the best on these very items. It is no estimate of what that
# slack gives on others, which is why the verdict below rests on one slack that was fixed before.
#
# ## Merges against their parts
#
# Every merge against each of its parts, paired on items. The intervals take the items of one text
# together. They speak of these items and these weights: released weights have no seeds.

# %% tags=["hide-input"]
differences = paper_page.differences(run)
fig = paper_page.difference_figure(differences)
figure(
    fig,
    name="fig-real-differences-XXlangXX",
    caption="Difference of accuracy between each merge and each of its parts, a panel a task, with "
    "95 % intervals. Right of zero the merge is better.",
    alt=plotting.alt(fig),
)

# %% tags=["hide-input"]
paper_page.difference_table(differences)

# %% [markdown]
# ## What the election discards
#
# Measured on the weights alone, without running a model.

# %% tags=["hide-input"]
fig = paper_page.discarded_figure(run)
figure(
    fig,
    name="fig-real-discarded-XXlangXX",
    caption="Share of the SFT parameters that survive trim and are then out-voted by CT, by layer "
    "and by kind of module, a column a slack.",
    alt=plotting.alt(fig),
)

# %% tags=["hide-input"]
paper_page.discarded_table(run)

# %% [markdown]
# ## The verdict on finding 3
#
# The rules are those that judge the lab, stated in `data/claims.yaml` before the run. One CT
# checkpoint is released for a language; it stands for the largest budget. "Without slack" is
# TIES, and the slack that is judged was fixed in `data/paper.yaml`.

# %% tags=["hide-input"]
verdicts = paper_verdicts.judge([run])
paper_verdicts.table(verdicts)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
for verdict in verdicts:
    glue(f"real-{verdict.claim}-{chosen.name}", verdict.verdict)
paper_verdicts.sentences(verdicts)

# %% [markdown]
# ## Try it
#
# The first takes minutes, the last an afternoon.

# %% [markdown] tags=["solution"]
# All but the last have a solution below them, folded away.

# %% [markdown]
# **1.** Which slack is best on each task, and how many standard errors does it lie above the
# smallest? Why may this number not be reported as what slack gives?

# %% tags=["hide-cell"]
swept = run.rows[run.rows["slack"].notna()]
by_task = swept.groupby("task", sort=False)
best = swept.loc[by_task["value"].idxmax()]
plain = swept.loc[by_task["slack"].idxmin()]
chosen_by_eye = pd.DataFrame(
    {
        "task": best["task"].to_numpy(),
        "best slack": [f"{slack:g}" for slack in best["slack"]],
        "accuracy": best["value"].to_numpy(),
        "at the smallest": plain["value"].to_numpy(),
        "standard errors": (best["value"].to_numpy() - plain["value"].to_numpy())
        / best["stderr"].to_numpy(),
    }
)
plotting.table(chosen_by_eye, name="solution-5-1")

# %% [markdown]
# **2.** The differences above are paired on items. How wide would their intervals be if every model
# had been asked items of its own?

# %% tags=["hide-cell"]
widths = pd.DataFrame(
    {
        "task": task,
        "against": part,
        "paired": (its.high - its.low) / 2,
        "items of its own": 1.96
        * math.hypot(*(run.row(model, task)["stderr"] for model in (merge, part))),
    }
    for merge, part, task, its in differences
    if math.isfinite(its.low)
)
widths = widths.groupby(["task", "against"], sort=False).mean().reset_index()
plotting.table(widths, name="solution-5-2")

# %% [markdown]
# **3.** How many items of this kind would tell a difference of three points from none, nine times
# in ten?

# %% tags=["hide-cell"]
needed = pd.DataFrame(
    {
        "task": task,
        "items asked": its.n,
        "items needed": its.n * ((1.96 + 1.28) * its.se / 0.03) ** 2,
    }
    for _, _, task, its in differences
    if math.isfinite(its.low)
)
needed = needed.groupby("task", sort=False).median().round().astype(int).reset_index()
plotting.table(needed, name="solution-5-3")

# %% [markdown]
# **4.** In which kind of module does the election discard most at the smallest slack, and is it
# where CT has moved furthest?

# %% tags=["hide-cell"]
tensors = run.diagnosis()
tensors = tensors[tensors["slack"] == tensors["slack"].min()]
modules = tensors.assign(
    **{f"squared_{of}": tensors[f"norm_{of}"] ** 2 for of in ("ct", "sft")}
).groupby("module", sort=False)
modules = modules[["kept_sft", "outvoted_sft", "squared_ct", "squared_sft"]].sum()
survived = modules["kept_sft"] + modules["outvoted_sft"]
told = pd.DataFrame(
    {
        "discarded share": modules["outvoted_sft"] / survived,
        "length of CT over SFT": (modules["squared_ct"] / modules["squared_sft"]) ** 0.5,
    }
)
plotting.table(told.reset_index(), name="solution-5-4")

# %% [markdown]
# **5.** Choose the slack on one half of the texts and judge it on the other half, many times over.
# How much of the gain of the first exercise is left?

# %% tags=["hide-input"]
paper_page.sources(run)
