"""Clean: from whatever exported the graph to the form that every later pass and engine reads."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, Sequential
from onnx_ir.passes import common as passes

from edgemm.graph.passes.batchnorm import FoldBatchNorm
from edgemm.graph.passes.constants import FoldConstants
from edgemm.graph.passes.padding import FoldPad
from edgemm.graph.passes.values import is_standard, put_in_place_


class DropIdentity(InPlacePass):
    """Let what an Identity of the main graph copies be read in its place.

    1. y = Identity(x), y no output of a graph -> x, for every reader
    2. the same where y is an output and x is made by a node and no output -> x, under y's name

    Takes any type, rank and opset. A copy of an input, of a constant or of another output stays an output.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        for node in list(model.graph):
            if not is_standard(node, "Identity") or node.inputs[0] is None:
                continue
            source, copy = node.inputs[0], node.outputs[0]
            if not copy.is_graph_output():
                copy.replace_all_uses_with(source)
                model.graph.remove(node, safe=True)
            elif source.producer() is not None and not source.is_graph_output():
                put_in_place_(copy, source)
            else:
                continue
            modified = True
        return PassResult(model, modified=modified)


class DropUnused(InPlacePass):
    """Drop what nothing reads, and last inputs that are left empty, from the main graph.

    1. a node of which no output is read, by a node at any depth or as an output -> nothing
    2. an initializer that is neither read nor an input or output -> nothing
    3. op(x, "") -> op(x)

    Takes any operator, rank and opset.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        for node in reversed(list(model.graph)):
            if not any(v.uses() or v.is_graph_output() for v in node.outputs):
                model.graph.remove(node, safe=True)
                modified = True
                continue
            given = len(node.inputs)
            while given and node.inputs[given - 1] is None:
                given -= 1
            if given < len(node.inputs):
                node.resize_inputs(given)
                modified = True
        for name, value in list(model.graph.initializers.items()):
            if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                del model.graph.initializers[name]
                modified = True
        return PassResult(model, modified=modified)


class NumberNames(InPlacePass):
    """Give every value of the main graph a name of its own; what the graph had keeps its name before what was made.

    1. an initializer or inner value with the name of an input, an output, an earlier one or a value of a body ->
       numbered

    Takes any graph. Inputs, outputs and bodies keep their names; an output of a node that is left empty stays so.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        graph = model.graph
        kept = {*graph.inputs, *graph.outputs}
        taken = {v.name for v in kept}
        for body in model.graphs():
            if body is not graph:
                taken |= {v.name for v in body.inputs} | set(body.initializers)
                taken |= {v.name for node in body for v in node.outputs}
        modified = False
        inner = [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        for value in inner:
            if value in kept or not value.name:
                continue
            name, i = value.name, 1
            while name in taken or (name != value.name and name in graph.initializers):
                name, i = f"{value.name}_{i}", i + 1
            if name != value.name:
                value.name = name
                modified = True
            taken.add(name)
        return PassResult(model, modified=modified)


class ForgetShapes(InPlacePass):
    """Drop inferred shapes and types of inner values, and the exporter's metadata.

    1. shape and type of every value of the main graph that is neither input, output nor initializer -> unknown
    2. metadata, doc strings of nodes and values -> gone

    onnxruntime's shape inference refuses graphs whose recorded shapes differ from its own by a symbol's name. Bodies
    keep theirs: a sequence that a body takes or makes can't be inferred.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        for node in model.graph:
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None
                if not value.is_graph_output():
                    value.shape = None
                    value.type = None
        model.graph.metadata_props.clear()
        model.metadata_props.clear()
        model.doc_string = None
        model.graph.doc_string = None
        model.producer_name, model.producer_version = "edgemm", ""
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """No inner value keeps a shape."""
        for node in model.graph:
            if any(v.shape is not None for v in node.outputs if not v.is_graph_output()):
                raise PostconditionError(f"node '{node.name}' kept a shape")


def finish_(model: ir.Model) -> None:
    """Drop what nothing reads, sort, and give every value a name of its own; in place."""
    Sequential(DropUnused(), passes.TopologicalSortPass(), NumberNames())(model)


def clean_(model: ir.Model) -> None:
    """Inline, fold constants, batch norm and padding, drop what nothing reads, forget shapes; in place.

    Of the passes that come with onnx_ir and onnxscript only those are here that are right on every node test of the
    ONNX standard. The optimizer of onnxscript is not: it merges a state of Scan with its output, loses CastLike's
    saturate, turns a batch norm that trains into one that doesn't, and folds by another arithmetic than the engine's.
    """
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.shape = ir.Shape(value.const_value.shape.numpy())
    Sequential(
        passes.InlinePass(),
        FoldConstants(),
        DropIdentity(),
        DropUnused(),
        FoldPad(),
        FoldBatchNorm(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        ForgetShapes(),
    )(model)
    finish_(model)
