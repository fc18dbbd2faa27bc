# What binding.cpp exports. Tensors are passed without a copy.
from torch import Tensor

COLUMNS: int
MOST_DEGREE: int
MOST_CUBIC: int
POWERS: int
FEATURE_PADDING: int
COMPILER: str

def has_instruction_set(set: int) -> bool: ...
def current_instruction_set() -> int: ...
def use_instruction_set(set: int) -> None: ...

class NeighborList:
    def __init__(
        self, positions: Tensor, types: Tensor, n_local: int, cutoff: float, threads: int
    ) -> None: ...
    @property
    def n_edges(self) -> int: ...
    def copy(self, offsets: Tensor, indices: Tensor) -> None: ...

class Atoms:
    def __init__(
        self, positions: Tensor, types: Tensor, offsets: Tensor, indices: Tensor, threads: int
    ) -> None: ...

class Table:
    def __init__(
        self,
        coefficients: Tensor,
        davg: Tensor,
        dstd: Tensor,
        rcut: float,
        rcut_smth: float,
        table_start: float,
        table_spacing: float,
        protection: float,
        type_one_side: bool,
        table_of_distance: bool,
    ) -> None: ...

class Call:
    def __init__(self, atoms: Atoms, table: Table) -> None: ...
    @property
    def n_local(self) -> int: ...
    @property
    def n_types(self) -> int: ...
    @property
    def n_columns(self) -> int: ...
    def with_coefficients(self, coefficients: Tensor) -> Call: ...
    def moments(self, moments: Tensor, counts: Tensor) -> int: ...
    def backward(
        self,
        grad_moments: Tensor,
        grad_positions: Tensor | None,
        grad_coefficients: Tensor | None,
    ) -> None: ...
    def double_backward(
        self,
        grad_moments: Tensor,
        tangent: Tensor,
        grad_grad_moments: Tensor | None,
        grad_positions: Tensor | None,
        grad_coefficients: Tensor | None,
    ) -> None: ...

class Network:
    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        steps: list[Tensor | None],
        weight_out: Tensor,
        bias_out: float,
    ) -> None: ...

class Fitting:
    def __init__(
        self,
        shapes: list[tuple[int, int, int, int, int]],
        activation: int,
        networks: list[Network],
    ) -> None: ...

class Potential:
    def __init__(self, descriptors: list[tuple[Table, Tensor]], fitting: Fitting) -> None: ...
    def evaluate(
        self,
        atoms: Atoms,
        weights: Tensor | None,
        energies: Tensor,
        forces: Tensor,
        virial: Tensor,
    ) -> int: ...

def normals(
    ids: Tensor, seed: int, stream: int, step: int, threads: int, normals: Tensor
) -> None: ...
def add_repulsion(
    atoms: Atoms,
    atomic_numbers: Tensor,
    r_in: Tensor,
    r_out: Tensor,
    energies: Tensor,
    forces: Tensor,
    virial: Tensor,
) -> None: ...

class ShortRange:
    def __init__(
        self,
        coefficients: Tensor,
        bias: Tensor,
        rcut: float,
        smin_alpha: float,
        sw_rmin: float,
        sw_rmax: float,
        start: float,
        spacing: float,
    ) -> None: ...
    def weights(self, atoms: Atoms, weights: Tensor) -> None: ...
    def add(self, atoms: Atoms, energies: Tensor, forces: Tensor, virial: Tensor) -> None: ...

class Gradient:
    def __init__(
        self,
        weights: list[Tensor],
        biases: list[Tensor],
        steps: list[Tensor | None],
        weight_out: Tensor,
    ) -> None: ...

class Pass:
    def __init__(self, is_double: bool) -> None: ...
    def energies(
        self,
        fitting: Fitting,
        types: Tensor,
        moments: list[Tensor],
        threads: int,
        energies: Tensor,
        grad: list[Tensor],
    ) -> None: ...
    def backward(
        self,
        moments: list[Tensor],
        to_energies: Tensor,
        to_gradients: list[Tensor] | None,
        threads: int,
        grad: list[Tensor],
        gradients: list[Gradient],
    ) -> list[float]: ...

class EmbeddingNetwork:
    def __init__(
        self, weights: list[Tensor], biases: list[Tensor], steps: list[Tensor | None]
    ) -> None: ...

class Tabulation:
    def __init__(
        self,
        networks: list[EmbeddingNetwork],
        activation: int,
        start: float,
        spacing: float,
        n_nodes: int,
        n_features: int,
        threads: int,
        coefficients: Tensor,
        keep: bool,
    ) -> None: ...
    def backward(
        self, threads: int, grad_coefficients: Tensor, gradients: list[EmbeddingNetwork]
    ) -> None: ...

class SoapState:
    def __init__(
        self,
        sizes: tuple[int, int, int],
        step: Tensor,
        mean: Tensor,
        squares: Tensor,
        left: Tensor | None,
        left_basis: Tensor | None,
        right: Tensor | None,
        right_basis: Tensor | None,
    ) -> None: ...

def soap_step(
    values: list[Tensor],
    gradients: list[Tensor],
    states: list[SoapState],
    rates: list[float],
    decay: float,
    decay_squares: float,
    epsilon: float,
    most: float,
    interval: int,
    threads: int,
) -> None: ...
