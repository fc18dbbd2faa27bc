"""What outputs of DFT codes say of themselves: unconverged steps, energies, mixed-up steps."""

import numpy as np
import pytest

from deepmd_lite.cli import main
from deepmd_lite.data import Frame, load
from deepmd_lite.data.ase_files import read_ase_file
from deepmd_lite.data.dft_output import check_steps, code_of, converged, other_readers
from deepmd_lite.system import InputError


def frames(n, **changes):
    """Of one argon atom, each in a place of its own."""
    return [
        Frame(
            symbols=("Ar",),
            positions=np.full((1, 3), 0.1 * k),
            cell=5.0 * np.eye(3),
            pbc=np.ones(3, dtype=bool),
            energy=-1.0 - k,
            forces=np.zeros((1, 3)),
            source=f"out, frame {k}",
            **changes,
        )
        for k in range(n)
    ]


def vasp(*iterations, version=5):
    """Marks of an OUTCAR with 4 iterations at most; a negative number says that it failed."""
    text = f" vasp.{version}.4.4 18Apr17\n   NELM   =      4;   NELMIN=  2; NELMDL= -5\n"
    for step, n in enumerate(iterations, 1):
        for k in range(1, abs(n) + 1):
            text += f"----- Iteration {step:6d}({k:4d})  ----\n  free energy    TOTEN  =  -1.0 eV\n"
        why = "EDIFF was not reached (unconverged)" if n < 0 else "because EDIFF is reached"
        text += f"------ aborting loop {why} ------\n  free  energy   TOTEN  =  -1.0 eV\n"
    return text


def vasprun(*iterations):
    scstep = "<scstep>\n"
    steps = "".join(f"<calculation>\n{scstep * n}</calculation>\n" for n in iterations)
    return (
        ' <i name="program" type="string">vasp </i>\n'
        f'   <i type="int" name="NELM">     4</i>\n{steps}'
    )


def of_lines(head, good, bad, energy):
    """Text of three steps, the second of which fails."""
    return "\n".join([head, good, energy, bad, energy, good, energy, ""])


QE = of_lines(
    "     Program PWSCF v.7.2 starts on  8Jan2026",
    "     convergence has been achieved in   3 iterations",
    "     convergence NOT achieved after 100 iterations: stopping",
    "!    total energy              =     -15.8 Ry",
)
CP2K = of_lines(
    " CP2K| version string:                       CP2K version 2024.1",
    "  *** SCF run converged in    12 steps ***",
    "  *** WARNING in qs_scf.F:598 :: SCF run NOT converged ***",
    " ENERGY| Total FORCE_EVAL ( QS ) energy [a.u.]:   -34.7",
)
SIESTA = of_lines(
    "Siesta Version: siesta-4.1",
    "SCF cycle converged after 21 iterations",
    "SCF_NOT_CONV: SCF did not converge in maximum number of steps.",
    "siesta: E_KS(eV) =             -466.9",
)
ORCA = """                       * O   R   C   A *
FINAL SINGLE POINT ENERGY       -76.1
FINAL SINGLE POINT ENERGY (Wavefunction not fully converged!)   -76.0
FINAL SINGLE POINT ENERGY       -76.2
"""


@pytest.mark.parametrize(
    "text",
    [vasp(3, 4, 2), vasp(3, -4, 2, version=6), vasprun(3, 4, 2), QE, CP2K, SIESTA, ORCA],
    ids=["vasp5", "vasp6", "vasprun", "qe", "cp2k", "siesta", "orca"],
)
def test_steps_that_did_not_converge_are_left_out(tmp_path, text):
    path = tmp_path / "out"
    path.write_text(text)
    code = code_of(path)
    kept, notes = converged(frames(3), path, code)
    assert [f.source for f in kept] == ["out, frame 0", "out, frame 2"]
    assert notes == ["frames left out because their electrons did not converge: 1"]
    kept, notes = converged(frames(2), path, code, left_out=True)
    assert len(kept) == 2
    assert notes == ["steps left out because their electrons did not converge: 1"]
    kept, (note, count) = converged(frames(2), path, code)  # the third may be lacking
    assert len(kept) == 2
    assert note.endswith("cannot be told: look at the file")
    assert count == "the file has 3 energies; frames read: 2"


@pytest.mark.parametrize("text", [vasp(3, 2), vasp(4, 4).replace("NELM   =      4", "NELM   = 1")])
def test_nothing_is_said_where_nothing_is_wrong(tmp_path, text):
    (tmp_path / "OUTCAR").write_text(text)
    kept, notes = converged(frames(2), tmp_path / "OUTCAR", code_of(tmp_path / "OUTCAR"))
    assert (len(kept), notes) == (2, [])


def test_an_output_without_a_converged_step_is_refused(tmp_path):
    path = tmp_path / "OUTCAR"
    path.write_text(vasp(4, 4))
    for n in (0, 2):
        with pytest.raises(InputError, match=r"OUTCAR: the electrons did not converge in any step"):
            converged(frames(n), path, code_of(path))


def test_energies_beside_the_frames(tmp_path):
    path = tmp_path / "x.castep"
    path.write_text(
        " | Welcome to Academic Release CASTEP version 16.1 |\n"
        "Final energy, E             =  -10.0     eV\n" * 3
    )
    assert converged(frames(1), path, code_of(path))[1] == [
        "the file has 3 energies; frames read: 1"
    ]
    with path.open("a") as file:
        file.write("*Warning* max. SCF cycles performed but system has not reached the groundstate")
    kept, (note, _) = converged(frames(1), path, code_of(path))
    assert len(kept) == 1  # it may have been another step
    assert "as CASTEP says: 1; which frames they are cannot be told" in note


def test_other_files_are_no_output(tmp_path):
    path = tmp_path / "a.extxyz"
    path.write_text("1\nenergy=1\nAr 0 0 0\n")
    assert code_of(path) is None
    assert code_of(tmp_path) is None
    assert other_readers(None) == ""


def test_readers_that_mix_up_steps(tmp_path):
    path = tmp_path / "aims.out"
    path.write_text("          Invoking FHI-aims ...\n")
    code = code_of(path)
    check_steps(frames(4), code)
    lost = frames(4)
    lost[3].pbc = np.zeros(3, dtype=bool)
    with pytest.raises(InputError, match=r"frame 3: has another periodicity .*--from fhi_aims/md"):
        check_steps(lost, code)
    back = frames(4)
    back[3].positions = back[0].positions.copy()
    with pytest.raises(InputError, match="frame 3: has the positions of frame 0 and other labels"):
        check_steps(back, code)
    back[3].energy = back[0].energy  # a second run from the same beginning
    check_steps(back, code)
    final = frames(4)
    final[3].positions = final[2].positions.copy()  # once more, with the basis of the last cell
    check_steps(final, code)


def test_what_ase_does_not_read(tmp_path):
    (tmp_path / "a.out").write_text(CP2K)
    with pytest.raises(InputError, match=r"a\.out: .*CP2K: try dpl convert-data with --from cp2k"):
        read_ase_file(tmp_path / "a.out")
    (tmp_path / "b.out").write_text("     Program PWSCF v.7.2 starts\n")
    with pytest.raises(InputError, match=r"no frames: ASE finds none, reading it as espresso-out;"):
        read_ase_file(tmp_path / "b.out")
    (tmp_path / "siesta.output").write_text(SIESTA)
    with pytest.raises(InputError, match=r"does not know this format .*--from siesta/output or"):
        load(tmp_path / "siesta.output")
    (tmp_path / "OUTCAR").write_text(vasp(2))
    with pytest.raises(InputError, match=r"OUTCAR: ASE cannot read it as vasp-out: "):
        read_ase_file(tmp_path / "OUTCAR")  # it reads all frames before it yields the first


# --- a vasprun.xml of one step under pressure -------------------------------------------------

VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <generator><i name="program" type="string">vasp </i></generator>
 <kpoints><varray name="kpointlist"><v> 0.0 0.0 0.0 </v></varray>
 <varray name="weights"><v> 1.0 </v></varray></kpoints>
 <parameters><i type="int" name="NELM">    60</i><i name="PSTRESS">    100.0</i></parameters>
 <atominfo><array name="atoms"><set><rc><c>Si</c><c>1</c></rc></set></array></atominfo>
 <structure name="initialpos"><crystal><varray name="basis">
  <v> 4 0 0 </v><v> 0 5 0 </v><v> 0 0 6 </v></varray></crystal>
  <varray name="positions"><v> 0 0 0 </v></varray></structure>
 <calculation>
  <scstep>
   <energy><i name="e_fr_energy"> -10.5 </i><i name="e_0_energy"> -10.5 </i></energy>
  </scstep>
  <structure><crystal><varray name="basis">
   <v> 4 0 0 </v><v> 0 5 0 </v><v> 0 0 6 </v></varray></crystal>
   <varray name="positions"><v> 0 0 0 </v></varray></structure>
  <varray name="forces"><v> 0.5 0.25 0 </v></varray>
  <energy><i name="e_fr_energy"> ENTHALPY </i></energy>
 </calculation>
</modeling>
"""


def test_the_energy_of_a_vasprun_under_pressure_is_no_enthalpy(tmp_path, caplog):
    caplog.set_level("INFO")
    enthalpy = -10.5 + 120.0 * 100.0 / 1602.1766208
    path = tmp_path / "run.xml"
    path.write_text(VASPRUN.replace("ENTHALPY", f"{enthalpy:.8f}"))
    argv = ["convert-data", str(path), str(tmp_path / "a.extxyz"), "--from", "vasp/xml"]
    assert main(argv) == 0
    (frame,) = load(tmp_path / "a.extxyz")[0].frames
    assert frame.energy == pytest.approx(-10.5, abs=1e-5)
    assert f"note: {path}: read by ASE: dpdata takes the enthalpy" in caplog.text
