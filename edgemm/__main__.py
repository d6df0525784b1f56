"""Entry point of ``edgemm``: one line for every error that a user can mend, whatever is installed.

Standard library only, since a device has neither typer nor pydantic; there the bundle's verbs are the runtime's own,
and for the others it says what to install.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

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
    code = 0
    try:
        code = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        advice = f"; {interrupt}" if str(interrupt) else ""
        print(f"edgemm: interrupted{advice}", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        # Nobody reads any more (``edgemm runs | head``); keep the interpreter's last flush quiet as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        if debug:
            raise
        lines = _lines(error)
        if lines is None:
            raise  # a bug of ours: the traceback is the report
        for line in lines:
            print(f"edgemm: error: {line}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        from edgemm.cli import run_command
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        return _run_on_device(arguments, error)
    return run_command(arguments)


def _run_on_device(arguments: list[str], missing: ModuleNotFoundError) -> int:
    """The verbs that need no workbench. Raises ``missing`` for the others."""
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


def _lines(error: Exception) -> list[str] | None:
    """What to tell the user of an error, or None where only a traceback helps."""
    from edgemm.runtime.disk import system_fault
    from edgemm.runtime.errors import EdgemmError
    from edgemm.runtime.hints import pip_install

    if isinstance(error, EdgemmError):
        return str(error).splitlines()
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _WORKBENCH:
        names = sorted(name.replace("_", "-") for name in _WORKBENCH)
        return [
            f"the workbench is not installed (no {error.name}); {pip_install(*names)}; "
            f"without it there are {', '.join(sorted(_ON_DEVICE - {'-h', '--help'}))}"
        ]
    if isinstance(error, MemoryError):
        return ["not enough memory; close other programs, or take smaller batches, images or models"]
    if fault := system_fault(error):
        return [fault]
    if hasattr(error, "format_message"):  # typer's own errors: an unknown option, a missing argument
        context = getattr(error, "ctx", None)
        command = getattr(context, "command_path", "edgemm")
        message = " ".join(str(error.format_message()).split()).rstrip(".")
        return [f"{message}; see '{command} --help'"]
    return None


if __name__ == "__main__":
    main()
