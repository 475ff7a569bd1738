"""What decides the shape of a graph transformer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from maprobe.errors import InputError, allowed_names, did_you_mean

__all__ = ["MODELS", "BiasWeights", "GraphConfig", "Kind", "Readout"]

Kind = Literal["gt", "graphit", "san"]
Readout = Literal["mean", "sum", "nodes"]
BiasWeights = Literal["scores", "bias"]
MODELS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig:
    """The shape of a graph transformer (arXiv:2409.03463, after its code).

    Attributes:
        model: ``gt`` (Dwivedi and Bresson), ``graphit`` or ``san``.
        node_types: number of types in each integer column of the nodes.
        edge_types: number of types in each integer column of the edges; empty where edges carry numbers.
        edge_numbers: columns of numbers that edges carry; 0 where they carry types.
        layers: number of layers.
        heads: heads of attention in each.
        width: size of the node and edge features, a multiple of ``heads`` and at least 4.
        outputs: numbers that are predicted for each graph, or for each node.
        readout: ``mean`` or ``sum`` over the nodes of a graph, or ``nodes``: no pooling, each node is predicted.
        dropout: probability, after attention and inside the feed-forward networks.
        residual: whether what goes into attention and the feed-forward network is added to what comes out.
        edge_stream: whether edge features are carried from layer to layer. Only ``gt`` does that, and not on
            OGBN-PROTEINS.
        use_bias: whether the four linear maps of attention have biases.
        explicit_bias: whether attention has the explicit bias term; it takes ``use_bias`` too.
        bias_weights: with an explicit bias, what the weight of an edge is made of: its ``scores``, or the ``bias``
            alone, as the published code of ``graphit`` and ``san`` has it.

    Raises:
        InputError: a value is out of its range.
    """

    model: Kind
    node_types: tuple[int, ...]
    edge_types: tuple[int, ...]
    edge_numbers: int = 0
    layers: int
    heads: int
    width: int
    outputs: int = 1
    readout: Readout
    dropout: float = 0.0
    residual: bool = True
    edge_stream: bool
    use_bias: bool = False
    explicit_bias: bool = False
    bias_weights: BiasWeights = "scores"

    def __post_init__(self) -> None:
        self._check_names()
        self._check_numbers()
        if self.edge_stream and self.model != "gt":
            raise InputError(
                f"edge_stream is for the model gt; {self.model} reads the same edge features in each layer"
            )
        if self.explicit_bias and not self.use_bias:
            raise InputError("explicit_bias goes with use_bias; set both")
        if self.bias_weights == "bias" and not (self.explicit_bias and self.model != "gt"):
            raise InputError("bias_weights 'bias' is for graphit and san with explicit_bias; leave it out")

    def _check_names(self) -> None:
        if self.model not in MODELS:
            raise InputError(
                f"model {self.model!r} is none of the graph transformers{did_you_mean(str(self.model), MODELS)}; "
                f"allowed: {allowed_names(MODELS)}"
            )
        if self.readout not in get_args(Readout):
            raise InputError(f"readout {self.readout!r} is unknown; allowed: {allowed_names(get_args(Readout))}")
        if self.bias_weights not in get_args(BiasWeights):
            raise InputError(
                f"bias_weights {self.bias_weights!r} is unknown; allowed: {allowed_names(get_args(BiasWeights))}"
            )

    def _check_numbers(self) -> None:
        for name, least in (("layers", 1), ("heads", 1), ("width", 4), ("outputs", 1), ("edge_numbers", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} is {value!r}; allowed: whole numbers from {least}")
        if self.width % self.heads:
            raise InputError(
                f"width {self.width} cannot be shared by {self.heads} heads; choose a multiple of {self.heads}"
            )
        if not self.node_types or bool(self.edge_types) == bool(self.edge_numbers):
            raise InputError("nodes must carry types, and edges either types (edge_types) or numbers (edge_numbers)")
        if any(count < 1 for count in (*self.node_types, *self.edge_types)):
            raise InputError("each column of node_types and edge_types must have at least one type")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"dropout is {self.dropout}; allowed: numbers from 0, below 1")

    @property
    def head_size(self) -> int:
        """Channels of one head."""
        return self.width // self.heads

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> GraphConfig:
        """Return the config that plain data describe.

        Raises:
            InputError: a field is unknown or missing, or has a value that it cannot have.
        """
        known = {field.name for field in fields(cls)}
        for name in data:
            if name not in known:
                raise InputError(f"{name!r} is not part of a graph transformer's config{did_you_mean(name, known)}")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"a graph transformer's config is not complete: {error}") from None
