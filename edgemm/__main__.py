"""Entry point of ``edgemm``: one line for every error that a user can mend, whatever is installed.

Standard library only, since a device has neither typer nor pydantic; there the bundle's verbs are the runtime's own,
and for the others it says what to install.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from edgemm.runtime.printing import end_output_, print_error, printing_safely

_WORKBENCH = {
    "accelerate", "filelock", "jinja2", "matplotlib", "onnx", "onnx_ir", "onnxscript", "pydantic", "rich",
    "safetensors", "torch", "torch_pruning", "transformers", "typer",
}  # fmt: skip
"""Packages of the extra ``build``; a distribution's name has a hyphen where its package has an underscore."""
_ON_DEVICE = {"verify", "infer", "bench", "inspect", "-h", "--help"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 an error to mend or a check that failed, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    if debug:
        given.remove("--debug")
    with printing_safely():
        code = _code(given, debug=debug)
    sys.exit(code)


def _code(given: list[str], *, debug: bool) -> int:
    """Run the command line; the exit code."""
    try:
        code = _run(given)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt as interrupt:
        print_error(f"interrupted; {interrupt}" if str(interrupt) else "interrupted", before="edgemm: ")
        return 130
    except BrokenPipeError:
        end_output_()  # nobody reads any more (``edgemm runs | head``)
        return 141
    except Exception as error:
        told = None if debug else _told(error)
        if told is None:
            raise  # a bug of ours: the traceback is the report
        if isinstance(error, OSError):
            end_output_()
        print_error(told, before="edgemm: error: ")
        return 2


def _run(arguments: list[str]) -> int:
    try:
        from edgemm.cli import run_command
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        return _run_on_device(arguments, error)
    return run_command(arguments)


def _run_on_device(arguments: list[str], missing: ModuleNotFoundError) -> int:
    """Return the verbs that need no workbench. Raises ``missing`` for the others."""
    from edgemm import __version__
    from edgemm.runtime.__main__ import parser_for

    if arguments == ["--version"]:
        print(f"edgemm {__version__} (Python {sys.version.split()[0]})")
        return 0
    if arguments and arguments[0] not in _ON_DEVICE:
        raise missing
    options = parser_for("edgemm").parse_args(arguments or ["--help"])
    code: int = options.verb(options)
    return code


def _told(error: Exception) -> BaseException | str | None:
    """Return what to tell the user of an error, or None where only a traceback helps."""
    from edgemm.runtime.disk import system_fault
    from edgemm.runtime.errors import EdgemmError
    from edgemm.runtime.hints import install_extra

    if isinstance(error, EdgemmError):
        return error
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _WORKBENCH:
        names = sorted(name.replace("_", "-") for name in _WORKBENCH)
        return (
            f"the workbench is not installed (no {error.name}); {install_extra('build', names)}; "
            f"without it there are {', '.join(sorted(_ON_DEVICE - {'-h', '--help'}))}"
        )
    if isinstance(error, MemoryError):
        return "not enough memory; close other programs, or take smaller batches, images or models"
    if fault := system_fault(error):
        return fault
    if hasattr(error, "format_message"):  # typer's own errors: an unknown option, a missing argument
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "edgemm")
        message = " ".join(str(error.format_message()).split()).rstrip(".")
        return f"{message}; see '{command} --help'"
    return None


if __name__ == "__main__":
    main()
