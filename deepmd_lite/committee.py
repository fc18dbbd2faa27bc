"""Models as they are used: loaded where they are to compute, several of them as a committee."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch

from .kernels import neighbor_list
from .model import Potential, load_model
from .system import Evaluation, InputError, LocalEnv, Model, WithAtomicVirials

ModelOrPath = Model | str | Path
"""What `loaded` takes: a model, or the path of its file."""


class Committee:
    """Several potentials as one: the first drives, all of them give the deviation.

    What is said and done of one potential (`evaluate`, `type_map`, `precision`, `provenance`) is
    that of the first. Lists must reach to `rcut`, the largest cutoff.
    """

    def __init__(self, models: Sequence[Model], names: Sequence[str | Path] | None = None) -> None:
        """`models`: at least two; elements go by name.

        Raises InputError, naming the model, where one lacks an element of the first.
        """
        if len(models) < 2:
            raise InputError(f"model deviation: expected two models or more, found {len(models)}")
        self.models = list(models)
        self.type_map: list[str] = list(models[0].type_map)
        self.rcut: float = max(model.rcut for model in models)
        self.precision: str = getattr(models[0], "precision", "float64")
        self.provenance: dict[str, Any] | None = getattr(models[0], "provenance", None)
        self._types: list[torch.Tensor | None] = []
        self._mapped: dict[int, tuple[weakref.ref[torch.Tensor], int, torch.Tensor]] = {}
        for k, model in enumerate(models):
            where = f"model {k + 1}" if names is None else str(names[k])
            missing = [name for name in self.type_map if name not in model.type_map]
            if missing:
                raise InputError(
                    f"{where}: does not know {', '.join(missing)}, which the first model does; "
                    "put the model with the fewest elements first"
                )
            same = list(model.type_map[: len(self.type_map)]) == self.type_map
            numbers = [list(model.type_map).index(name) for name in self.type_map]
            self._types.append(None if same else torch.tensor(numbers, dtype=torch.int32))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made again where it is needed."""
        return {**self.__dict__, "_mapped": {}}

    @classmethod
    def of_members(cls, model: Model) -> Committee:
        """A potential with the members that its file holds (`uncertainty`); it drives.

        Raises InputError where there are none.
        """
        if not has_members(model):
            raise InputError(
                "the file of the only model holds no committee that could deviate from it; add "
                "one (dpl uncertainty MODEL DATA… -o OUT), or give several models"
            )
        assert model.members is not None
        return cls([model, *(model.member(k) for k in range(len(model.members)))])

    def evaluate(self, env: LocalEnv) -> Evaluation:
        """That of the first model."""
        return self.models[0].evaluate(env)

    def atomic_virials(self, env: LocalEnv, forces: torch.Tensor | None = None) -> torch.Tensor:
        """Those of the first model, and so the `forces`."""
        given = () if forces is None else (forces,)
        return cast(WithAtomicVirials, self.models[0]).atomic_virials(env, *given)

    def neighbor_list(
        self, positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`kernels.neighbor_list`, made where the first model evaluates."""
        return listed(self.models[0], positions, types, n_local, cutoff)

    @property
    def torch_device(self) -> torch.device:
        """Where the first model evaluates."""
        return device_of(self.models[0])

    def others(self, env: LocalEnv) -> Iterator[Evaluation]:
        """Those of all other models, in order, of the same atoms and list."""
        for k, model in enumerate(self.models[1:], 1):
            own = env
            if self._types[k] is not None:  # rows stay sorted by the first's types: any will do
                types = self._types_of(k, env.types)
                own = LocalEnv(env.positions, types, env.n_local, env.offsets, env.indices)
            yield model.evaluate(own)

    def _types_of(self, k: int, types: torch.Tensor) -> torch.Tensor:
        """`types` as model k numbers them: the same tensor as long as they are the same."""
        kept = self._mapped.get(k)
        if kept is None or kept[0]() is not types or kept[1] != types._version:
            numbers = self._types[k]
            assert numbers is not None
            own = numbers.to(types.device)[types.long()]
            kept = self._mapped[k] = weakref.ref(types), types._version, own
        return kept[2]


def has_members(model: Model) -> TypeGuard[Potential]:
    """Whether the model's file holds a committee."""
    return getattr(model, "members", None) is not None


def listed(
    model: Model, positions: torch.Tensor, types: torch.Tensor, n_local: int, cutoff: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kernels.neighbor_list`, made where the model evaluates if it can say so."""
    own = getattr(model, "neighbor_list", neighbor_list)
    result: tuple[torch.Tensor, torch.Tensor] = own(positions, types, n_local, cutoff)
    return result


def device_of(model: Model) -> torch.device:
    """Where the model evaluates without a copy of the atoms: the CPU, if it does not say so."""
    torch_device: torch.device = getattr(model, "torch_device", torch.device("cpu"))
    return torch_device


def loaded(
    model: ModelOrPath | Sequence[ModelOrPath], precision: str | None, device: str | None = None
) -> Model:
    """The model at a path or as it is, in the precision asked for; of several a `Committee`.

    It evaluates on `device`: 'cpu', 'cuda' or 'cuda:N'; None: where it is, and the CPU for a file.
    Raises InputError where there is no such device, for a model that cannot go there, and for what
    is no model.
    """
    if isinstance(model, (list, tuple)):
        names = [m if isinstance(m, (str, Path)) else f"model {k + 1}" for k, m in enumerate(model)]
        if not model:
            raise InputError("model: expected a model or several, found an empty list")
        models = [loaded(m, precision, device) for m in model]
        return models[0] if len(models) == 1 else Committee(models, names)
    if isinstance(model, (str, Path)):
        return load_model(Path(model).expanduser(), precision).to_device(device or "cpu")
    if not _is_model(model):
        raise InputError(
            "model: expected the path of a model file, or an object with rcut, type_map and "
            f"evaluate; found {type(model).__name__}"
        )
    if device not in (None, getattr(model, "device", "cpu")):
        if not hasattr(model, "to_device"):
            raise InputError(f"device '{device}': this model computes on the CPU alone")
        model.to_device(device)
    own = getattr(model, "precision", precision)
    if precision is not None and precision != own:
        raise InputError(
            f"precision '{precision}' for a Potential of {own}: give its file, or "
            f"copy.deepcopy(model).to_precision('{precision}'), which leaves this one as it is"
        )
    return model


def _is_model(given: object) -> TypeGuard[Model]:
    return all(hasattr(given, name) for name in ("rcut", "type_map", "evaluate"))
