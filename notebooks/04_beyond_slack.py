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
# # Beyond slack
#
# Slack is one remedy for one suspected cause: that an election discards SFT parameters. There are
# others. WIDEN {cite:p}`yu2024widen` was made for merging a pre-trained with a fine-tuned model;
# DARE {cite:p}`yu2024dare`, DELLA {cite:p}`deep2024della` and breadcrumbs
# {cite:p}`davari2024breadcrumbs` drop entries before anything is elected; Model Stock
# {cite:p}`jang2024model`, SLERP and layer swapping {cite:p}`bandarkar2025layer` hold no election at
# all; Chat Vector {cite:p}`huang2024chat` adds what was learnt and is done.
#
# **The question:** which of them keep what the SFT model can do, which keep the language, and where
# does each break? **The claims**, written down before a model of theirs was made: at the largest
# budget WIDEN and plain task arithmetic are not worse than TIES with slack. Below them stands a
# second set, about the cause itself: interventions that change one thing of TIES each.

# %%
from importlib.util import find_spec

if find_spec("langmerge") is None:
    raise ModuleNotFoundError(
        "This notebook needs langmerge. Get the study (the book's download button has it as a "
        "zip), unpack it, run `pip install -e .` in its folder, and restart the kernel."
    )

import pandas as pd
import torch
from IPython.display import HTML, Markdown, display

from langmerge import (
    claims,
    keeping,
    languages,
    live,
    merging,
    plotting,
    plotting_families,
    statistics,
    study,
)
from langmerge.data_card import marked
from langmerge.notebook import check_parameters, figure, glue
from langmerge.provenance import footer
from langmerge.verdicts import of_reference

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
language = "tam_Taml"  # FLORES code of a language with a file in data/languages, or zzz_NNNN
profile = "lab"  # how large the study is: data/profiles/<profile>.yaml
seeds = None  # run seeds, e.g. [0, 1, 2]; None takes the profile's
budgets = None  # CT tokens, e.g. [16384, 65536]; None takes the profile's

# %% tags=["hide-input"]
check_parameters(["language", "profile", "seeds", "budgets"], globals())
target = languages.load(language)
plotting.use_style()
torch.set_num_threads(1)  # tiny models: more threads wait for one another
Markdown(f"The target language is **{target.name}** ({marked(target, target.autonym)}).")

# %% [markdown]
# ## WIDEN, in full
#
# A weight matrix is a row of columns, and a column has a length and a direction. WIDEN asks of each
# column how far CT moved both and how far SFT did, ranks the columns within each model, and lets
# the ranks decide by a softmax who is heard. A column that moved more than $t$ times the mean rank
# is kept with the score $s$. Nobody is out-voted: every column of the result is a weighted sum.


# %%
def scores(moves, t=1.0, s=1.0):
    """Who is heard in each column: softmax over the models of the columns' ranks."""
    n = moves.shape[1]
    ranks = moves.argsort(dim=1, stable=True).argsort(dim=1) / n
    heard = torch.softmax(ranks, dim=0)
    return torch.where(ranks > t * ranks.mean(dim=1, keepdim=True), s, heard)


def widen(theta_base, theta_ct, theta_sft, t=1.0, s=1.0):
    """WIDEN of one weight matrix, (out, in)."""
    thetas = torch.stack([theta_ct, theta_sft])
    length = torch.linalg.vector_norm(theta_base, dim=0)
    lengths = torch.linalg.vector_norm(thetas, dim=1)
    turn = 1 - (thetas * theta_base).sum(dim=1) / (lengths * length)
    share = (scores((lengths - length).abs(), t, s) + scores(turn, t, s)) / 2
    return theta_base + (share[:, None] * (thetas - theta_base)).sum(dim=0)


theta = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 1.0, 2.0, -1.5]])
by_ct = torch.tensor([[0.1, -0.2, 0.0, 0.3], [0.05, 0.1, -0.1, 0.0]])
by_sft = torch.tensor([[-0.3, 0.0, 0.2, 0.05], [0.4, 0.1, 0.3, -0.2]])
pd.DataFrame(
    {
        "base": theta.flatten().tolist(),
        "CT adds": by_ct.flatten().tolist(),
        "SFT adds": by_sft.flatten().tolist(),
        "WIDEN": widen(theta, theta + by_ct, theta + by_sft).flatten().tolist(),
        "plain sum": (theta + by_ct + by_sft).flatten().tolist(),
    }
).style.set_uuid("widen").format(precision=2)

# %% [markdown]
# ## The run
#
# The same items as in the notebooks before. Every method has been tuned on the development
# languages with twelve trials, all combinations of the lists in `data/tuning.yaml`, and frozen.
# Two of the knobs are our additions, without which a method could not have been tuned like the
# others: the factor $\lambda$ of Model Stock, and of the SFT vector that is shrunk.

# %%
results = study.run(language=language, profile=profile, seeds=seeds, budgets=budgets)
largest = max(results.budgets)
REMEDIES = [
    "widen", "dare_linear", "dare_ties", "della", "breadcrumbs", "model_stock", "slerp",
    "layer_swapping", "chat_vector", "task_arithmetic", "scaled_sft",
]  # fmt: skip

# %% [markdown]
# ## One item, live
#
# The first test item of the language's first task (*topic*, or *thing* with a core file) that
# WIDEN's merge answers rightly, or where there is none the first that it does not, asked of the
# loaded checkpoints of the first seed and the largest budget.

# %%
shown = live.examples(results, ct_tokens=largest, merged="widen")
display(HTML(live.html(shown[0])))

# %% tags=["hide-input"]
figure(**shown[0].figure("fig-live-4-XXlangXX"))

# %% [markdown]
# ## What each keeps of the two updates
#
# However a merge is made, its update can be asked how much of the SFT update and of the CT update
# it holds: the coefficients of a least-squares fit by the two. Slack and shrinking lie on this
# plane as well as WIDEN does.

# %% tags=["hide-input"]
kept = keeping.kept(results, ["ties_mean", "ties_sv", *REMEDIES], largest)
fig = plotting_families.keeps(kept)
figure(
    fig,
    name="fig-keeps-XXlangXX",
    caption=f"How much of the SFT and of the CT update each merge holds at {largest:,} CT tokens, "
    f"{target.name}, first seed.",
    alt=plotting.alt(fig),
)

# %% [markdown]
# ## What that is worth: tasks against language

# %% tags=["hide-input"]
PLANE = ["sft", "ct", "ct_then_sft", "ties_mean", "ties_sv", *REMEDIES]
fig = plotting.balance(results, ct_tokens=largest, methods=PLANE)
figure(
    fig,
    name="fig-plane-XXlangXX",
    caption=f"Task accuracy against bits per byte of {target.name} at {largest:,} CT tokens. Up "
    "and to the left is better.",
    alt=plotting.alt(fig),
)

# %% [markdown]
# ## Where each breaks

# %% tags=["hide-input"]
fig = plotting.accuracy_against_tokens(results, methods=["sft", "ties_sv", *REMEDIES])
figure(
    fig,
    name="fig-breaks-XXlangXX",
    caption=f"Task accuracy in {target.name} against CT tokens, each remedy as it was tuned.",
    alt=plotting.alt(fig),
)

# %% tags=["hide-input"]
numbers = statistics.comparison(
    results, ["ties_mean", "ties_sv", *REMEDIES], ["tuned", "fixed"]
).query("`CT tokens` in (0, @largest)")
plotting.table(numbers, name="numbers-4")

# %% [markdown]
# ## The cause, by intervention
#
# Each row changes one thing of plain TIES. *Restored* adds back the SFT entries that the election
# discards and leaves everything else; *lost at random* discards as many others instead, in three
# draws. The CT update is given the length that it has at the other end of the budgets, before trim
# and election. Below stand slack's simpler rivals. (Scaling the CT update for the election alone is
# no rival: a CT vote times $1/(1+\xi)$ elects what slack $\xi$ elects.) One seed, the two ends.

# %%
causes = study.run(
    language=language,
    profile=profile,
    seeds=results.seeds[:1],
    budgets=[min(results.budgets), largest],
    families=["mechanism"],
)

# %% tags=["hide-input"]
fig = plotting_families.interventions(causes, causes.budgets)
figure(
    fig,
    name="fig-interventions-XXlangXX",
    caption=f"Task accuracy in {target.name} of interventions on plain TIES at the smallest and "
    "the largest CT budget. Bars are 95 % intervals; the line is plain TIES.",
    alt=plotting.alt(fig),
)

# %% [markdown]
# ## In other languages
#
# The *full reference run* asks all of this in three languages of three word orders, and has what is
# too long for a page: stronger baselines, every setting swept, bilingual CT, other rates. Its
# verdicts, where it has been run:

# %% tags=["hide-input"]
judged = [*of_reference([4, 5, 6]).values()]
tested = [verdict for verdict in judged if verdict.verdict != claims.NOT_TESTED]
if tested:
    display(claims.styled(tested, uuid="full"))
missing = [f"`{verdict.claim}`" for verdict in judged if verdict not in tested]
if missing:
    display(Markdown(f"Not tested, for their models have not been trained: {', '.join(missing)}."))

# %% [markdown]
# ## The verdict

# %% tags=["hide-input"]
verdicts = claims.judge(results, finding=4, missing_ok=True)
verdicts += claims.judge(causes, finding=5, missing_ok=True)
for name, text in claims.numbers(verdicts).items():
    glue(name, text)
claims.styled(verdicts, uuid="verdicts-4")

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown("\n".join(f"- {verdict.sentence()}" for verdict in verdicts))

# %% [markdown]
# ## Try it
#
# The first takes minutes, the last an afternoon.

# %% [markdown] tags=["solution"]
# All but the last have a solution below them, folded away.

# %% [markdown]
# **1.** With a $t$ that no rank exceeds, WIDEN calibrates nothing. How much of the two updates does
# it hold then, and why?

# %% tags=["hide-cell"]
ct, sft = results.model("ct", largest), results.model("sft")
three = (ct.load_base().weights, ct.weights(), sft.weights())
vectors = merging.TaskVectors.of(*three)


def held(merged):
    """The coefficients of SFT and CT in a merge of the three models."""
    tau = {name: merged[name] - tensor for name, tensor in vectors.theta_base.items()}
    return keeping.shares(tau, vectors.tau_sft, vectors.tau_ct)


tried = [{"t": t, **held(merging.merge("widen", *three, t=t))} for t in (0.5, 1.0, 2.0, 1e9)]
plotting.table(pd.DataFrame(tried), name="solution-4-1")

# %% [markdown] tags=["solution"]
# Two softmaxes over two models share out 1 between them, so that without calibration a column gets
# about half of each update.

# %% [markdown]
# **2.** Which remedy gives the most points of accuracy for each percent
# of bits per byte that it costs beside plain TIES?

# %% tags=["hide-cell"]
each = numbers.set_index("method")
plain = each.loc["ties_mean"]
traded = pd.DataFrame(
    {
        "points gained": 100 * (each["accuracy"] - plain["accuracy"]),
        "percent of bits paid": 100 * (each["bits per byte"] / plain["bits per byte"] - 1),
    }
).drop("ties_mean")
traded = traded.sort_values("points gained", ascending=False).reset_index()
plotting.table(traded, name="solution-4-2")

# %% [markdown]
# **3.** DARE makes up for what it drops, by the L1 norm (as mergekit does, and as tuned here) or by
# the probability (as the paper does). How much does that change the merge?

# %% tags=["hide-cell"]
asked = {"density_ct": 0.5, "density_sft": 0.5}
tried = [
    {"rescale": how, **held(merging.merge("dare_linear", *three, rescale=how, **asked))}
    for how in ("l1", "density", "none")
]
plotting.table(pd.DataFrame(tried), name="solution-4-3")

# %% [markdown]
# **4.** Layer swapping takes whole layers. Show that each tensor of its merge is one expert's, and
# say how much of the SFT update was left outside.

# %% tags=["hide-cell"]
swapped = merging.merge("layer_swapping", *three, bottom=0.25, top=0.25)
whose = {
    name: "CT" if torch.equal(tensor, vectors.theta_ct[name]) else "SFT"
    for name, tensor in swapped.items()
}
assert all(torch.equal(t, vectors.theta_sft[n]) for n, t in swapped.items() if whose[n] == "SFT")
counted = pd.Series(whose).value_counts()
left = 1 - held(swapped)["signs"]
Markdown(
    f"{counted.get('CT', 0)} tensors are CT's, {counted.get('SFT', 0)} are SFT's. Of the SFT "
    f"update's squared length {left:.0%} has lost its sign."
)

# %% [markdown]
# **5.** Combine two remedies: a step that makes the vectors sparse and a merge without election,
# or slack with a shorter CT update. `book/add_a_method` shows how a method becomes a row of the
# table; tune it on the development languages like the others before you ask your language.

# %% tags=["hide-input"]
footer(results)
