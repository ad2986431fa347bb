"""Fields that several flows' parameters have in common: one home of their limits and of what forms and help say."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tasks.settings.host_entries import LOCAL

Data = Annotated[
    list[str],
    Field(
        title="Data",
        description="Parquet files, folders or globs of labelled windows, pooled. Empty: the built-in sample.",
    ),
]
RecipeFamily = Annotated[
    Literal["jade", "seed"],
    Field(
        title="Recipe",
        description="`jade`: the best recipe known for the loss. `seed`: the original's settings, faithfully.",
    ),
]
Epochs = Annotated[
    Annotated[int, Field(ge=1, le=10_000)] | None,
    Field(title="Epochs", description="Passes over the training windows; empty: the recipe's (50)."),
]
Ensemble = Annotated[int, Field(ge=1, le=20, title="Ensemble", description="Members whose marginals are averaged.")]
Checkpoint = Annotated[
    Literal["last", "best"],
    Field(title="Checkpoint", description="Score the last epoch's weights, or those of the best validation loss."),
]
MinSpanLength = Annotated[
    int,
    Field(ge=1, le=1024, title="Minimum span length", description="Shorter predicted spans are dropped, in bars."),
]
MergeGap = Annotated[
    int, Field(ge=0, le=1024, title="Merge gap", description="Gaps up to this many bars between spans are closed.")
]
Host = Annotated[
    str,
    Field(
        title="Host",
        description=f"Where the trainings run: `{LOCAL}`, a host that `jade hosts list` shows, or who rents one out: "
        "`runpod`, `ec2`; `static` takes a free one of the hosts.",
        min_length=1,
    ),
]
Device = Annotated[
    Literal["cpu", "cuda"] | None,
    Field(title="Device", description="What trains there; empty: the host's own setting, the CPU on this machine."),
]
NumWorkers = Annotated[
    Annotated[int, Field(ge=1, le=256)] | None,
    Field(title="Workers", description="Training processes at once; empty: one a core."),
]
Artifacts = Annotated[
    str | None,
    AfterValidator(lambda artifacts: (artifacts or "").strip() or None),
    Field(
        title="Artifacts",
        description="What keeps the runs: a folder or s3://bucket/prefix; empty: the settings', else `artifacts`.",
    ),
]
Fresh = Annotated[
    bool,
    Field(title="Fresh", description="Train again even where the same training is kept from an earlier run."),
]
