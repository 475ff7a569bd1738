"""Names to recipes. Knows no recipe itself; refuses two of one name; names the nearest when asked for none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

from maprobe.errors import MaprobeError, RegistryError, allowed_names, did_you_mean
from maprobe.recipes import (
    Architecture,
    Corpus,
    InterventionRecipe,
    MeasurementRecipe,
    Operator,
    Recipe,
    Renderer,
)

__all__ = ["Registry", "Shelf"]

R = TypeVar("R", bound=Recipe)

_NAME_FIELD = {Architecture: "model_type", Renderer: "suffix"}


class Shelf(Mapping[str, R], Generic[R]):
    """The recipes of one type, by name, each with the plugin that brought it."""

    def __init__(self, what: str, kind: type[R]) -> None:
        self.what = what
        self.kind = kind
        self._recipes: dict[str, R] = {}
        self._plugins: dict[str, str] = {}

    def add(self, recipe: R, *, plugin: str) -> None:
        """Register a recipe.

        Raises:
            RegistryError: the name is taken, or the value is not a recipe of this shelf's type.
        """
        if not isinstance(recipe, self.kind):
            raise RegistryError(
                f"plugin {plugin!r} registers {recipe!r} as {self.what}; allowed: values of "
                f"maprobe.{self.kind.__name__}"
            )
        name: str = getattr(recipe, _NAME_FIELD.get(self.kind, "name"))
        if name in self._recipes:
            raise RegistryError(
                f"{self.what} {name!r} is registered twice: by plugin {self._plugins[name]!r} and by plugin "
                f"{plugin!r}; rename one of them, or disable one plugin with `-p no:NAME`"
            )
        self._recipes[name] = recipe
        self._plugins[name] = plugin

    def plugin(self, name: str) -> str:
        """Return the name of the plugin that registered a recipe."""
        return self._plugins[name]

    def find(self, name: str, error: type[MaprobeError] = RegistryError) -> R:
        """Return the recipe of that name.

        Raises:
            MaprobeError: of the class given, naming the nearest name and all that are allowed.
        """
        try:
            return self._recipes[name]
        except KeyError:
            raise error(
                f"no {self.what} is named {name!r}{did_you_mean(name, self)}; allowed: {allowed_names(self)}"
            ) from None

    def __getitem__(self, name: str) -> R:
        return self._recipes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._recipes)

    def __len__(self) -> int:
        return len(self._recipes)


class Registry:
    """All recipes of a session, filled once from plugins and then only read."""

    def __init__(self) -> None:
        self.measurements: Shelf[MeasurementRecipe] = Shelf("measurement", MeasurementRecipe)
        self.interventions: Shelf[InterventionRecipe] = Shelf("intervention", InterventionRecipe)
        self.operators: Shelf[Operator] = Shelf("operator", Operator)
        self.corpora: Shelf[Corpus] = Shelf("corpus", Corpus)
        self.architectures: Shelf[Architecture] = Shelf("architecture", Architecture)
        self.renderers: Shelf[Renderer] = Shelf("report format", Renderer)

    def check(self) -> None:
        """See to it that recipes which lean on a measurement name one that is there, once all have been added.

        Raises:
            RegistryError: naming the plugin, the recipe and the measurements that are registered.
        """
        for measurement in self.measurements.values():
            for kind in measurement.companions:
                self._lean(self.measurements, measurement.name, kind)
        for intervention in self.interventions.values():
            if intervention.locate is not None:
                self._lean(self.interventions, intervention.name, intervention.locate.kind)

    def _lean(self, shelf: Shelf[Any], name: str, kind: str) -> None:
        if kind not in self.measurements:
            raise RegistryError(
                f"{shelf.what} {name!r} of plugin {shelf.plugin(name)!r} leans on the measurement {kind!r}, which is "
                f"not registered{did_you_mean(kind, self.measurements)}; allowed: {allowed_names(self.measurements)}"
            )

    def add(self, recipes: Iterable[Recipe], *, plugin: str) -> None:
        """Register recipes of any type.

        Raises:
            RegistryError: a name is taken, or a value is no recipe.
        """
        shelves = (
            self.measurements,
            self.interventions,
            self.operators,
            self.corpora,
            self.architectures,
            self.renderers,
        )
        for recipe in recipes:
            for shelf in shelves:
                if isinstance(recipe, shelf.kind):
                    shelf.add(recipe, plugin=plugin)  # type: ignore[arg-type]
                    break
            else:
                raise RegistryError(
                    f"plugin {plugin!r} registers {recipe!r}, which is no recipe; allowed: values of "
                    + allowed_names(f"maprobe.{shelf.kind.__name__}" for shelf in shelves)
                )
