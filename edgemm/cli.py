"""The command line: every verb of edgemm, thin.

Why thin: ``edgemm --help`` has to answer at once, so nothing but typer is imported here; what a command does lies in
``edgemm.pipeline`` and ``edgemm.runtime`` and is imported when the command runs. Errors are raised, never printed:
``edgemm.__main__`` makes one line of them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperCommand, TyperGroup

from edgemm.runtime.__main__ import json_line, parser_for
from edgemm.runtime.help import HELP_HELP, JSON_HELP, help_text

EXAMPLES = {
    "run": (
        "edgemm run export/recipes/emoji-search.toml --target cpu-int8",
        "edgemm run RECIPE --set distill.epochs=4 --target cpu-int8 --out out/try",
        "edgemm run RECIPE --from quantize",
    ),
    "plan": (
        "edgemm plan export/recipes/emoji-search.toml --target cpu-int8",
        "edgemm plan RECIPE --no-dry-run --json",
    ),
    "schema": ("edgemm schema > recipe.schema.json", "edgemm schema --markdown > recipe.md"),
    "runs": ("edgemm runs", "edgemm runs --store /data/edgemm --json"),
    "gc": ("edgemm gc --limit 20GB --dry-run", "edgemm gc --limit 20GB"),
    "doctor": ("edgemm doctor", "edgemm doctor --json"),
    "teach": ("edgemm teach RECIPE -o out/teacher",),
    "distill": ("edgemm distill RECIPE --teacher out/teacher -o out/student",),
    "prune": ("edgemm prune RECIPE --student out/student --teacher out/teacher -o out/pruned",),
    "capture": (
        "edgemm capture out/pruned -o out/graphs",
        "edgemm capture hf:openai/clip-vit-base-patch32 -o out/clip",
    ),
    "quantize": (
        "edgemm quantize model.onnx --calibration data.npz -o model-int8.onnx",
        "edgemm quantize out/graphs --calibration data.npz --engine openvino -o out/int8",
    ),
    "measure": ("edgemm measure out/graphs out/int8 --recipe RECIPE --threads 1 -o out/measured",),
    "explain": (
        "edgemm explain out/vqa-rad",
        "edgemm explain out/vqa-rad/student out/vqa-rad -o out/explained",
        "edgemm explain vqa.zip --data RECIPE --split test -o out/explained",
    ),
    "pack": ("edgemm pack out/int8 -o out/int8.zip",),
}


class _Command(TyperCommand):
    """A verb whose help looks as the device's own."""

    def get_help(self, ctx: Any) -> str:
        """Return the help of the verb."""
        arguments, options = _sections(self, ctx)
        names = [str(p.metavar) for p in self.params if p.param_type_name == "argument"]
        usage = " ".join([ctx.command_path, "[OPTIONS]", *names])
        sections = (("Arguments", arguments), ("Options", options))
        return help_text(usage, self.help or "", sections, examples=EXAMPLES[str(self.name)]).rstrip()


class _DeviceCommand(TyperCommand):
    """A verb that the runtime's own parser reads; typer knows it for its help and its completion."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave all arguments to the runtime's parser."""
        ctx.args = list(args)
        return list(args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:  # noqa: ARG002
        """Return the verb's options that begin so; nothing for anything else, so that the shell completes files."""
        if not incomplete.startswith("-"):
            return []
        from typer.core import CompletionItem  # type: ignore[attr-defined]

        flags = parser_for("edgemm").verbs[str(self.name)].flags()
        return [CompletionItem(flag, help=text) for flag, text in flags if flag.startswith(incomplete)]


class _Group(TyperGroup):
    """The program, whose help lists the verbs."""

    def get_help(self, ctx: Any) -> str:
        """Return the help of the program."""
        verbs = [(name, str(verb.help).partition("\n")[0]) for name, verb in self.commands.items()]
        sections = (("Options", _sections(self, ctx)[1]), ("Verbs", verbs))
        examples = (
            "edgemm run export/recipes/emoji-search.toml --target cpu-int8",
            "edgemm plan RECIPE",
            'edgemm infer BUNDLE --text "a red apple"',
            "edgemm verify BUNDLE",
            "edgemm quantize model.onnx --calibration data.npz -o out/int8",
        )
        return help_text("edgemm [OPTIONS] VERB ...", self.help or "", sections, examples=examples).rstrip()


def _sections(command: Any, ctx: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return a command's arguments and options, each a name and what it means; ``--help`` last."""
    arguments = [(str(p.metavar), f"{p.help}  [required]") for p in command.params if p.param_type_name == "argument"]
    options = [p.get_help_record(ctx) for p in command.params if p.param_type_name == "option"]
    return arguments, [*(record for record in options if record), ("-h, --help", HELP_HELP)]


def _engines(incomplete: str) -> list[str]:
    """Return the engines whose names begin so, for a shell that completes them."""
    from edgemm.runtime.engines import ENGINES

    return [name for name in ENGINES if name.startswith(incomplete)]


def _stages(incomplete: str) -> list[str]:
    """Return the stages whose names begin so."""
    from edgemm.recipe import STAGES

    return [name for name in STAGES if name.startswith(incomplete)]


app = typer.Typer(
    name="edgemm",
    cls=_Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Take a trained multimodal model to the edge: distil, prune, quantize, measure, pack.\n\n"
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
JsonOption = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
OutOption = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Where to write.", show_default=False)]


@app.command(cls=_Command)
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
        typer.Option(
            "--from",
            metavar="STAGE",
            help="Make this stage and all after it again, even where cached.",
            autocompletion=_stages,
        ),
    ] = None,
    last: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--until", metavar="STAGE", help="Stop after this stage.", autocompletion=_stages),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a recipe, from the teacher to a measured bundle.

    Finished stages are kept and not made twice; an interrupted run goes on where it was.
    """
    kept = store_path(store)

    def work() -> Any:
        announce_recipe("run", recipe, store=kept)
        from edgemm.pipeline.run import run_recipe

        return run_recipe(recipe, overrides or [], store=kept, out=out, targets=target or [], first=first, last=last)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
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
    as_json: JsonOption = False,
) -> None:
    """Show what a run would do, and try it all on tiny random models.

    Every stage is cached or to do; the dry run takes random weights of the same architecture through export,
    quantization, engine and runtime, so that what cannot work fails now and not after a day of training.
    """
    kept = store_path(store)

    def work() -> Any:
        takes = "a dry run takes a minute or so" if dry_run else "no dry run: seconds"
        announce_recipe("plan", recipe, store=kept, takes=takes)
        from edgemm.pipeline.plan import plan_recipe

        return plan_recipe(recipe, overrides or [], store=kept, targets=target or [], dry_run=dry_run)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="The recipe reference instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON instead of many.")] = False,
) -> None:
    """Write the JSON schema of recipes, for editors."""
    import json

    from edgemm.recipe import docs_from_schema, recipe_schema

    if as_json:
        _answer(lambda: {"markdown": docs_from_schema()} if markdown else recipe_schema(), as_json=True)
        return
    text = docs_from_schema() if markdown else json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"
    sys.stdout.write(text)


@app.command(cls=_Command)
def runs(store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the runs of a store, the latest first."""
    from edgemm.pipeline.listing import print_runs

    _answer(lambda: print_runs(store_path(store)), as_json=as_json)


@app.command(cls=_Command)
def gc(
    limit: Annotated[str, typer.Option("--limit", metavar="SIZE", help="Largest size left, e.g. 20GB, 500MB, 0.")],
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring a store under a size limit.

    The longest unused goes first; what a run in progress uses stays.
    """
    from edgemm.pipeline.listing import print_collected

    _answer(lambda: print_collected(store_path(store), limit, dry_run=dry_run), as_json=as_json)


@app.command(cls=_Command)
def doctor(as_json: JsonOption = False) -> None:
    """Show what is installed, and what to install."""
    from edgemm.pipeline.doctor import print_doctor

    _answer(print_doctor, as_json=as_json)


# --- the bundle's verbs: the device's own code -----------------------------------------------------------------------


def _device_verb(verb: str) -> Callable[[typer.Context], None]:
    def on_device(context: typer.Context) -> None:
        options = parser_for("edgemm").parse_args([verb, *context.args])
        if code := options.verb(options):
            raise typer.Exit(code)
        if verb == "inspect" and not options.json:
            from edgemm.pipeline.listing import print_operators

            print_operators(Path(options.bundle))

    return on_device


for _name, _parser in parser_for("edgemm").verbs.items():
    app.command(_name, cls=_DeviceCommand, help=_parser.description, add_help_option=False)(_device_verb(_name))


# --- one stage alone -------------------------------------------------------------------------------------------------


@app.command(cls=_Command)
def teach(recipe: RecipeArgument, out: OutOption, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Train or take a recipe's teacher alone.

    Writes a model's folder.
    """

    def work() -> Any:
        announce_recipe("teach", recipe, store=store_path(None), stage="teach")
        from edgemm.pipeline.verbs import teach

        return teach(recipe, overrides or [], out)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
def distill(
    recipe: RecipeArgument,
    teacher: Annotated[Path, typer.Option("--teacher", metavar="MODEL", help="The teacher's folder.")],
    out: OutOption,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Distil a teacher into a recipe's student alone.

    Writes a model's folder.
    """

    def work() -> Any:
        announce_recipe("distill", recipe, store=store_path(None), stage="distill")
        from edgemm.pipeline.verbs import distill

        return distill(recipe, overrides or [], teacher, out)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
def prune(
    recipe: RecipeArgument,
    student: Annotated[Path, typer.Option("--student", metavar="MODEL", help="The student's folder.")],
    teacher: Annotated[Path, typer.Option("--teacher", metavar="MODEL", help="The teacher's folder.")],
    out: OutOption,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Prune and recover a student alone.

    Writes a model's folder.
    """

    def work() -> Any:
        announce_recipe("prune", recipe, store=store_path(None), stage="prune")
        from edgemm.pipeline.verbs import prune

        return prune(recipe, overrides or [], student, teacher, out)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
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
    as_json: JsonOption = False,
) -> None:
    """Export each part of a model as ONNX.

    Each graph is compared with its part before it is kept. Writes a bundle's folder.
    """

    def work() -> Any:
        announce("capture", f"{model} as ONNX, one graph per part, into {out}; no estimate")
        from edgemm.pipeline.verbs import capture

        return capture(model, out, samples, factories=factory or ())

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
def quantize(
    source: Annotated[Path, typer.Argument(metavar="ONNX|BUNDLE", help="A graph or a bundle.", show_default=False)],
    calibration: Annotated[
        Path, typer.Option("--calibration", metavar="NPZ", help="Arrays named as the inputs, samples first.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            "--out",
            metavar="DIR|ONNX",
            help="Where to write: a new folder; of a graph also a new file, NAME.onnx.",
            show_default=False,
        ),
    ],
    engine: Annotated[
        str, typer.Option("--engine", metavar="NAME", help="The engine to write for.", autocompletion=_engines)
    ] = "onnxruntime",
    compute_capability: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--compute-capability", metavar="X.Y", help="For a bundle's TensorRT plans: their GPU, e.g. 8.6."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Quantize an ONNX graph or a bundle to int8.

    A bundle for TensorRT is built as well.
    The arrays of the .npz are in memory while it runs; a recipe streams its samples instead.
    """

    def work() -> Any:
        announce(
            "quantize",
            f"{source} to int8 for {engine}, calibrated on {calibration}, into {out}; no estimate",
        )
        from edgemm.pipeline.verbs import quantize

        return quantize(source, calibration, out, engine=engine, compute_capability=compute_capability)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
def measure(
    bundles: Annotated[list[Path], typer.Argument(metavar="BUNDLE...", help="Bundles, the reference first.")],
    out: OutOption,
    recipe: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--recipe", metavar="RECIPE", help="On whose data.  [default: the recipe of the run they are of]"),
    ] = None,
    overrides: SetOption = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, metavar="N", help="CPU threads of every target.  [default: as the first that names them]"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure bundles side by side in one run.

    Writes measurements and a report.
    """

    def work() -> Any:
        if recipe is None:
            announce("measure", f"{' and '.join(map(str, bundles))} on the data of their run, into {out}; no estimate")
        else:
            announce_recipe("measure", recipe, store=store_path(None), stage="measure")
        from edgemm.pipeline.verbs import measure

        return measure(bundles, out, recipe, overrides or [], threads=threads)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
def explain(
    bundles: Annotated[
        list[Path], typer.Argument(metavar="BUNDLE [BUNDLE2]", help="One bundle, or two to set side by side.")
    ],
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--data", metavar="RECIPE", help="On whose data.  [default: the recipe of the run they are of]"),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("-o", "--out", metavar="DIR", help="Where to write.  [default: the out folder of the run]"),
    ] = None,
    split: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--split", metavar="NAME", help="Of the data.  [default: what the recipe evaluates on]"),
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model does, before and after.

    What each modality brings, where it looks, and what it gets most wrong; explain.html in DIR.
    """

    def work() -> Any:
        where = f"on the data of {data or 'their run'}, into {out or bundles[0]}"
        announce("explain", f"{' and '.join(map(str, bundles))} {where}; no estimate")
        from edgemm.pipeline.explain import explain

        return explain(bundles, data, overrides or [], split=split, out=out)

    _answer(work, as_json=as_json)


@app.command(cls=_Command)
def pack(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder.", show_default=False)],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="ZIP", help="The zip to write.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Check a bundle's folder and zip it.

    The same folder gives the same bytes each time.
    """

    def work() -> Any:
        announce("pack", f"{bundle} into {out}; seconds")
        from edgemm.pipeline.verbs import pack

        return pack(bundle, out)

    _answer(work, as_json=as_json)


# --- plumbing --------------------------------------------------------------------------------------------------------


def store_path(given: Path | None) -> Path:
    """Return the store: as given, or ``$EDGEMM_STORE``, or ``.edgemm`` in the working folder."""
    from edgemm.pipeline.announce import default_store

    return given or default_store()


def announce(verb: str, what: str) -> None:
    """Print what a verb is about to do; see ``pipeline.announce``, which is imported when a verb runs."""
    from edgemm.pipeline import announce as first_line

    first_line.announce(verb, what)


def announce_recipe(verb: str, recipe: Path, *, store: Path, stage: str | None = None, takes: str = "") -> None:
    """Print what a verb is about to do with a recipe, and how long that takes or took before."""
    from edgemm.pipeline import announce as first_line

    first_line.announce_recipe(verb, recipe, store=store, stage=stage, takes=takes)


def _answer(work: Callable[[], Any], *, as_json: bool) -> None:
    """Do a verb's work, which prints; or print what it returns as one line of JSON, and nothing else to stdout."""
    if not as_json:
        work()
        return
    from edgemm.pipeline.announce import results_unprinted

    with results_unprinted():
        found = work()
    if found is not None:  # nothing from all but the first process of a launch
        print(json_line(found))


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
    command: Any = typer.main.get_command(app)
    if "_EDGEMM_COMPLETE" in os.environ:
        command._main_shell_completion(ctx_args={}, prog_name="edgemm")
    try:
        with command.make_context("edgemm", list(arguments) or ["--help"]) as context:
            command.invoke(context)
    except typer.Exit as left:
        return left.exit_code
    return 0
