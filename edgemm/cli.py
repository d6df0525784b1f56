"""The command line: every verb of edgemm, thin.

Why thin: ``edgemm --help`` has to answer at once, so nothing but typer is imported here; what a command does lies in
``edgemm.pipeline`` and ``edgemm.runtime`` and is imported when the command runs. Errors are raised, never printed:
``edgemm.__main__`` makes one line of them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(
    name="edgemm",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    help=(
        "Take a trained multimodal model to the edge: distil, prune, quantize, measure, pack.\n\n"
        "\b\n"
        "Examples:\n"
        "  edgemm run export/recipes/emoji-search.toml      the whole corridor, from teacher to bundle\n"
        "  edgemm plan RECIPE                               what would run, and whether it can\n"
        "  edgemm infer BUNDLE --text 'a red apple'         ask a bundle\n"
        "  edgemm verify BUNDLE                             its digests and golden samples\n"
        "  edgemm quantize model.onnx --calibration data.npz -o out/\n\n"
        "Exit codes: 0 done, 2 an error to mend or a check that failed (one line each on stderr), 130 interrupted.\n"
        "With --debug anywhere, an error shows its traceback."
    ),
)

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a TOML file.", show_default=False)]
SetOption = Annotated[
    Optional[list[str]],  # noqa: UP045 (typer reads annotations at run time)
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe; may be repeated."),
]
StoreOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--store", metavar="DIR", help="Where finished stages are kept.  [default: $EDGEMM_STORE or .edgemm]"),
]
OutOption = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where to write.", show_default=False)]


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--out", metavar="DIR", help="Where bundle and report go.  [default: out/NAME]"),
    ] = None,
    store: StoreOption = None,
    target: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--target", metavar="NAME", help="Only this target of the recipe; may be repeated."),
    ] = None,
    first: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--from", metavar="STAGE", help="Make this stage and all after it again, even where cached."),
    ] = None,
    last: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--until", metavar="STAGE", help="Stop after this stage."),
    ] = None,
) -> None:
    """Run a recipe, from the teacher to a measured bundle.

    Finished stages are kept and not made twice; an interrupted run goes on where it was.
    """
    from edgemm.pipeline.run import run_recipe

    run_recipe(
        recipe,
        overrides or [],
        store=store_path(store),
        out=out,
        targets=target or [],
        first=first,
        last=last,
    )


@app.command()
def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    store: StoreOption = None,
    target: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--target", metavar="NAME", help="Only this target of the recipe; may be repeated."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run/--no-dry-run", help="Take tiny random models of the same architecture through.")
    ] = True,
) -> None:
    """Show what a run would do, and try it all on tiny random models.

    Every stage is cached or to do; the dry run takes random weights of the same architecture through export,
    quantization, engine and runtime, so that what cannot work fails now and not after a day of training.
    """
    from edgemm.pipeline.plan import plan_recipe

    plan_recipe(recipe, overrides or [], store=store_path(store), targets=target or [], dry_run=dry_run)


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The recipe reference instead.")] = False,
) -> None:
    """Write the JSON schema of recipes, for editors."""
    import json

    from edgemm.recipe import docs_from_schema, recipe_schema

    text = docs_from_schema() if markdown else json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"
    sys.stdout.write(text)


@app.command()
def runs(store: StoreOption = None) -> None:
    """List the runs of a store, the latest first."""
    from edgemm.pipeline.listing import print_runs

    print_runs(store_path(store))


@app.command()
def gc(
    limit: Annotated[str, typer.Option("--limit", metavar="SIZE", help="Largest size left, e.g. 20GB, 500MB, 0.")],
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Bring a store under a size limit.

    The longest unused goes first; what a run in progress uses stays.
    """
    from edgemm.pipeline.listing import print_collected

    print_collected(store_path(store), limit, dry_run=dry_run)


@app.command()
def doctor() -> None:
    """Show what is installed, and what to install."""
    from edgemm.pipeline.doctor import print_doctor

    print_doctor()


# --- the bundle's verbs: the device's own code -----------------------------------------------------------------------

_PASS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


@app.command(context_settings=_PASS)
def verify(context: typer.Context) -> None:
    """Check a bundle's digests and golden samples."""
    _on_device("verify", context.args)


@app.command(context_settings=_PASS)
def infer(context: typer.Context) -> None:
    """Ask a bundle: images, texts and audio as they are."""
    _on_device("infer", context.args)


@app.command(context_settings=_PASS)
def bench(context: typer.Context) -> None:
    """Measure a bundle's latency on this machine."""
    _on_device("bench", context.args)


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle: folder or zip.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="The manifest as one line of JSON instead of text.")] = False,
) -> None:
    """Show what is in a bundle.

    Parts, parameters, bytes, operators, targets.
    """
    _on_device("inspect", [str(bundle), *(["--json"] if as_json else [])])
    if not as_json:
        from edgemm.pipeline.listing import print_operators

        print_operators(bundle)


# --- one stage alone -------------------------------------------------------------------------------------------------


@app.command()
def teach(recipe: RecipeArgument, out: OutOption, overrides: SetOption = None) -> None:
    """Train or take a recipe's teacher alone.

    Writes a model's folder.
    """
    from edgemm.pipeline.verbs import teach

    teach(recipe, overrides or [], out)


@app.command()
def distill(
    recipe: RecipeArgument,
    teacher: Annotated[Path, typer.Option("--teacher", metavar="MODEL", help="The teacher's folder.")],
    out: OutOption,
    overrides: SetOption = None,
) -> None:
    """Distil a teacher into a recipe's student alone.

    Writes a model's folder.
    """
    from edgemm.pipeline.verbs import distill

    distill(recipe, overrides or [], teacher, out)


@app.command()
def prune(
    recipe: RecipeArgument,
    student: Annotated[Path, typer.Option("--student", metavar="MODEL", help="The student's folder.")],
    teacher: Annotated[Path, typer.Option("--teacher", metavar="MODEL", help="The teacher's folder.")],
    out: OutOption,
    overrides: SetOption = None,
) -> None:
    """Prune and recover a student alone.

    Writes a model's folder.
    """
    from edgemm.pipeline.verbs import prune

    prune(recipe, overrides or [], student, teacher, out)


@app.command()
def capture(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model's folder, or hf:NAME, python:MODULE:FACTORY, folder:PATH.",
            show_default=False,
        ),
    ],
    out: OutOption,
    samples: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--samples", metavar="NPZ", help="Real values for the parity gate; random ones without."),
    ] = None,
    factory: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--factory",
            metavar="MODULE:FACTORY",
            help="A Python factory that makes parts of it, if you trust it; may be repeated.",
        ),
    ] = None,
) -> None:
    """Export each part of a model as ONNX.

    Each graph is compared with its part before it is kept. Writes a bundle's folder.
    """
    from edgemm.pipeline.verbs import capture

    capture(model, out, samples, factories=factory or ())


@app.command()
def quantize(
    source: Annotated[Path, typer.Argument(metavar="ONNX|BUNDLE", help="A graph or a bundle.", show_default=False)],
    calibration: Annotated[
        Path, typer.Option("--calibration", metavar="NPZ", help="Arrays named as the inputs, samples first.")
    ],
    out: OutOption,
    engine: Annotated[str, typer.Option("--engine", help="The engine to write for.")] = "onnxruntime",
    compute_capability: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--compute-capability", metavar="X.Y", help="For a bundle's TensorRT plans: their GPU, e.g. 8.6."),
    ] = None,
) -> None:
    """Quantize an ONNX graph or a bundle to int8.

    A bundle for TensorRT is built as well.
    The arrays of the .npz are in memory while it runs; a recipe streams its samples instead.
    """
    from edgemm.pipeline.verbs import quantize

    quantize(source, calibration, out, engine=engine, compute_capability=compute_capability)


@app.command()
def measure(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE…", help="Bundles, the reference first.")],
    out: OutOption,
    recipe: Annotated[Path, typer.Option("--recipe", metavar="RECIPE", help="On whose data accuracy is measured.")],
    overrides: SetOption = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=256, metavar="N", help="CPU threads of every target (default: as the first that names them)."
        ),
    ] = None,
) -> None:
    """Measure bundles side by side in one run.

    Writes measurements and a report.
    """
    from edgemm.pipeline.verbs import measure

    measure(bundles, out, recipe, overrides or [], threads=threads)


@app.command()
def explain(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE [BUNDLE2]", help="One bundle, or two to set side by side.")
    ],
    data: Annotated[Path, typer.Option("--data", metavar="RECIPE", help="On whose data.")],
    out: OutOption,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--split", metavar="NAME", help="Of the data.  [default: what the recipe evaluates on]"),
    ] = None,
    overrides: SetOption = None,
) -> None:
    """Show what a model does, before and after.

    What each modality brings, where it looks, and what it gets most wrong; explain.html in DIR.

    \b
    Examples:
      edgemm explain out/vqa-rad/bundle --data export/recipes/vqa-rad.toml -o out/explained
      edgemm explain TEACHER out/vqa-rad/bundle --data export/recipes/vqa-rad.toml --split test -o out/explained
    """  # noqa: D301  a backspace tells the help to keep the lines
    from edgemm.pipeline.explain import explain

    explain(bundles, data, overrides or [], split=split, out=out)


@app.command()
def pack(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="ZIP", help="The zip to write.", show_default=False)],
) -> None:
    """Check a bundle's folder and zip it.

    The same folder gives the same bytes each time.
    """
    from edgemm.pipeline.verbs import pack

    pack(bundle, out)


# --- plumbing --------------------------------------------------------------------------------------------------------


def store_path(given: Path | None) -> Path:
    """The store: as given, or ``$EDGEMM_STORE``, or ``.edgemm`` in the working folder."""
    from edgemm.pipeline.store import default_store

    return given or default_store()


def _on_device(verb: str, arguments: Sequence[str]) -> None:
    """Run a verb of the runtime's own command line, which is all a device has."""
    from edgemm.runtime.__main__ import parser_for

    options = parser_for("edgemm").parse_args([verb, *arguments])
    code = options.verb(options)
    if code:
        raise typer.Exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        from edgemm import __version__

        print(f"edgemm {__version__} (Python {sys.version.split()[0]})")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are raised."""
    for noisy in ("torchao", "torch.utils._pytree"):  # what they say at import is about packages nobody here asked for
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # not app(): typer's own main would take an interrupt for an exit and say nothing
    command = typer.main.get_command(app)
    try:
        with command.make_context("edgemm", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as left:
        return left.exit_code
    return 0
