"""Which of a model's parameters may be pruned."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from sparsecycle.names import nearest

__all__ = ["Choice", "choose", "own_sparsities"]

_MATRICES: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (nn.Linear, ("weight",)),
    (nn.Bilinear, ("weight",)),
    (_ConvNd, ("weight",)),
    (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")),
    (nn.RNNBase, ("weight_*",)),
    (nn.RNNCellBase, ("weight_*",)),
)


@dataclass(frozen=True)
class Choice:
    """The weights that are pruned, by name, and why each other matrix is not."""

    weights: dict[str, nn.Parameter]
    left_out: dict[str, str]


@dataclass(frozen=True)
class _Candidate:
    """A parameter under all its names, and the modules on the way to it under each of them."""

    parameter: nn.Parameter
    names: list[str]
    paths: list[list[nn.Module]]

    @property
    def is_matrix(self) -> bool:
        """Whether all its owners use it as the matrix of a linear map; an embedding tied to a head does not."""
        return all(
            any(isinstance(path[-1], kind) and _fits(name.rpartition(".")[2], leaves) for kind, leaves in _MATRICES)
            for name, path in zip(self.names, self.paths, strict=True)
        )

    def matches(self, pattern: str | type[nn.Module]) -> bool:
        if isinstance(pattern, str):
            return any(_fits(name, (pattern,)) or _fits(name.rpartition(".")[0], (pattern,)) for name in self.names)
        return any(isinstance(module, pattern) for path in self.paths for module in path)


def choose(
    model: nn.Module,
    include: Iterable[str | type[nn.Module]] | None = None,
    exclude: Iterable[str | type[nn.Module]] | None = None,
) -> Choice:
    """Choose the weights to prune.

    By default: the weight of every convolution and linear layer, the projections of multi-head attention and the
    matrices of recurrent layers. A parameter that several modules share counts once, and only if it is such a
    weight in each of them. Frozen and empty parameters are left out.

    Args:
        model: The network.
        include: Only what one of these matches: a glob for the name of a parameter or of the module that owns it,
            or a type of module, which stands for all inside it. One that matches no weight of the default kind
            takes the matrices it matches (``nn.Embedding``, a layer of your own), or if it matches none of these
            either, every parameter (``"*.bias"``).
        exclude: Leave out what one of these matches.

    Raises:
        ValueError: If a pattern matches nothing, a parameter is not initialized, or nothing is left.
    """
    candidates = _candidates(model)
    asked: list[_Candidate] = [c for c in candidates if c.is_matrix]
    if include is not None:
        matrices, asked = asked, []
        for pattern in _as_list("include", include):
            matched = _matching(pattern, "include", candidates)
            by_kind = [c for c in matched if any(c is m for m in matrices)]
            asked += by_kind or [c for c in matched if c.parameter.dim() > 1] or matched
    excluded = {}
    for pattern in _as_list("exclude", exclude or ()):
        for candidate in _matching(pattern, "exclude", candidates):
            excluded[candidate.names[0]] = f"exclude={pattern if isinstance(pattern, str) else pattern.__name__}"
    weights, left_out = {}, {}
    for candidate in candidates:
        name, parameter = candidate.names[0], candidate.parameter
        wanted = any(candidate is c for c in asked)
        if wanted and name not in excluded and parameter.requires_grad and parameter.numel():
            weights[name] = parameter
        elif parameter.dim() > 1 or wanted:
            kind = type(candidate.paths[0][-1]).__name__
            unfit = "empty" if parameter.requires_grad else "frozen"
            reason = unfit if wanted else "not in include" if candidate.is_matrix else kind
            left_out[name] = excluded.get(name, reason)
    if not weights:
        reasons = ", ".join(f"{name} ({reason})" for name, reason in left_out.items()) or "it has no matrices"
        raise ValueError(f"{type(model).__name__} has no weight to prune: {reasons}")
    return Choice(weights, left_out)


def own_sparsities(by_glob: Mapping[str, float], names: Sequence[str]) -> list[float | None]:
    """The sparsity of each weight, by the first glob that matches its name or its module's; None where none does."""
    for glob, sparsity in by_glob.items():
        if not any(_names_weight(name, glob) for name in names):
            raise ValueError(f"scope: {glob!r} matches none of the pruned weights{_nearest(glob, names)}")
        if not 0 <= sparsity <= 1:
            raise ValueError(f"scope: the sparsity of {glob!r} is {sparsity}; it must be from 0 to 1")
    return [next((s for glob, s in by_glob.items() if _names_weight(name, glob)), None) for name in names]


def _candidates(model: nn.Module) -> list[_Candidate]:
    found: dict[int, _Candidate] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"{name} is not initialized yet: run the model once on one batch first")
        path = [model]
        for part in name.split(".")[:-1]:
            path.append(path[-1].get_submodule(part))
        candidate = found.setdefault(id(parameter), _Candidate(parameter, [], []))
        candidate.names.append(name)
        candidate.paths.append(path)
    return list(found.values())


def _matching(pattern: str | type[nn.Module], role: str, candidates: list[_Candidate]) -> list[_Candidate]:
    matched = [c for c in candidates if c.matches(pattern)]
    if not matched:
        shown = repr(pattern) if isinstance(pattern, str) else pattern.__name__
        names = [name for c in candidates for name in c.names] if isinstance(pattern, str) else []
        raise ValueError(f"{role}: {shown} matches no parameter{_nearest(str(pattern), names)}")
    return matched


def _as_list(role: str, patterns: Iterable[str | type[nn.Module]]) -> list[str | type[nn.Module]]:
    listed: list[str | type[nn.Module]] = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in listed:
        if not (isinstance(pattern, str) or (isinstance(pattern, type) and issubclass(pattern, nn.Module))):
            raise ValueError(f"{role}: {pattern!r} is neither a name, a glob nor a type of module")
    return listed


def _fits(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def _names_weight(name: str, glob: str) -> bool:
    return _fits(name, (glob,)) or _fits(name.rpartition(".")[0], (glob,))


def _nearest(name: str, names: Sequence[str]) -> str:
    if any(n.startswith(f"{name}.") for n in names):
        return f"; did you mean '{name}.*', all inside it?"
    return nearest(name, [*names, *{n.rpartition(".")[0] for n in names}], most=3)
