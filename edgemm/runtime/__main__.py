"""``python -m edgemm.runtime``: verify, inspect, ask and time a bundle on the device.

Standard library only. Errors go to stderr in one line with exit code 2; an interrupt ends with 130.
"""

from __future__ import annotations

import argparse
import difflib
import inspect as inspect_module
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from edgemm.runtime.columns import table_lines
from edgemm.runtime.errors import EdgemmError, EngineError, InputError
from edgemm.runtime.fields import printable
from edgemm.runtime.help import JSON_HELP, HelpParser
from edgemm.runtime.printing import end_output_, print_error, printing_safely

if TYPE_CHECKING:
    from edgemm.runtime.bundle import Bundle

EXAMPLES = {
    "verify": ("emoji-search.zip", "emoji-search.zip --target cpu-int8 --json"),
    "infer": (
        'emoji-search.zip --text "a smiling cat" --top 3',
        'vqa-rad.zip --image xray.png --text "is the heart enlarged?" --json',
    ),
    "bench": ("emoji-search.zip --target cpu-int8 --threads 1", 'emoji-search.zip --text "a red apple" --seconds 10'),
    "inspect": ("emoji-search.zip", "emoji-search.zip --json"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code (0, or 2 for a user's error, or 130 after an interrupt)."""
    with printing_safely():
        try:
            options = parser_for("python -m edgemm.runtime").parse_args(arguments)
            code: int = options.verb(options)
            sys.stdout.flush()
        except EdgemmError as error:
            print_error(error, before="error: ")
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of a pipe went away (| head)
            end_output_()
            return 0
        except OSError as error:
            from edgemm.runtime.disk import system_fault  # with numpy

            if not (fault := system_fault(error)):
                raise
            end_output_()
            print_error(fault, before="error: ")
            return 2
        return code


def verify(options: argparse.Namespace) -> int:
    """Check a bundle's digests and golden samples.

    Problems go to stderr, a line each, with exit code 2.
    """
    bundle = _open(options)
    report = bundle.verify(isolated=options.isolated)
    if options.json:
        fields = ("target", "files", "samples", "max_abs_error", "problems")
        print(json_line({"ok": report.ok} | {name: getattr(report, name) for name in fields}))
    for problem in report.problems:
        print_error(problem, before=f"{options.prefix}error: ")
    if not report.ok:
        return 2
    if not options.json:
        errors = ", ".join(f"{name} off by {error:.2g}" for name, error in report.max_abs_error.items())
        golden = (
            f"{report.samples} golden samples agree ({errors})"
            if report.samples
            else "no golden samples, so no answer was compared"
        )
        print(f"{options.bundle}: whole; {report.files} files match their sha256; target '{report.target}': {golden}")
    return 0


def inspect(options: argparse.Namespace) -> int:
    """Show what is in a bundle.

    Parts, parameters, bytes, operators, targets.
    """
    from edgemm.runtime.archive import open_archive
    from edgemm.runtime.arithmetic import float_lines, part_line
    from edgemm.runtime.shipped import bundle_bytes, shipped_bytes

    archive = open_archive(options.bundle)
    manifest = archive.manifest
    if options.json:
        print(json_line(manifest.to_json()))
        return 0
    files = f"{len(manifest.files)} file{'' if len(manifest.files) == 1 else 's'}"
    print(f"{manifest.name}: {manifest.family}, {files}, {bundle_bytes(archive):,} bytes with all targets and samples")
    print(f"takes {', '.join(f'{name} ({raw.kind})' for name, raw in manifest.inputs.items())}")
    print(f"gives {', '.join(f'{name} ({output.kind})' for name, output in manifest.outputs.items())}")
    rows = [["part", "role", "parameters", *(f"{t.name} bytes" for t in manifest.targets), "takes", "gives"]]
    for part in manifest.parts:
        sizes = [f"{manifest.files[target.files[part.name]].bytes:,}" for target in manifest.targets]
        takes, gives = part.signature.input_names, part.signature.output_names
        rows.append([part.name, part.role, f"{part.parameters:,}", *sizes, ", ".join(takes), ", ".join(gives)])
    _print_table(rows)
    rows = [["target", "engine", "precision", "threads", "ships, bytes"]]
    for target in manifest.targets:
        threads = str(target.threads or "engine's")
        rows.append([target.name, target.engine, target.label, threads, f"{shipped_bytes(manifest, target):,}"])
    _print_table(rows)
    for target in manifest.targets:
        for name, known in target.arithmetic.items():
            print(f"\n{target.name}, {name}: {part_line(known, manifest.files[target.files[name]].bytes)}")
            for line in float_lines(known):
                print(f"  {line}")
    for key in ("licence", "made"):
        if manifest.provenance.get(key):
            print(f"\n{key}: {printable(str(manifest.provenance[key]))}")
    return 0


def infer(options: argparse.Namespace) -> int:
    """Ask a bundle: images, texts and sounds as they are.

    Prints the matches of one sample, of each modality in a search; the outputs where nothing names them.
    """
    bundle = _open(options)
    given = _given(bundle, options)
    if not given:
        raise InputError(f"infer: nothing to ask; give one or more of {_flags(bundle)}")
    prediction = bundle.predict(top=options.top, **given)
    for name, value in prediction.outputs.items():
        if not all(map(math.isfinite, value.ravel().tolist())):
            raise EngineError(f"bundle '{bundle.manifest.name}': its output '{name}' is not finite for this sample")
    if options.json:
        outputs = {name: value[0].tolist() for name, value in prediction.outputs.items()}
        matches_of = {name: prediction.matches_of(name)[0] for name in prediction.named}
        matches = next(iter(matches_of.values()), None)
        print(json_line({"matches": matches, "matches_of": matches_of, "outputs": outputs}))
    else:
        for name in prediction.named:
            if len(prediction.outputs) > 1:
                print(f"by {_asked_by(bundle, name)}")
            for label, score in prediction.matches_of(name)[0]:
                print(f"{score:8.4f}  {printable(label)}")
        for name, value in prediction.outputs.items():
            if name in prediction.named:
                continue
            shown = " ".join(f"{v:.4f}" for v in value[0].ravel()[:8])
            print(f"{name} {value[0].shape}: {shown}{' …' if value[0].size > 8 else ''}")
    return 0


def _asked_by(bundle: Bundle, output: str) -> str:
    """Return the modality of the part that makes an output, or the output's own name where it has none."""
    makers = (part for part in bundle.manifest.parts if output in part.signature.output_names)
    return next((part.modality for part in makers if part.modality), output)


def bench(options: argparse.Namespace) -> int:
    """Measure a bundle's latency on this machine.

    Per part and end to end, on the sample given or on a golden one.
    """
    from edgemm.runtime.bench import bench_bundle, report_lines

    if not 0 < options.seconds <= 3600:
        raise InputError(f"bench: --seconds {options.seconds}: expected more than 0 and at most 3600")
    bundle = _open(options)
    result = bench_bundle(bundle, _given(bundle, options), seconds=options.seconds)
    if options.json:
        print(json_line(result))
    else:
        print("\n".join(report_lines(result)))
    return 0


def _open(options: argparse.Namespace) -> Bundle:
    from edgemm.runtime.bundle import Bundle

    return Bundle.open(options.bundle, target=options.target, threads=options.threads)


def _given(bundle: Bundle, options: argparse.Namespace) -> dict[str, Any]:
    """Return the samples named on the command line, as ``predict`` takes them."""
    from edgemm.runtime.readers.tensor import read_array

    given: dict[str, Any] = {
        name: getattr(options, name) for name in ("image", "text", "audio") if getattr(options, name) is not None
    }
    for pair in options.tensor:
        name, separator, path = pair.partition("=")
        if not separator:
            raise InputError(f"--tensor {pair}: expected NAME=FILE.npy")
        given[name] = read_array(path, name)
    for name in given:
        if name not in bundle.manifest.inputs:
            raise InputError(f"bundle '{bundle.manifest.name}' takes no {name}; it takes {_flags(bundle)}")
    return given


def _flags(bundle: Bundle) -> str:
    return ", ".join(raw.usage(name) for name, raw in bundle.manifest.inputs.items())


def json_line(value: Any) -> str:
    """Return one line of JSON, which knows no infinity: null stands for what is not finite."""

    def finite(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: finite(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [finite(item) for item in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(finite(value))


def _print_table(rows: list[list[str]]) -> None:
    print()
    for line in table_lines(rows[0], rows[1:], left=len(rows[0])):
        print(line)


class _Parser(HelpParser):
    """A parser whose errors are one line, as all others, and name the nearest option."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; an option that no verb has is an error of the verb."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self.verbs[options.verb.__name__]
            known = [flag for action in parser._actions for flag in action.option_strings]
            close = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1, cutoff=0.75)
            parser.error(f"no such argument: {unknown[0]}" + (f", did you mean '{close[0]}'" if close else ""))
        return options

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see '{self.prog} --help'")


def parser_for(program: str) -> HelpParser:
    """The parser of all verbs; ``options.verb(options)`` runs one. ``edgemm verify`` and the others take it as well.

    Raises:
        InputError: from ``parse_args``, for arguments that don't fit.
    """
    parser = _Parser(prog=program, description="Run a bundle on this machine: check it, ask it, time it, look into it.")
    verbs = parser.add_subparsers(required=True, metavar="verify|infer|bench|inspect")
    for function in (verify, infer, bench, inspect):
        name = function.__name__
        verb = verbs.add_parser(name, description=inspect_module.cleandoc(function.__doc__ or ""))
        verb.set_defaults(verb=function, prefix="edgemm: " if program == "edgemm" else "")
        verb.examples = [f"{program} {name} {line}" for line in EXAMPLES[name]]
        parser.verbs = {**parser.verbs, name: verb}
        verb.add_argument("bundle", metavar="BUNDLE", help="A bundle: folder or zip.")
        if function is not inspect:
            verb.add_argument("--target", metavar="NAME", help="One of the bundle's targets.  [default: its first]")
            verb.add_argument("--threads", type=int, metavar="N", help="CPU threads per run.  [default: the target's]")
        if function is verify:
            isolated = "Run the golden samples in a process of their own, with limits of memory and time."
            verb.add_argument("--isolated", action="store_true", help=isolated)
        if function in (infer, bench):
            verb.add_argument("--image", metavar="FILE", help="An image file.")
            verb.add_argument("--text", metavar="TEXT", help="A text.")
            verb.add_argument("--audio", metavar="FILE", help="A sound file.")
            verb.add_argument(
                "--tensor", metavar="NAME=FILE.npy", action="append", default=[], help="An array; may be repeated."
            )
        if function is infer:
            verb.add_argument("--top", type=int, default=5, metavar="K", help="Matches to print.  [default: 5]")
        if function is bench:
            verb.add_argument(
                "--seconds", type=float, default=3.0, metavar="S", help="Least time to measure.  [default: 3]"
            )
        verb.add_argument("--json", action="store_true", help=JSON_HELP)
    parser.examples = [line for verb in parser.verbs.values() for line in verb.examples[:1]]
    return parser


if __name__ == "__main__":
    sys.exit(main())
