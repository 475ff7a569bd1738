"""The modules that a model's own code names for sites, found in the model and shown to be what they are named for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import nn

from maprobe.errors import DiscoveryError, MaprobeError, MeasurementError, allowed_names, did_you_mean
from maprobe.running.anatomy import Anatomy, Part
from maprobe.running.calling import call, incoming, outgoing, with_incoming, with_outgoing
from maprobe.running.own_inputs import TOKENS
from maprobe.sites import SITES, is_own, site_named

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from maprobe.running.calling import Arguments
    from maprobe.running.own_inputs import OwnBatch

__all__ = [
    "NAMEABLE",
    "at_site",
    "loss_of",
    "loss_shown",
    "named_paths",
    "named_sites",
    "not_named",
    "proofs_of_sites",
    "rows_of",
    "shown",
]

TAKEN_IN = ("block.mid", "block.attn.in", "block.mlp.in", "block.mlp.hidden")  # what a module is called on
NAMEABLE = (
    *("block.out", "block.mid", "block.attn.in", "block.attn.out", "block.mlp.in", "block.mlp.out", "block.mlp.hidden"),
    *("embed.out", "final.norm.out", "edge.attn", "edge.embed"),
)
_ROUTE = "named by the model's own code"
_FLAT, _WHOLE = 2, 3  # dimensions of rows x columns, and of the same with a sequence before them


def named_paths(sites: Mapping[str, str | Sequence[str]], model: nn.Module) -> dict[str, list[str]]:
    """Return the paths of the modules that are named for each site, stars spelled out.

    Raises:
        DiscoveryError: a site is unknown, a path leads to no module, or sites of one stack have different numbers of
            layers.
    """
    named = {site: _spelled_out(site, paths, model) for site, paths in sites.items()}
    for site, paths in named.items():
        if not is_own(site) and site not in NAMEABLE:
            raise DiscoveryError(
                f"the model's code names modules for the site {site!r}{did_you_mean(site, NAMEABLE)}; allowed: "
                f"{', '.join(NAMEABLE)}, or own.NAME for a site of the model's own"
            )
        if not site_named(site).per_layer and len(paths) > 1:
            raise DiscoveryError(f"the model's code names {len(paths)} modules for {site}, which has one; name that")
    layered = {site: len(paths) for site, paths in named.items() if not is_own(site) and SITES[site].per_layer}
    if len(set(layered.values())) > 1:
        told = ", ".join(f"{site} {count}" for site, count in layered.items())
        raise DiscoveryError(f"the model's code names modules of different numbers of layers ({told}); name as many")
    return named


def _spelled_out(site: str, given: str | Sequence[str], model: nn.Module) -> list[str]:
    modules = dict(model.named_modules())
    paths = [given] if isinstance(given, str) else list(given)
    found: list[str] = []
    for path in paths:
        if "*" in path:
            pattern = re.compile(re.escape(path).replace(r"\*", r"(\d+)"))
            matches = [match for name in modules if (match := pattern.fullmatch(name))]
            found += [match[0] for match in sorted(matches, key=lambda match: tuple(map(int, match.groups())))]
            if matches:
                continue
        elif path in modules:
            found.append(path)
            continue
        near = did_you_mean(path, modules) if "*" not in path else ""
        raise DiscoveryError(
            f"the model's code names {path!r} for the site {site}, and {type(model).__name__} has no module there{near}"
        )
    if not found:
        raise DiscoveryError(f"the model's code names no module for the site {site}; name one, or leave the site out")
    return found


def named_sites(paths: Mapping[str, Sequence[str]], model: nn.Module) -> dict[str, tuple[Part, ...]]:
    """Return the modules of those paths."""
    return {
        site: tuple(Part(path=path, module=model.get_submodule(path), route=_ROUTE) for path in named)
        for site, named in paths.items()
    }


def shown(part: Part, site: str, show: Callable[[torch.Tensor], Any]) -> Callable[[], None]:
    """Hook a module so that what a site stands for is shown each time the model is called; return what unhooks it.

    What is returned by ``show`` as a tensor takes the place of what was there.
    """
    if site in TAKEN_IN:

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
            value = incoming(args, kwargs)
            if value is None:
                raise DiscoveryError(f"{type(module).__name__} was called on no tensor, and {site} is one")
            new = show(value)
            return with_incoming(args, kwargs, new) if isinstance(new, torch.Tensor) else None

        return part.module.register_forward_pre_hook(before, with_kwargs=True).remove

    def after(module: nn.Module, args: object, output: object) -> object:
        del args
        value = outgoing(output)
        if value is None:
            raise DiscoveryError(
                f"{type(module).__name__} returns {type(output).__name__}, and {site} is a tensor, or the first of a "
                f"tuple"
            )
        new = show(value)
        return with_outgoing(output, new) if isinstance(new, torch.Tensor) else None

    return part.module.register_forward_hook(after).remove


def rows_of(value: torch.Tensor, site: str) -> torch.Tensor:
    """Return what a site shows as (1, rows, columns), a view of it.

    Raises:
        DiscoveryError: it has another form.
    """
    if value.dim() == _FLAT:
        return value.unsqueeze(0)
    if value.dim() == _WHOLE and value.shape[0] == 1:
        return value
    raise DiscoveryError(
        f"{site} has the form {tuple(value.shape)} on one input, and rows x columns are wanted, or 1 x rows x columns: "
        f"an input is one sequence"
    )


def at_site(value: torch.Tensor, site: str, batch: OwnBatch) -> tuple[torch.Tensor, OwnBatch]:
    """Return what a site shows of an input with an axis of sequences, and the batch as it is there.

    Raises:
        DiscoveryError: it has another form.
        MeasurementError: the input has words for another number of rows.
    """
    axes = site_named(site).axes
    if "head" not in axes:
        value = rows_of(value, site)
        return value, batch.at(axes[1], value.shape[1])
    # Of attention, keys come whole and queries in blocks.
    return value, batch.at(TOKENS, value.shape[axes.index("key") if "key" in axes else axes.index("token")])


def proofs_of_sites(
    anatomy: Anatomy, given: Arguments, plain: torch.Tensor, answer: Callable[[object], torch.Tensor]
) -> Iterator[tuple[str, bool | None, str]]:
    """Try, for the sites that the model's code names, that each can be read, and whether anything depends on it."""
    for site, parts in anatomy.sites.items():
        counts: list[int] = []
        forms: list[tuple[int, ...]] = []

        def see(value: torch.Tensor, counts: list[int] = counts, forms: list[tuple[int, ...]] = forms) -> torch.Tensor:
            counts.append(1)
            forms.append(tuple(value.shape))
            return value.clone()

        again = _called(anatomy, given, site, parts, see, answer)
        readable = all(len(form) == _FLAT or (len(form) == _WHOLE and form[0] == 1) for form in forms)
        once = len(counts) == len(parts)
        told = f"{len(counts)} calls of {len(parts)} modules, {_alike(forms)}"
        name = f"{site} can be read, and reading it changes nothing"
        yield name, once and readable and torch.equal(again, plain), told
        moved = _called(anatomy, given, site, parts, lambda value: value + value.abs().mean() + 1, answer)
        change = float((moved.float() - plain.float()).abs().max())
        # Something may well be computed and not used.
        name = f"a nudge to {site} changes the output of the model"
        yield name, True if change > 0 else None, f"by at most {change:.3g}"


def _called(
    anatomy: Anatomy,
    given: Arguments,
    site: str,
    parts: Iterable[Part],
    show: Callable[[torch.Tensor], torch.Tensor],
    answer: Callable[[object], torch.Tensor],
) -> torch.Tensor:
    undo = [shown(part, site, show) for part in parts]
    try:
        return answer(call(anatomy.model, given, logits=True))
    finally:
        for remove in undo:
            remove()


def _alike(forms: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(f"{len(list(group))} x {form}" for form, group in groupby(forms)) or "nothing shown"


def loss_of(loss: Callable[[Any, Any], torch.Tensor], output: object, given: object) -> torch.Tensor:
    """Return the loss of one input, shape (1,), as the model's own code computes it.

    Raises:
        MeasurementError: it is not a single number.
    """
    try:
        value = torch.as_tensor(loss(output, given))
    except MaprobeError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise MeasurementError(
            f"the loss that the model's code brings failed with {type(error).__name__}: {first}"
        ) from error
    if value.numel() != 1:
        raise MeasurementError(
            f"the loss that the model's code brings has the form {tuple(value.shape)}, and a single number is wanted"
        )
    return value.reshape(1)


def loss_shown(anatomy: Anatomy, output: object, batch: OwnBatch) -> torch.Tensor:
    """Return the loss of one input, shape (1,); nothing where the model's code brings none."""
    if anatomy.own is None or anatomy.own.loss is None:
        return torch.empty(0)
    return loss_of(anatomy.own.loss, output, batch.value)


def not_named(anatomy: Anatomy, site: str) -> MeasurementError:
    """Return the error that a model has no site of that name, since nothing but its own code could name one."""
    named = f"those of {allowed_names(anatomy.sites)}" if anatomy.sites else "none"
    return MeasurementError(
        f"this model has no site {site}: its own code has to name modules for it, and names {named}"
    )
